"""What a run's network got right and wrong: images chosen by one rule, shown with GradCAM of the same images."""

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from helpers import plots
from helpers.augmentation import normalise
from helpers.data import Data
from helpers.evaluation import predict
from helpers.gradcam import check_method, heatmaps, map_sizes, pick_layer
from helpers.loaders import make_loader
from helpers.plumbing.devices import pick_device
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_text
from helpers.plumbing.run_folder import locked
from helpers.runs import Run

ORDERS = {
    "first": "in the order of the test set",
    "confident": "the most confident first",
    "per-class": "from each class in turn, the most confident first",
}
MOST = 100  # images in a figure
DPI = 80  # in a notebook, which such pictures would make heavy; files have more
PICTURES = {  # by file name: what it shows
    "correct.png": "Correctly classified test images",
    "misclassified.png": "Misclassified test images with actual and predicted class",
    "gradcam.png": "The same misclassified images with GradCAM heatmaps",
    "gradcam_correct.png": "The same correctly classified images with GradCAM heatmaps",
    "gradcam_layers.png": "GradCAM of every layer",
    "confused_pairs.png": "The pairs of classes most often confused",
}
TITLES = {"gradcam": "GradCAM", "gradcam++": "GradCAM++"}
HEAT = "dark is a map's minimum, bright its maximum; all dark: nothing speaks for the class."


@dataclass(frozen=True)
class Selection:
    """Test images and what the network made of them; all arrays (N,), in the order they are shown in."""

    indices: np.ndarray  # into data.test
    actual: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray  # softmax probability of the predicted class
    kind: str  # "misclassified", for instance
    available: int  # how many of that kind there are
    order: str = "first"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Selection":
        """Some of them, in the order of `chosen`."""
        parts = {name: getattr(self, name)[chosen] for name in ("indices", "actual", "predicted", "confidence")}
        return replace(self, **parts)

    @property
    def title(self) -> str:
        share = f"All {self.available:,}" if len(self) == self.available else f"{len(self)} of {self.available:,}"
        return f"{share} {self.kind} test images, {ORDERS[self.order]}"


def predict_test(run: Run, model: nn.Module, data: Data) -> Selection:
    """The prediction for every test image, in the test set's order.

    Raises CourseError for an unfinished run, and for other images than it was trained and measured with.
    """
    run.check_finished()
    theirs = run.config["data"]
    if theirs["fingerprint"] != data.fingerprint:
        raise CourseError(
            f"{run.folder.name} was trained on {_named(theirs)}, and these images are {_named(data.describe())}: "
            "choose the same with --data or COURSE_DATA."
        )
    device, data = pick_device(), data.normalised_by(run.recipe)
    loader = make_loader(data.test, data.mean, data.std, batch_size=500)
    logits, labels = predict(device.place(model), loader, device)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return Selection(np.arange(len(labels)), labels.numpy(), predicted.numpy(), confidence.numpy(), "", len(labels))


def _named(data: dict) -> str:
    return f"{data['name']} ({data['train_images']:,} + {data['test_images']:,} images, {data['fingerprint']})"


def select(predictions: Selection, *, correct: bool, count: int, order: str = "confident") -> Selection:
    """The first `count` correctly or wrongly classified images in an order of ORDERS, or as many as there are.

    Equally confident ones keep the order of the test set. Raises CourseError for an unknown order or a bad count.
    """
    if order not in ORDERS:
        raise CourseError(f"There is no order {order!r}: choose one of {', '.join(ORDERS)}.")
    if not 1 <= operator.index(count) <= MOST:
        raise CourseError(f"count has to be a whole number from 1 to {MOST}, not {count}.")
    found = np.flatnonzero((predictions.actual == predictions.predicted) == correct)
    ranked = found if order == "first" else _confident_first(predictions, found)
    if order == "per-class":
        labels = predictions.actual[ranked]
        turn = np.zeros(len(labels), dtype=int)
        for label in np.unique(labels):
            turn[labels == label] = np.arange(np.sum(labels == label))
        ranked = ranked[np.lexsort((labels, turn))]  # everyone's first by class, then everyone's second
    kind = "correctly classified" if correct else "misclassified"
    return replace(predictions[ranked[:count]], kind=kind, available=len(found), order=order)


def _confident_first(predictions: Selection, chosen: np.ndarray) -> np.ndarray:
    return chosen[np.argsort(-predictions.confidence[chosen], kind="stable")]


