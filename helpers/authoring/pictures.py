"""The figures of the pages, each drawn twice: for light pages and for dark ones.

In its PNG's text fields a figure carries digests of what it was drawn from and of its pixels, so that a check needs
neither data nor weights and does not draw.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure
from PIL import Image, PngImagePlugin

from helpers.augmentation import normalise
from helpers.authoring.results import Results, demanded_accuracy
from helpers.data import Data
from helpers.figures import drawing, galleries, illustrations, plots
from helpers.gradcam import heatmaps
from helpers.plumbing.files import make_folder, write_atomically
from helpers.recipes import RECIPES
from helpers.runs import RangeTest, Run, load_model

PALETTE = 256  # colours of a chart's PNG, which makes it a third as large
# GitHub's dark page
DARK = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#0D1117") | {"grid.color": "#555555"}


@dataclass(frozen=True)
class Picture:
    """A figure of the pages. `draw` is None if it shows images and they are not at hand."""

    name: str  # of its file in images/, without .png
    alt: str
    source: object  # what decides what is seen, as JSON types: its digest tells a stale figure
    draw: Callable[[], Figure] | None
    photographs: bool = False  # they need more colours than a chart
    narrow: "Picture | None" = None  # takes its place on a phone

    @property
    def files(self) -> dict[str, bool]:
        """The names of its files, and whether they are for dark pages."""
        return {f"{self.name}.png": False, f"{self.name}-dark.png": True}

    @property
    def digest(self) -> str:
        return _digest(json.dumps(self.source, sort_keys=True, default=str).encode())

    def markdown(self, images: str) -> str:
        """HTML, as Markdown cannot choose by theme and width; `images`: the folder as the page sees it."""
        path, dark = f"{images}/{self.name}", "(prefers-color-scheme: dark)"
        sources = {dark: f"{path}-dark.png"}
        if self.narrow:
            phone = f"{images}/{self.narrow.name}"
            sources = {f"{dark} and (min-width: 601px)": f"{path}-dark.png"}
            sources |= {dark: f"{phone}-dark.png", "(max-width: 600px)": f"{phone}.png"}
        listed = "".join(f'<source media="{media}" srcset="{file}">' for media, file in sources.items())
        return f'<picture>{listed}<img alt="{self.alt}" src="{path}.png"></picture>'

    def save(self, path: Path, dark: bool) -> None:
        """Draw it into a PNG with the digests of its source and of its pixels."""
        buffer = io.BytesIO()
        with plots.plt.style.context(["dark_background", DARK] if dark else {}):
            figure = self.draw()
            figure.savefig(buffer, format="png")
            plots.plt.close(figure)
        image = Image.open(buffer).convert("RGB")
        if not self.photographs:
            image = image.quantize(PALETTE, method=Image.Quantize.MEDIANCUT)
        info = PngImagePlugin.PngInfo()
        info.add_text("source", self.digest)
        info.add_text("pixels", _digest(image.convert("RGB").tobytes()))
        make_folder(path.parent)
        write_atomically(path, lambda file: image.save(file, "PNG", pnginfo=info, optimize=True))

    def fault(self, path: Path) -> str:
        """Name what is wrong with its file; nothing if it is what `save` drew from the same source."""
        try:
            with Image.open(path) as image:
                text, pixels = image.text, _digest(image.convert("RGB").tobytes())
        except FileNotFoundError:
            return "is missing"
        except (OSError, AttributeError, SyntaxError) as error:
            return f"is damaged ({error})"
        if text.get("source") != self.digest:
            return "was drawn from other results"
        return "" if text.get("pixels") == pixels else "was changed after it was drawn"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def range_test_pictures(results: Results) -> list[Picture]:
    """Every range test's curve, and the triangular policy between its bounds."""
    pictures = []
    for name, test in results.range_tests.items():
        alt = f"Range test of {name}: loss against learning rate"
        pictures.append(Picture(f"{name}_lr_find", alt, asdict(test), partial(plots.plot_range_test, test)))
        images = test.settings["data"]["train_images"] - RECIPES[name].validation_images
        steps = 5 * math.ceil(images / RECIPES[name].batch_size)  # of five epochs
        bounds = {"lr_min": test.lr_min, "lr_max": test.lr_max, "step_size": steps, "found_by": test.title}
        alt = f"Triangular cyclic learning rate between {test.lr_min:g} and {test.lr_max:g}"
        pictures.append(Picture(f"{name}_triangular", alt, bounds, partial(illustrations.plot_triangular, **bounds)))
    return pictures


def run_pictures(run: Run) -> dict[str, Picture]:
    """Curves, learning rates, class accuracies and confusion matrix of a run, by the names in plots.RUN_FIGURES."""
    name, source = run.recipe.name, _source(run)
    return {
        kind: Picture(f"{name}_{kind}", f"{alt}: {run.title}", source, partial(plot, run))
        for kind, (alt, plot) in plots.RUN_FIGURES.items()
    }


