"""What the README shows of the recorded runs: tables, logs and figures, made from `results/` and checked against it.

`results/` holds one folder a run, named as the run folder was, with its text files. Between `<!-- report:NAME -->`
and `<!-- /report:NAME -->` the README belongs to this module, all else to its authors. Every figure carries, in its
PNG's text fields, digests of what it was drawn from and of its pixels, so that a check needs neither data nor weights
and does not draw.
"""

import hashlib
import io
import json
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin
from torchinfo import summary

from helpers import galleries, illustrations, plots
from helpers.data import CIFAR10_FINGERPRINT, SIZE, Data
from helpers.models import make_model
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import file_digest, make_folder, save_checkpoint, write_atomically, write_text
from helpers.plumbing.run_folder import compared, differences, write_summary
from helpers.recipes import RECIPES, Plateau, as_dict
from helpers.runs import RangeTest, Run, load_lr, load_model, load_run, swept_values
from helpers.settings import REPOSITORY

# Test accuracy in %, as others report it: for our own recipes the best public result that was found for the
# assignment, for the published ones what the solution itself reports.
REPORTED = {
    "custom_resnet": 93.36,
    "resnet18_batchnorm": 93.80,
    "resnet18_layernorm": 90.03,
    "published_s8_onecycle_sgd": 87.22,
    "published_s9_onecycle_adam": 90.63,
    "published_s10_plateau_sgd": 91.77,
    "published_s10_plateau_albumentations": 91.77,
    "published_s11_plateau_batchnorm": 84.50,
}
SHARED = ("config.json", "history.csv", "steps.csv", "train.log", "summary.json", "gallery.json", "lr_find.json")
PALETTE = 256  # colours of a chart's PNG, which makes it a third as large
# GitHub's dark page
DARK = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#0D1117") | {"grid.color": "#555555"}


@dataclass(frozen=True)
class Results:
    """The recorded runs of each recipe, in the order of their seeds, and its range test."""

    by_recipe: dict[str, list[Run]]
    range_tests: dict[str, RangeTest]

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.by_recipe.values() for run in runs]

    @property
    def first(self) -> list[Run]:
        """Of every recipe that was run, the run with the lowest seed."""
        return [runs[0] for runs in self.by_recipe.values() if runs]

    @property
    def with_weights(self) -> list[Run]:
        """Of every recipe of which a run's weights are recorded too, the first such run."""
        firsts = {}
        for run in self.runs:
            if "weights" in run.summary:
                firsts.setdefault(run.recipe.name, run)
        return list(firsts.values())


def load_results(root: Path = REPOSITORY) -> Results:
    """Read `results/`. Raises CourseError for a record that is damaged or no result, see `_check_result`."""
    by_recipe, range_tests = {name: [] for name in RECIPES}, {}
    for folder in sorted(path for path in (root / "results").glob("*") if path.is_dir()):
        if folder.name.endswith("-lr-find"):
            test = load_lr(folder / "lr_find.json")
            _check_range_test(test, folder)
            range_tests[test.settings["recipe"]["name"]] = test
            continue
        run = load_run(folder)
        _check_result(run)
        by_recipe[run.recipe.name].append(run)
    for runs in by_recipe.values():
        runs.sort(key=lambda run: run.config["seed"])
    return Results(by_recipe, range_tests)


def _check_result(run: Run) -> None:
    """Raises CourseError unless the run is finished, of today's recipe, every epoch of it, on full CIFAR-10."""
    run.check_finished()
    _check_data(run.config["data"]["fingerprint"], run.folder)
    if run.recipe != RECIPES.get(run.recipe.name):
        _refuse_other_recipe(run.folder, differences(run.recipe))


def _check_range_test(test: RangeTest, folder: Path) -> None:
    _check_data(test.settings["data"]["fingerprint"], folder)
    swept = swept_values(test.settings["recipe"])
    own = RECIPES.get(swept.get("name"))
    changes = compared(swept, swept_values(as_dict(own))) if own else []
    if own is None or changes:
        _refuse_other_recipe(folder, changes)


def _check_data(fingerprint: str, source: object) -> None:
    if fingerprint != CIFAR10_FINGERPRINT:
        raise CourseError(f"{source} is not of the complete CIFAR-10, as results have to be.")


def _refuse_other_recipe(folder: Path, changes: list[str]) -> None:
    changed = "; ".join(changes) or "none of its name"
    raise CourseError(
        f"{folder} is of another recipe than helpers/recipes.py has today ({changed}): train it again, or take it out "
        "of results/."
    )