def confused_pairs(predictions: Selection, count: int) -> list[tuple[int, int, int]]:
    """The most frequent (actual, predicted, number of images), the most frequent first."""
    wrong = predictions[predictions.actual != predictions.predicted]
    pairs, numbers = np.unique(np.stack((wrong.actual, wrong.predicted), axis=1), axis=0, return_counts=True)
    ranked = np.argsort(-numbers, kind="stable")[:count]
    return [(int(pairs[k, 0]), int(pairs[k, 1]), int(numbers[k])) for k in ranked]


def _grid(
    selection: Selection, columns: int, panels: int, size: float, title_height: float
) -> tuple[Figure, np.ndarray]:
    """Axes (images, panels): `panels` pictures of each selected image, `columns` images a row, a gap between them."""
    if not len(selection):
        raise CourseError(f"There is nothing to show: no test image is {selection.kind}.")
    columns, gap = min(columns, len(selection)), panels > 1
    rows = -(-len(selection) // columns)
    widths = ([1] * panels + [0.12] * gap) * columns
    figsize = (sum(widths) * size, rows * (size + title_height) + 0.9)
    figure, axes = plt.subplots(rows, len(widths), figsize=figsize, squeeze=False, width_ratios=widths, dpi=DPI)
    for ax in axes.flat:
        ax.axis("off")
    return figure, axes.reshape(rows * columns, panels + gap)[:, :panels]


def plot_gallery(run: Run, data: Data, selection: Selection) -> Figure:
    """The selected test images, each titled "actual / predicted" class and the confidence of the prediction."""
    figure, axes = _grid(selection, 5, 1, 1.7, 0.45)
    names = _names(data)
    for k, index in enumerate(selection.indices):
        pair = f"{names[selection.actual[k]]} / {names[selection.predicted[k]]}"
        plots.show_image(axes[k][0], data.test.images[index], f"{pair}\n{_percent(selection.confidence[k])}")
        axes[k][0].title.set_fontsize(9 * min(1, 21 / len(pair)))  # no wider than the image
    return plots.label_run(figure, run, f"{selection.title}. Actual / predicted class, confidence.")


def _names(data: Data) -> list[str]:
    """The classes' names, cut where they would run into the next picture's title."""
    return plots.class_names([name if len(name) <= 16 else f"{name[:15]}…" for name in data.classes])


def _percent(confidence: float) -> str:
    return f"{100 * confidence:.1f} %"


def plot_gradcam(
    run: Run, data: Data, model: nn.Module, selection: Selection, layer: str | None = None, method: str = "gradcam"
) -> Figure:
    """Each selected image beside its heatmaps: what speaks for the predicted class, and what for the actual one.

    If all are classified correctly, that is one class and one heatmap.
    """
    classes = {"predicted": selection.predicted, "actual": selection.actual}
    if np.array_equal(*classes.values()):
        del classes["predicted"]
    figure, axes = _grid(selection, 4 - len(classes), 1 + len(classes), 1.25, 0.38)
    name, (height, width) = pick_layer(model, layer)
    images, inputs = _images(data.normalised_by(run.recipe), selection)
    heat = {kind: heatmaps(model, inputs, labels, name, method) for kind, labels in classes.items()}
    names = _names(data)
    for k, (first, *others) in enumerate(axes[: len(selection)]):
        plots.show_image(first, images[k], f"{_percent(selection.confidence[k])}\nconfident")
        for panel, kind in zip(others, classes, strict=True):
            _show_heat(panel, images[k], heat[kind][k], f"for {kind}\n{names[classes[kind][k]]}")
    where = f"{TITLES[method]} of {name}, {height}x{width} positions; {HEAT}"
    return plots.label_run(figure, run, f"{selection.title}. {where}")


def plot_gradcam_layers(
    run: Run, data: Data, model: nn.Module, selection: Selection, method: str = "gradcam"
) -> Figure:
    """The heatmaps of every layer for the predicted class: from fine and local to coarse and of a class."""
    sizes = map_sizes(model)
    figure, axes = _grid(selection, 1, 1 + len(sizes), 1.5, 0.4)
    images, inputs = _images(data.normalised_by(run.recipe), selection)
    names = _names(data)
    for k, (actual, predicted) in enumerate(zip(selection.actual, selection.predicted, strict=True)):
        plots.show_image(axes[k][0], images[k], f"{names[actual]}, taken\nfor {names[predicted]}")
    for column, (name, (height, width)) in enumerate(sizes.items(), start=1):
        for k, heat in enumerate(heatmaps(model, inputs, selection.predicted, name, method)):
            _show_heat(axes[k][column], images[k], heat, f"{name}\n{height}x{width}" if k == 0 else "")
    where = f"{TITLES[method]} of every layer, for the predicted class; {HEAT}"
    return plots.label_run(figure, run, f"{selection.title}. {where}")


def _images(data: Data, selection: Selection) -> tuple[np.ndarray, Tensor]:
    """The selected images as they are, and as the network sees them."""
    images = data.test.images[selection.indices]
    return images, normalise(images, data.mean, data.std)


def _show_heat(ax: Axes, image: np.ndarray, heat: np.ndarray, title: str) -> None:
    plots.show_image(ax, image.mean(axis=2), title, cmap="gray", vmin=0, vmax=255)
    ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="nearest")


