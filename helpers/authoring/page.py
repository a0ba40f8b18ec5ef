"""The tables and texts of the pages, made from the recorded runs, page by page and block by block."""

import statistics

import numpy as np
from torchinfo import summary

from helpers.assignment.checklist import ASSIGNMENTS
from helpers.authoring import pictures
from helpers.authoring.pictures import Picture
from helpers.authoring.results import Results, demanded_accuracy
from helpers.data import SIZE, Data
from helpers.models import make_model
from helpers.recipes import RECIPES
from helpers.runs import Run

LOST = 0.01  # a class with a lower mean probability after the first steps is on its way out
FRONT = ("recipe", "test accuracy", "seeds", "demanded", "others, proven by a log")
DETAILS = ("recipe", "epochs", "seed", "test accuracy", "flip averaging", "best epoch")
Parts = list[str | Picture]


def pages(results: Results, data: Data | None = None) -> dict[str, dict[str, Parts]]:
    """The parts of every block of every page, in their order."""
    ours = {name: runs for name, runs in results.by_recipe.items() if not RECIPES[name].published}
    firsts = [runs[0] for runs in ours.values() if runs]
    galleries = {run.recipe.name: pictures.gallery_pictures(run, data) for run in results.with_weights}
    texts = {run.recipe.name: f"{_title(run)}\n\n{_weights(run)}" for run in results.with_weights}
    return {
        "README.md": {
            "front": pictures.front_picture(results, data),
            "results": [_results(ours, FRONT)],
            "assignments": [part for run in firsts for part in _assignment(run, galleries.get(run.recipe.name, {}))],
        },
        "results/README.md": {
            "results": [_results(ours, DETAILS)],
            "minutes": [_minutes(results)],
            "lr": [_range_tests(results), *pictures.range_test_pictures(results)],
            "runs": [part for run in firsts for part in (_title(run), *pictures.run_pictures(run).values())],
            "classes": [_classes(firsts)],
            "gallery": [part for name, shown in galleries.items() for part in (texts[name], *shown.values())],
            "models": _models(),
            "logs": [_table(("recipe", "logs"), [(f"`{name}`", _logs(r)) for name, r in results.by_recipe.items()])],
        },
        "results/PUBLISHED.md": {"published": _published(results, ours), "lost": [_lost_classes(results)]},
        "docs/grading.md": {"demands": _demands()},
    }


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows] if rows else []
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _spread(values: list[float]) -> str:
    """The mean and the sample standard deviation; fewer than three values, which tell little of it, are listed."""
    if not values:
        return "not run yet"
    if len(values) < 3:
        return f"{', '.join(f'{value:.2f}' for value in values)}\u00a0%"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %".replace(" ", "\u00a0")


def _range(values: list[float]) -> str:
    """From the lowest to the highest; one of them if they do not differ."""
    return " to ".join(dict.fromkeys(f"{value:.0f}" for value in (min(values), max(values))))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}\u00a0%"


def _accuracy(runs: list[Run], key: str = "test_acc") -> str:
    return _spread([run.summary["reported"][key] for run in runs if key in run.summary["reported"]])


def _last(runs: list[Run], column: str) -> str:
    return _spread([float(run.history[column][-1]) for run in runs])


def _logs(runs: list[Run]) -> str:
    return ", ".join(f"[seed {run.config['seed']}]({run.folder.name}/train.log)" for run in runs) or "not run yet"


def _title(run: Run) -> str:
    return f"### `{run.recipe.name}`, seed {run.config['seed']}"


def _results(ours: dict[str, list[Run]], columns: tuple[str, ...]) -> str:
    rows = []
    for name, runs in ours.items():
        recipe, accuracy = RECIPES[name], _accuracy(runs)
        claimed = f"<br>claimed: {_percent(recipe.about.claimed)}" if recipe.about.claimed else ""
        cells = {
            "recipe": f"`{name}`",
            "epochs": recipe.epochs,
            "seed": ", ".join(str(run.config["seed"]) for run in runs),
            "seeds": len(runs),
            "test accuracy": f"**{accuracy}**" if runs else accuracy,
            "flip averaging": _accuracy(runs, "test_acc_flip_averaging"),
            "best epoch": _spread([run.summary["best_test_acc"] for run in runs]),
            "demanded": _percent(demanded_accuracy(recipe)),
            "others, proven by a log": f"{_percent(recipe.about.others)}{claimed}",
        }
        rows.append(tuple(cells[column] for column in columns))
    return _table(columns, rows)


def _minutes(results: Results) -> str:
    """Device, runs, seconds an epoch (the median, as other work makes single ones longer) and minutes a run."""
    rows = []
    for name, runs in results.by_recipe.items():
        times = {}
        for run in runs:
            times.setdefault(run.provenance, []).append(float(np.median(run.history["seconds"])))
        for device, seconds in times.items():
            minutes = [value * RECIPES[name].epochs / 60 for value in seconds]
            rows.append((f"`{name}`", device, len(seconds), _range(seconds), _range(minutes)))
    return _table(("recipe", "device", "runs", "seconds an epoch", "minutes a run"), rows)


def _weights(run: Run) -> str:
    rounded, in_run = run.summary["weights"]["test_acc"], run.summary["reported"]["test_acc"]
    return (
        f"Drawn with its weights in half precision: {rounded:.2f} % with these, {in_run:.2f} % in the run. Counts may "
        "differ by an image or two from those of the confusion matrix."
    )


