"""Pictures of what a run's network got right and wrong, with GradCAM of the same images."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor, nn

from helpers.augmentation import normalise
from helpers.data import Data
from helpers.figures import drawing
from helpers.gradcam import heatmaps, map_sizes, pick_layer
from helpers.plumbing.files import write_text
from helpers.plumbing.run_folder import locked
from helpers.predictions import Selection, confident_first, confused_pairs, predict_test, select
from helpers.runs import Run

DPI = 80  # in a notebook, which such pictures would make heavy; files have more
PICTURES = {  # by file name: what it shows
    "correct.png": "Correctly classified test images",
    "misclassified.png": "Misclassified test images with actual and predicted class",
    "gradcam.png": "The same misclassified images with GradCAM heatmaps",
    "gradcam_correct.png": "The same correctly classified images with GradCAM heatmaps",
    "gradcam_layers.png": "GradCAM of every layer",
    "confused_pairs.png": "The pairs of classes most often confused",
}
NAME = 16  # letters of a class's name that fit above a picture


def _grid(images: int, columns: int, panels: int, size: float, text: float) -> tuple[Figure, np.ndarray]:
    """Axes (images, panels): `panels` pictures of each image, `columns` images a row with gaps; inches of each."""
    columns, gap = min(columns, images), panels > 1
    rows, widths = -(-images // columns), ([1] * panels + [0.12] * gap) * columns
    figsize = (max(5, sum(widths) * size + 0.5 * gap), rows * (size + text) + 0.9)
    figure, axes = plt.subplots(rows, len(widths), figsize=figsize, squeeze=False, width_ratios=widths, dpi=DPI)
    for ax in axes.flat:
        ax.axis("off")
    return figure, axes.reshape(rows * columns, panels + gap)[:, :panels]


def plot_gallery(run: Run, data: Data, selection: Selection) -> Figure:
    """The selected test images, each titled "actual / predicted" class and the confidence of the prediction."""
    figure, axes = _grid(len(selection), 5, 1, 1.7, 0.45)
    names = drawing.class_names(data.classes, NAME)
    for k, index in enumerate(selection.indices):
        pair = names[selection.actual[k]], names[selection.predicted[k]]
        pair = (" / " if len("".join(pair)) <= 18 else " /\n").join(pair)  # no wider than the image
        drawing.show_image(axes[k][0], data.test.images[index], f"{pair}\n{_percent(selection.confidence[k])}")
    return drawing.label_run(figure, run, f"{selection.title} (actual / predicted class, confidence)")


def _percent(confidence: float) -> str:
    return f"{100 * confidence:.1f} %"


def plot_gradcam(run: Run, data: Data, model: nn.Module, selection: Selection, layer: str | None = None) -> Figure:
    """Each selected image beside its heatmaps: what speaks for the predicted class, and what for the actual one.

    If all are classified correctly, that is one class and one heatmap.
    """
    classes = {"for predicted": selection.predicted, "for actual": selection.actual}
    if np.array_equal(*classes.values()):
        classes = {"for class": selection.actual}
    figure, axes = _grid(len(selection), 4 - len(classes), 1 + len(classes), 1.25, 0.3)
    name, (height, width) = pick_layer(model, layer)
    images, inputs = _images(data.normalised_by(run.recipe), selection)
    heat = {kind: heatmaps(model, inputs, labels, name) for kind, labels in classes.items()}
    names = drawing.class_names(data.classes, NAME)
    for k, (first, *others) in enumerate(axes[: len(selection)]):
        top = k < 4 - len(classes)  # the columns are labelled once
        drawing.show_image(first, images[k], "confidence\n" * top + _percent(selection.confidence[k]))
        for panel, kind in zip(others, classes, strict=True):
            drawing.show_heat(panel, images[k], heat[kind][k], f"{kind}\n" * top + names[classes[kind][k]])
    _heat_bar(figure)
    return drawing.label_run(figure, run, f"GradCAM of {name} ({height}x{width}). {selection.title}")


def plot_gradcam_layers(run: Run, data: Data, model: nn.Module, selection: Selection) -> Figure:
    """The heatmaps of every layer for the predicted class: from fine and local to coarse and of a class.

    Of a network with more than six, the last of every size.
    """
    sizes = map_sizes(model)
    if len(sizes) > 6:
        last = {size: name for name, size in sizes.items()}
        sizes = {name: size for size, name in last.items()}
    figure, axes = _grid(len(selection), 1, 1 + len(sizes), 1.5, 0.4)
    images, inputs = _images(data.normalised_by(run.recipe), selection)
    names = drawing.class_names(data.classes, NAME)
    for k, (actual, predicted) in enumerate(zip(selection.actual, selection.predicted, strict=True)):
        wrong = f"{names[actual]}, taken\nfor {names[predicted]}"
        drawing.show_image(axes[k][0], images[k], wrong if actual != predicted else names[actual])
    for column, (name, (height, width)) in enumerate(sizes.items(), start=1):
        for k, heat in enumerate(heatmaps(model, inputs, selection.predicted, name)):
            drawing.show_heat(axes[k][column], images[k], heat, f"{name}\n{height}x{width}" if k == 0 else "")
    _heat_bar(figure)
    return drawing.label_run(figure, run, f"GradCAM of every layer, for the predicted class. {selection.title}")


def _images(data: Data, selection: Selection) -> tuple[np.ndarray, Tensor]:
    """The selected images as they are, and as the network sees them."""
    images = data.test.images[selection.indices]
    return images, normalise(images, data.mean, data.std)


def _heat_bar(figure: Figure) -> None:
    """One small colour bar for all heatmaps; a map that is dark all over has nothing that speaks for the class."""
    place = {"location": "bottom", "anchor": (1, 1), "shrink": 0.25, "aspect": 20, "pad": 0.02}
    bar = figure.colorbar(ScalarMappable(cmap="inferno"), ax=figure.axes, **place)
    bar.set_ticks([0, 1], labels=["nothing", "most"], fontsize=8)
    bar.set_label("speaks for the class, map by map", fontsize=8)


def plot_confused_pairs(run: Run, data: Data, predictions: Selection, pairs: int = 4) -> Figure:
    """The pairs of classes most often confused, a row each, with the most confident of these mistakes."""
    found = confused_pairs(predictions, pairs)
    if not found:
        figure, ax = plt.subplots(figsize=(6, 0.8))  # notebooks show no figure without axes
        ax.set_axis_off()
        return drawing.label_run(figure, run, "Every test image is classified correctly")
    examples = 5
    figsize = 1.35 * examples + 1.8, 1.5 * len(found) + 0.9
    figure, axes = plt.subplots(len(found), examples, figsize=figsize, squeeze=False, dpi=DPI)
    names = drawing.class_names(data.classes, NAME)
    for row, (actual, predicted, number) in zip(axes, found, strict=True):
        mistakes = np.flatnonzero((predictions.actual == actual) & (predictions.predicted == predicted))
        for ax in row:
            ax.axis("off")
        for ax, index in zip(row, confident_first(predictions, mistakes), strict=False):
            drawing.show_image(ax, data.test.images[index], _percent(predictions.confidence[index]))
        text = f"{names[actual]} taken\nfor {names[predicted]}\n{number} image{'s' * (number > 1)}"
        drawing.write_left(row[0], text)
    title = "The most frequent confusions, and the most confident of these mistakes (confidence)"
    return drawing.label_run(figure, run, title)


def make_gallery(
    run: Run, data: Data, model: nn.Module, count: int | None = None
) -> tuple[dict[str, Callable[[], Figure]], dict]:
    """The pictures of a run by file name, to be drawn on demand, and the record of what they show, `gallery.json`.

    `count` images of a kind, by default as many as the assignment wants. A picture that would show nothing is missing.
    Raises CourseError for a bad count, or other data than the run's.
    """
    count = run.recipe.about.gallery if count is None else count
    name, size = pick_layer(model)
    predictions = predict_test(run, model, data)
    accuracy = 100 * float(np.mean(predictions.actual == predictions.predicted))
    figures, record = {}, {"layer": name, "map_size": size, "method": "gradcam", "accuracy": accuracy}
    for kind, explained in (("correct", "gradcam_correct"), ("misclassified", "gradcam")):
        chosen = select(predictions, correct=kind == "correct", count=count)
        record |= dict.fromkeys((kind, explained), [] if chosen.missing else chosen.indices.tolist())
        if not chosen.missing:
            figures[f"{kind}.png"] = partial(plot_gallery, run, data, chosen)
            figures[f"{explained}.png"] = partial(plot_gradcam, run, data, model, chosen, name)
    if record["misclassified"]:  # `chosen` are these
        figures["gradcam_layers.png"] = partial(plot_gradcam_layers, run, data, model, chosen[:4])
        figures["confused_pairs.png"] = partial(plot_confused_pairs, run, data, predictions)
    return figures, record


def save_gallery(run: Run, data: Data, model: nn.Module, count: int | None = None) -> list[Path]:
    """Write the pictures of a run, and `gallery.json`, which says what they show: indices into `data.test`.

    A picture that would show nothing is not written, and an older file of it is removed.
    """
    figures, record = make_gallery(run, data, model, count)
    with locked(run.folder):
        for file in PICTURES.keys() - figures.keys():
            (run.folder / file).unlink(missing_ok=True)
        paths = [drawing.save(draw(), run.folder / file) for file, draw in figures.items()]
        write_text(run.folder / "gallery.json", json.dumps(record) + "\n")
    return paths