def record(folder: Path, data: Data | None = None, root: Path = REPOSITORY) -> Path:
    """Copy the text files of a finished run or range test into `results/`. Returns their folder.

    With `data`, the complete CIFAR-10, its weights too, in half precision, with the digest of their file and the
    accuracy measured from it in `summary.json`, and the galleries that they give in `gallery.json`. What an earlier
    record of the same name held is gone. Raises CourseError if it is no result, see `_check_result`.
    """
    run = None
    if (folder / "lr_find.json").exists():
        _check_range_test(load_lr(folder / "lr_find.json"), folder)
    else:
        run = load_run(folder)
        _check_result(run)
        if data:
            _check_data(data.fingerprint, data.name)
    target = root / "results" / folder.name
    if folder.resolve().parent == target.parent.resolve():
        raise CourseError(f"{folder} is recorded already: name the folder that it was trained in.")
    best = run.checkpoint("best.pt") if data and run else None
    make_folder(target)
    for file in (*SHARED, "best.pt"):
        (target / file).unlink(missing_ok=True)
    for file in SHARED:
        if (folder / file).exists():
            write_text(target / file, (folder / file).read_text(encoding="utf-8"))
    if best:
        _record_weights(best, target, data)
    return target


def _record_weights(best: dict, target: Path, data: Data) -> None:
    best["model"] = {key: value.half() if value.is_floating_point() else value for key, value in best["model"].items()}
    save_checkpoint(target / "best.pt", best)
    run = load_run(target)
    gallery = galleries.make_gallery(run, data, load_model(run))
    write_text(target / "gallery.json", json.dumps(gallery.record) + "\n")
    weights = {
        "precision": "float16",
        "sha256": file_digest(target / "best.pt"),
        "test_acc": gallery.record["accuracy"],
    }
    write_summary(target, run.summary | {"weights": weights})


# --- What the README shows, block by block


def _results(results: Results) -> str:
    """The table of all recipes, those that were not run among them."""
    head = ("recipe", "parameters", "epochs", "seeds", "test accuracy", "flip averaging", "best epoch", "others report")
    rows = []
    for name, runs in results.by_recipe.items():
        recipe = RECIPES[name]
        parameters = f"{sum(weight.numel() for weight in make_model(recipe, 10).parameters()):,}"
        reported = f"{REPORTED[name]:.2f} %" if name in REPORTED else "–"
        if not runs:
            rows.append((f"`{name}`", parameters, recipe.epochs, "", "not run yet", "", "", reported))
            continue
        figures = [run.summary["reported"] for run in runs]
        flip = [row["test_acc_flip_averaging"] for row in figures if "test_acc_flip_averaging" in row]
        accuracy = f"**{_accuracy(runs)}**"
        best = _spread([run.summary["best_test_acc"] for run in runs])
        seeds = ", ".join(str(run.config["seed"]) for run in runs)
        averaged = _spread(flip) if flip else "–"
        rows.append((f"`{name}`", parameters, recipe.epochs, seeds, accuracy, averaged, best, reported))
    return _table(head, rows)


def _headline(results: Results) -> str:
    """What our own recipes reach, beside the best that others report; nothing if none was run."""
    told = [
        f"`{name}` **{_accuracy(runs)}** ({others:.2f} %)"
        for name, others in REPORTED.items()
        if not RECIPES[name].published and (runs := results.by_recipe[name])
    ]
    begin = "Test accuracy on CIFAR-10 (in brackets the best public solution that was found)"
    return f"{begin}: {', '.join(told)}. [All results](#results)" if told else ""


def _accuracy(runs: list[Run]) -> str:
    return _spread([run.summary["reported"]["test_acc"] for run in runs])


def _spread(values: list[float]) -> str:
    """The mean and the sample standard deviation; of fewer than three, which say little about a spread, each value."""
    if len(values) < 3:
        return f"{', '.join(f'{value:.2f}' for value in values)} %"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows] if rows else []
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _expect(results: Results) -> str:
    """What somebody who reruns a recipe may expect: the range over seeds, and the time on each measured device."""
    lines = []
    for name, runs in results.by_recipe.items():
        if runs:
            seen = _range([run.summary["reported"]["test_acc"] for run in runs], 2)
            over = f"over {len(runs)} seeds" if len(runs) > 1 else "with one seed, so the spread is not known yet"
            times = []
            for where in dict.fromkeys(run.provenance for run in runs):
                # The median, as other work, or a machine that slept, makes single epochs longer.
                epochs = [float(np.median(run.history["seconds"])) for run in runs if run.provenance == where]
                minutes = _range([seconds * RECIPES[name].epochs / 60 for seconds in epochs], 0)
                times.append(f"{minutes} minutes a run, at the {_range(epochs, 0)} s of its median epoch, on {where}")
            lines.append(f"- `{name}`: {seen} % {over}; {'; '.join(times)}.")
    missing = [f"`{name}`" for name, runs in results.by_recipe.items() if not runs]
    if missing:
        lines.append(f"- Not run at full length yet, on any device: {', '.join(missing)}.")
    return "\n".join(lines)