def _assignment(run: Run, gallery: dict[str, Picture]) -> Parts:
    """A run on the front page: curves, learning rates, mistakes, the whole log."""
    charts, log = pictures.run_pictures(run), _folded(f"Training log: {run.title}", run.log)
    mistakes = [gallery[file] for file in ("misclassified.png", "gradcam.png") if file in gallery]
    return [_title(run), charts["curves"], charts["lr"], *mistakes, log]


def _range_tests(results: Results) -> str:
    tests = results.range_tests.items()
    return "\n".join(f"- `{n}`: LRMIN **{t.lr_min:g}**, LRMAX **{t.lr_max:g}** ({t.provenance})" for n, t in tests)


def _classes(runs: list[Run]) -> str:
    head = ("class", *(f"`{run.recipe.name}`, seed {run.config['seed']}" for run in runs))
    names = runs[0].config["data"]["classes"] if runs else []
    shares = [[f"{share:.1f} %" if share else "**0.0 %, lost**" for share in run.class_accuracy] for run in runs]
    return _table(head, list(zip(names, *shares, strict=True)))


def _models() -> Parts:
    networks = {(recipe.model, recipe.norm): recipe for recipe in reversed(RECIPES.values())}
    parts = []
    for recipe in (networks[key] for key in sorted(networks)):
        columns = {"col_names": ("output_size", "num_params"), "depth": 3, "row_settings": ("var_names",)}
        text = str(summary(make_model(recipe, 10), (1, 3, SIZE, SIZE), verbose=0, device="cpu", **columns))
        text = "\n".join(line.rstrip() for line in text.splitlines() if set(line) != {"="})
        parts.append(_folded(f"Model summary of <code>{recipe.name}</code>", text))
    return parts


def _folded(title: str, text: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n```text\n{text.strip()}\n```\n\n</details>"


def _demands() -> Parts:
    return [f"`{name}`:\n\n" + "\n".join(f"- {text}" for text, _ in demands) for name, demands in ASSIGNMENTS.items()]


def _published(results: Results, ours: dict[str, list[Run]]) -> Parts:
    """By assignment: what was reported, what the same gives here, and ours, side by side; below, the first curves."""
    parts, published = [], [recipe for recipe in RECIPES.values() if recipe.published]
    for assignment in dict.fromkeys(recipe.about.assignment for recipe in published):
        names = [name for name, recipe in RECIPES.items() if recipe.about.assignment == assignment]
        names = [name for name in names if name not in ours] + [name for name in names if name in ours]
        rows = {}
        for name in names:
            about, runs = RECIPES[name].about, results.by_recipe[name]
            cells = {
                "run by": about.source or "this course",
                "not the same here": "; ".join(about.differs) or "–",
                "test accuracy, reported": _percent(about.others) if about.source else "–",
                "here, last epoch": f"**{_last(runs, 'test_acc')}**",
                "here, epoch best on test": _spread([run.summary["best_test_acc"] for run in runs]),
                "training accuracy, reported": _percent(about.others_train),
                "training accuracy here": _last(runs, "train_acc"),
                "classes lost": _lost(runs),
                "logs": _logs(runs),
            }
            for row, cell in cells.items():
                rows.setdefault(row, []).append(cell)
        head = ("", *(f"`{name}`" for name in names))
        parts += [f"## Assignment `{assignment}`", _table(head, [(row, *cells) for row, cells in rows.items()])]
        firsts = [runs[0] for name in names if name not in ours and (runs := results.by_recipe[name])]
        parts += [pictures.run_pictures(run)["curves"] for run in firsts]
    return parts


def _lost(runs: list[Run]) -> str:
    """The classes that no test image was taken for, by seed, with the accuracy on the other classes."""
    lost = []
    for run in runs:
        classes, share = run.config["data"]["classes"], run.class_accuracy
        gone = ", ".join(name for name, value in zip(classes, share, strict=True) if not value)
        if gone:
            lost.append(f"seed {run.config['seed']}: {gone}; {share[share > 0].mean():.1f} % on the others")
    return ". ".join(lost) or ("none" if runs else "not run yet")


def _lost_classes(results: Results) -> str:
    """Which classes are on their way out after the first steps, and after the whole first epoch, by seed."""
    first, epoch = _lost_by_seed(results.lost_classes), _lost_by_seed(results.lost_classes_epoch)
    rows = [
        (f"`{name}`", len(lost), "; ".join(lost), "; ".join(epoch.get(name, ["not run yet"])))
        for name, lost in first.items()
    ]
    head = ("recipe", "seeds", "classes below 1 % after 40 steps, by seed", "below 1 % after the first epoch")
    return _table(head, rows) or "Not run yet."


def _lost_by_seed(rows: tuple[dict[str, str], ...]) -> dict[str, list[str]]:
    by_recipe = {}
    for row in rows:
        chances = [(key, value) for key, value in row.items() if key not in ("recipe", "seed", "provenance")]
        gone = ", ".join(name for name, chance in chances if float(chance) < LOST)
        by_recipe.setdefault(row["recipe"], []).append(f"{row['seed']}: {gone or 'none'}")
    return by_recipe