def _source(run: Run) -> list:
    """All that a figure of a run is drawn from."""
    tables = [{key: column.tolist() for key, column in table.items()} for table in (run.history, run.steps)]
    return [run.config, run.summary, *tables]


def gallery_pictures(run: Run, data: Data | None) -> dict[str, Picture]:
    """Pictures of what a run with recorded weights got right and wrong, by the file names in galleries.PICTURES."""
    # Asked at most once, and only if a picture is stale: it predicts every test image.
    gallery = cache(lambda: galleries.make_gallery(run, data, load_model(run)))
    source, pictures = _gallery_source(run), {}
    for file, alt in galleries.PICTURES.items():
        draw = (lambda file=file: gallery()[0][file]()) if data else None
        name = f"{run.recipe.name}_{file.removesuffix('.png')}"
        pictures[file] = Picture(name, f"{alt}: {run.title}", source, draw, photographs=True)
    return pictures


def _gallery_source(run: Run) -> list:
    return [json.loads((run.folder / "gallery.json").read_text(encoding="utf-8")), run.summary["weights"]]


def front_picture(results: Results, data: Data | None) -> list[Picture]:
    """Find the learning rate, train, see the mistakes: the first recipe with a range test and recorded weights."""
    for run in results.with_weights:
        if test := results.range_tests.get(run.recipe.name):
            source = [asdict(test), _source(run), _gallery_source(run)]
            wide, narrow = (partial(_draw_front, test, run, data, rows) if data else None for rows in (1, 3))
            alt = f"Find the learning rates, train, see the mistakes: {run.title}"
            phone = Picture("front_phone", alt, source, narrow, photographs=True)
            return [Picture("front", alt, source, wide, photographs=True, narrow=phone)]
    return []


def _draw_front(test: RangeTest, run: Run, data: Data, rows: int) -> Figure:
    """Three panels, in one row or below each other."""
    figure = plots.plt.figure(figsize=(12, 3.6) if rows == 1 else (5, 10))
    find, train, look = figure.subfigures(rows, 3 // rows)
    titles = {find: "Find the learning rates", train: "Train", look: "See its mistakes"}
    for number, (panel, title) in enumerate(titles.items(), start=1):
        panel.suptitle(f"{number}  {title}", fontsize=13, fontweight="bold", x=0.02, ha="left")
    ax, style = find.subplots(), {"fontsize": 12, "fontweight": "bold", "loc": "right"}
    ax.plot(test.lrs, test.losses, color=drawing.ink(drawing.COLOURS["train"]))
    ax.axvspan(test.lr_min, test.lr_max, color=drawing.COLOURS["val"], alpha=0.15, linewidth=0)
    for bound in (test.lr_min, test.lr_max):  # the shade alone is lost on dark pages
        ax.axvline(bound, color=drawing.ink(drawing.COLOURS["val"]), linestyle="--", linewidth=1.2)
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss (smoothed)")
    ax.set_title(f"LRMIN {test.lr_min:g}, LRMAX {test.lr_max:g}", color=drawing.ink(drawing.COLOURS["val"]), **style)
    ax, accuracy, goal = train.subplots(), run.history["test_acc"], demanded_accuracy(run.recipe)
    ax.plot(run.history["epoch"], accuracy, color=drawing.ink(drawing.COLOURS["test"]))
    ax.axhline(goal or accuracy[-1], color=drawing.GREY, linestyle="--", linewidth=1)
    ax.set(xlabel="epoch", ylabel="test accuracy (%)")
    demanded = f" (demanded: {goal:g} %)" if goal else ""
    ax.set_title(f"{accuracy[-1]:.1f} %{demanded}", color=drawing.ink(drawing.COLOURS["test"]), **style)
    _draw_mistakes(look, run, data)
    return figure


def _draw_mistakes(panel: SubFigure, run: Run, data: Data) -> None:
    """Four of the most confident mistakes, of four classes, each beside its heatmap for the predicted class."""
    indices = np.array(_gallery_source(run)[0]["misclassified"])
    _, firsts = np.unique(data.test.labels[indices], return_index=True)
    indices, model, seen = indices[np.sort(firsts)[:4]], load_model(run), data.normalised_by(run.recipe)
    images, labels = data.test.images[indices], data.test.labels[indices]
    inputs = normalise(images, seen.mean, seen.std)
    predicted = model(inputs).argmax(dim=1).tolist()
    axes, heat = panel.subplots(2, 4).reshape(-1, 2), heatmaps(model, inputs, predicted)
    for k, (left, right) in enumerate(axes[: len(images)]):
        drawing.show_image(left, images[k], f"actual\n{data.classes[labels[k]]}")
        drawing.show_heat(right, images[k], heat[k], f"predicted\n{data.classes[predicted[k]]}")
        left.title.set_fontsize(10.5)
        right.title.set_fontsize(10.5)
    below = f"bright: speaks for the predicted class (GradCAM)\n{run.title}"
    panel.supxlabel(drawing.plain(below), fontsize=8, color=drawing.ink(drawing.GREY), x=0.02, ha="left")