def _range(values: list[float], digits: int) -> str:
    """From the lowest to the highest; one of them if they do not differ."""
    return " to ".join(dict.fromkeys(f"{value:.{digits}f}" for value in (min(values), max(values))))


def _weights(run: Run) -> str:
    """What the recorded weights are good for, beside what the run itself reports."""
    rounded, in_run = (run.summary[part]["test_acc"] for part in ("weights", "reported"))
    return (
        "Drawn with the weights of this run rounded to half precision: "
        f"test accuracy {rounded:.2f} % with these, {in_run:.2f} % in the run."
    )


def _lr(results: Results) -> str:
    head = ("recipe", "seed", "LRMIN", "LRMAX", "steepest slope (torch-lr-finder)", "steps", "where")
    rows = []
    for name, test in results.range_tests.items():
        steepest = "–" if test.steepest is None else f"{test.steepest:.2g}"
        found, how = (f"{test.lr_min:g}", f"{test.lr_max:g}", steepest), test.settings
        rows.append((f"`{name}`", how["seed"], *found, how["steps"], test.provenance))
    return _table(head, rows)


def _classes(results: Results) -> str:
    head = ("class", *(f"`{run.recipe.name}`, seed {run.config['seed']}" for run in results.first))
    shares = [run.class_accuracy for run in results.first]
    names = results.first[0].config["data"]["classes"] if results.first else []
    return _table(head, [(name, *(f"{share[k]:.1f} %" for share in shares)) for k, name in enumerate(names)])


def _models(results: Results) -> str:
    networks = {(recipe.model, recipe.norm): recipe for recipe in reversed(RECIPES.values())}
    parts = []
    for recipe in (networks[key] for key in sorted(networks)):
        columns = {"col_names": ("output_size", "num_params"), "depth": 3, "row_settings": ("var_names",)}
        text = str(summary(make_model(recipe, 10), (1, 3, SIZE, SIZE), verbose=0, device="cpu", **columns))
        text = "\n".join(line.rstrip() for line in text.splitlines() if set(line) != {"="})
        parts.append(_folded(f"Model summary of <code>{recipe.name}</code>", text))
    return "\n\n".join(parts)


def _logs(results: Results) -> str:
    parts = []
    for run in results.runs:
        parts.append(_folded(f"Training log: {run.title}", run.log))
    return "\n\n".join(parts)