def plot_confused_pairs(run: Run, data: Data, predictions: Selection, pairs: int = 4) -> Figure:
    """The pairs of classes most often confused, a row each, with the most confident of these mistakes."""
    found = confused_pairs(predictions, pairs)
    if not found:
        raise CourseError("There is nothing to show: every test image is classified correctly.")
    examples = 5
    figsize = 1.35 * examples + 1.8, 1.5 * len(found) + 0.9
    figure, axes = plt.subplots(len(found), examples, figsize=figsize, squeeze=False, dpi=DPI)
    names = _names(data)
    for row, (actual, predicted, number) in zip(axes, found, strict=True):
        those = np.flatnonzero((predictions.actual == actual) & (predictions.predicted == predicted))
        those = _confident_first(predictions, those)
        for ax in row:
            ax.axis("off")
        for ax, index in zip(row, those, strict=False):
            plots.show_image(ax, data.test.images[index], _percent(predictions.confidence[index]))
        text = f"{names[actual]} taken\nfor {names[predicted]}\n{number} images"
        style = {"xycoords": "axes fraction", "ha": "right", "va": "center", "annotation_clip": False}
        row[0].annotate(text, (-0.15, 0.5), fontsize=9, **style)
    return plots.label_run(figure, run, "The pairs most often confused, their most confident mistakes first.")


@dataclass(frozen=True)
class Gallery:
    """The pictures of a run, to be drawn on demand, and which test images they show, for `gallery.json`."""

    figures: dict[str, Callable[[], Figure]]  # by file name; one of which there is nothing to show is missing
    record: dict


def make_gallery(
    run: Run,
    data: Data,
    model: nn.Module,
    *,
    count: int | None = None,
    order: str | None = None,
    layer: str | None = None,
    method: str = "gradcam",
) -> Gallery:
    """Choose the images: `count` of a kind, by default as many as the assignment wants.

    Without an `order`, the most confident mistakes and, as the most confident correct answers are often all of one
    class, the correct ones of each class in turn.

    Raises CourseError if an argument is wrong, or if these are not the run's data.
    """
    name, size = pick_layer(model, layer)
    check_method(method)
    predictions = predict_test(run, model, data)
    count = run.recipe.about.gallery if count is None else count
    correct, wrong = (
        select(predictions, correct=kind, count=count, order=order or default)
        for kind, default in ((True, "per-class"), (False, "confident"))
    )
    figures = {}
    if len(correct):
        figures |= {
            "correct.png": lambda: plot_gallery(run, data, correct),
            "gradcam_correct.png": lambda: plot_gradcam(run, data, model, correct, name, method),
        }
    if len(wrong):
        figures |= {
            "misclassified.png": lambda: plot_gallery(run, data, wrong),
            "gradcam.png": lambda: plot_gradcam(run, data, model, wrong, name, method),
            "gradcam_layers.png": lambda: plot_gradcam_layers(run, data, model, wrong[:4], method),
            "confused_pairs.png": lambda: plot_confused_pairs(run, data, predictions),
        }
    record = {
        "correct": correct.indices.tolist(),
        "misclassified": wrong.indices.tolist(),
        "gradcam": wrong.indices.tolist(),
        "gradcam_correct": correct.indices.tolist(),
        "order": {"correct": correct.order, "misclassified": wrong.order},
        "layer": name,
        "map_size": size,
        "method": method,
        "accuracy": 100 * float(np.mean(predictions.actual == predictions.predicted)),
    }
    return Gallery(figures, record)


def save_gallery(run: Run, data: Data, model: nn.Module, **choice) -> list[Path]:
    """Write the pictures of a run, and `gallery.json`, which says what they show: indices into `data.test`.

    `choice`: as for `make_gallery`. A picture of which there is nothing to show is not written, and an older one of
    it removed. Raises CourseError before anything is written if an argument is wrong.
    """
    gallery = make_gallery(run, data, model, **choice)
    with locked(run.folder):
        for file in PICTURES:
            if file not in gallery.figures:
                (run.folder / file).unlink(missing_ok=True)
        paths = [plots.save(draw(), run.folder / file) for file, draw in gallery.figures.items()]
        write_text(run.folder / "gallery.json", json.dumps(gallery.record) + "\n")
    return paths