def _folded(title: str, text: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n```text\n{text.strip()}\n```\n\n</details>"


@dataclass(frozen=True)
class Shown:
    """A figure of the README. `draw` is None if it shows images and they are not at hand."""

    name: str  # of its file in images/, without .png
    alt: str
    source: object  # what decides what is seen, as JSON types: its digest tells a stale figure
    draw: Callable[[], Figure] | None
    photographs: bool = False  # they need more colours than a chart
    width: int | None = None  # on the page, in pixels; None: as wide as the page

    @property
    def files(self) -> dict[str, bool]:
        """The names of its files, and whether they are for dark pages."""
        return {f"{self.name}.png": False, f"{self.name}-dark.png": True}

    @property
    def digest(self) -> str:
        return _digest(json.dumps(self.source, sort_keys=True, default=str).encode())

    @property
    def markdown(self) -> str:
        image, width = f"images/{self.name}", f' width="{self.width}"' if self.width else ""
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{image}-dark.png">'
        return f'<picture>{dark}<img alt="{self.alt}" src="{image}.png"{width}></picture>'


def _lr_figures(results: Results) -> list[Shown]:
    shown = []
    for name, test in results.range_tests.items():
        alt = f"Range test of {name}: loss against learning rate"
        shown.append(Shown(f"{name}_lr_find", alt, asdict(test), partial(plots.plot_range_test, test)))
        images = test.settings["data"]["train_images"] - RECIPES[name].validation_images
        steps = 5 * math.ceil(images / RECIPES[name].batch_size)  # of five epochs
        bounds = {"lr_min": test.lr_min, "lr_max": test.lr_max, "step_size": steps, "found_by": test.title}
        alt = f"Triangular cyclic learning rate between {test.lr_min:g} and {test.lr_max:g}"
        shown.append(Shown(f"{name}_triangular", alt, bounds, partial(illustrations.plot_triangular, **bounds)))
    return shown


def _run_figures(run: Run) -> list[Shown]:
    name, source = run.recipe.name, _source(run)
    return [
        Shown(f"{name}_{kind}", f"{alt}: {run.title}", source, partial(plot, run))
        for kind, (alt, plot) in plots.RUN_FIGURES.items()
    ]


def _augmentation_figures(results: Results, data: Data | None) -> list[Shown]:
    shown, recorded = [], {run.recipe.name for run in results.runs}
    for name, recipe in RECIPES.items():
        if name in recorded and not recipe.published:
            alt = f"Training images, and what the augmentation of {name} makes of them"
            draw = partial(plots.plot_augmentation, recipe, data) if data else None
            shown.append(Shown(f"{name}_augmentation", alt, recipe.augmentation, draw, photographs=True))
    return shown


def _gallery_figures(run: Run, data: Data | None) -> list[Shown]:
    """Of a run whose weights are recorded too."""
    # Asked at most once, and only if a picture is stale: it predicts every test image.
    gallery = cache(lambda: galleries.make_gallery(run, data, load_model(run)))
    source = [json.loads((run.folder / "gallery.json").read_text(encoding="utf-8")), run.summary["weights"]]
    shown = []
    for file, alt in galleries.PICTURES.items():
        draw = (lambda file=file: gallery().figures[file]()) if data else None
        name = f"{run.recipe.name}_{file.removesuffix('.png')}"
        shown.append(Shown(name, f"{alt}: {run.title}", source, draw, photographs=True))
    return shown


def _source(run: Run) -> list:
    """All that a figure of a run is drawn from."""
    tables = [{key: column.tolist() for key, column in table.items()} for table in (run.history, run.steps)]
    return [run.config, run.summary, *tables]


def _plateau_figure() -> Shown:
    plateau = Plateau(lr=0.1, monitor="val_acc", factor=0.2, patience=2)
    values = [62, 74, 79, 82, 81.5, 83.6, 83.1, 83.4, 82.9, 89, 90.2, 90.1, 90.0, 90.15, 91.9, 92.2, 92.1, 92.3]
    alt = "A made-up monitored value that stalls twice, and the learning rate that is reduced each time"
    return Shown("plateau", alt, [asdict(plateau), values], partial(illustrations.plot_plateau, plateau, values))


def _titled(run: Run, parts: list[str | Shown]) -> list[str | Shown]:
    """A run's parts of the page: our own recipes' under a heading, the published ones' to be unfolded."""
    name, seed = run.recipe.name, run.config["seed"]
    if run.recipe.published:
        return [f"<details>\n<summary><code>{name}</code>, seed {seed}</summary>", *parts, "</details>"]
    return [f"#### `{name}`, seed {seed}", *parts]


def blocks(results: Results, data: Data | None = None) -> dict[str, list[str | Shown]]:
    """Of every block of the README its parts: Markdown texts and figures, in their order."""
    pictures = [(run, _gallery_figures(run, data)) for run in results.with_weights]
    top = [picture for _, shown in pictures for picture in shown if picture.name.endswith("_layers")][:1]
    return {
        "picture": [*(replace(picture, width=560) for picture in top), _headline(results)],
        "results": [_results(results), _expect(results)],
        "lr": [_lr(results), *_lr_figures(results)],
        "augmentation": _augmentation_figures(results, data),
        "runs": [
            *(part for run in results.first for part in _titled(run, _run_figures(run))),
            "#### Test accuracy of each class",
            _classes(results),
        ],
        "gallery": [
            part
            for run, shown in pictures
            for part in _titled(run, [_weights(run), *(picture for picture in shown if picture not in top)])
        ],
        "plateau": [_plateau_figure()],
        "models": [_models(results)],
        "logs": [_logs(results)],
    }


# --- Writing and checking it


def report(data: Data | None = None, root: Path = REPOSITORY) -> list[Path]:
    """Write the README's blocks and every figure in `images/` that is missing or stale. Returns what was written.

    Figures that show images are only drawn with `data`, the complete CIFAR-10. Raises CourseError if they are
    needed and not given, and for a README whose markers are damaged.
    """
    if data:
        _check_data(data.fingerprint, data.name)
    made = blocks(load_results(root), data)
    readme = root / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = _filled(old, made)
    files = [(root / "images" / file, shown, dark) for shown in _figures(made) for file, dark in shown.files.items()]
    stale = [(path, shown, dark) for path, shown, dark in files if _fault(path, shown)]
    photographs = [path.name for path, shown, _ in stale if shown.draw is None]
    if photographs:
        raise CourseError(f"Name the complete CIFAR-10 with --data: {', '.join(photographs)} show its images.")
    for path, shown, dark in stale:
        _save(shown, path, dark)
    written = [path for path, _, _ in stale]
    if new != old:
        write_text(readme, new)
        written.append(readme)
    for path in _left_over(root, made):
        path.unlink()
    return written


def check(root: Path = REPOSITORY) -> list[str]:
    """What does not match `results/`, a sentence each: blocks of the README, and figures."""
    made = blocks(load_results(root))
    old = (root / "README.md").read_text(encoding="utf-8")
    new = _filled(old, made)
    faults = []
    for there, here in zip(_sections(old), _sections(new), strict=True):
        if there != here:
            pairs = zip_longest(there[1].split("\n"), here[1].split("\n"), fillvalue="nothing")
            shown, recorded = next((a, b) for a, b in pairs if a != b)
            faults.append(f"README.md, block {here[0]}: it says {shown!r}, results/ {recorded!r}")
    for shown in _figures(made):
        paths = [root / "images" / file for file in shown.files]
        faults += [f"images/{path.name} {fault}" for path in paths if (fault := _fault(path, shown))]
    return faults + [f"images/{path.name} is shown nowhere" for path in _left_over(root, made)]


def _figures(made: dict[str, list[str | Shown]]) -> list[Shown]:
    return [part for parts in made.values() for part in parts if isinstance(part, Shown)]


SECTION = re.compile(r"<!-- report:(\w+) -->\n(.*?)<!-- /report:\1 -->", re.DOTALL)


def _sections(text: str) -> list[tuple[str, str]]:
    return SECTION.findall(text)


def _filled(text: str, made: dict[str, list[str | Shown]]) -> str:
    """The README with every block's content. Raises CourseError if a marker is missing, twice or unknown."""
    names = [name for name, _ in _sections(text)]
    if sorted(names) != sorted(made) or text.count("<!-- report:") != len(made):
        raise CourseError(
            f"README.md has to hold <!-- report:NAME --> and <!-- /report:NAME --> once for each of {', '.join(made)}; "
            f"it has them for {', '.join(names) or 'none'}."
        )
    contents = {
        name: "\n\n".join(part if isinstance(part, str) else part.markdown for part in parts)
        for name, parts in made.items()
    }
    return SECTION.sub(lambda m: f"<!-- report:{m[1]} -->\n{contents[m[1]]}\n<!-- /report:{m[1]} -->", text)


def _left_over(root: Path, made: dict[str, list[str | Shown]]) -> list[Path]:
    known = {file for shown in _figures(made) for file in shown.files}
    return [path for path in sorted((root / "images").glob("*.png")) if path.name not in known]


def _save(shown: Shown, path: Path, dark: bool) -> None:
    """Draw a figure into a PNG with the digests of its source and of its pixels."""
    buffer = io.BytesIO()
    with plots.plt.style.context(["dark_background", DARK] if dark else {}):
        figure = shown.draw()
        figure.savefig(buffer, format="png")
        plots.plt.close(figure)
    image = Image.open(buffer).convert("RGB")
    if not shown.photographs:
        image = image.quantize(PALETTE, method=Image.Quantize.MEDIANCUT)
    info = PngImagePlugin.PngInfo()
    info.add_text("source", shown.digest)
    info.add_text("pixels", _digest(image.convert("RGB").tobytes()))
    make_folder(path.parent)
    write_atomically(path, lambda file: image.save(file, "PNG", pnginfo=info, optimize=True))


def _fault(path: Path, shown: Shown) -> str:
    """What is wrong with a figure's file; nothing if it is what `report` drew from the same source."""
    try:
        with Image.open(path) as image:
            said, pixels = image.text, _digest(image.convert("RGB").tobytes())
    except FileNotFoundError:
        return "is missing"
    except (OSError, AttributeError, SyntaxError) as error:
        return f"is damaged ({error})"
    if said.get("source") != shown.digest:
        return "was drawn from other results"
    return "" if said.get("pixels") == pixels else "was changed after it was drawn"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
