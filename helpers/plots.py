"""The course's figures. Each says which recipe, data and seed it shows, and where it was measured."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.augmentation import augment, compose
from helpers.data import Data
from helpers.evaluation import LOSSES
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_atomically
from helpers.recipes import Plateau, Recipe
from helpers.runs import RangeTest, Run
from helpers.schedules import plateau_lrs, triangular

# After Okabe & Ito's colours, which people with any colour vision tell apart, their blue lightened so that it reads
# on dark pages as well as on white ones. The same thing always has the same colour.
COLOURS = {"train": "#1B7FC0", "val": "#009E73", "test": "#D55E00", "lr": "#1B7FC0", "momentum": "#CC79A7"}
RUN_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00")  # one for each compared run
NAMES = {"train": "training", "val": "validation", "test": "test"}
GREY = "#777777"
MOST_CLASSES = 30  # what a figure can show by name
NOTED = "#CF4520"  # titles of what is no plain result

plt.rcParams.update(
    {
        "figure.dpi": 100,
        "savefig.dpi": 150,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.titlesize": 11,
        "lines.linewidth": 1.8,
    }
)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, whole or not at all, and close it."""
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)
    return path


def _label(figure: Figure, title: str, provenance: str = "", notes: Sequence[str] = ()) -> Figure:
    """The title above, under it what a reader must not overlook, and below where it was measured."""
    width = int(figure.get_figwidth() * 12)
    lines = [line for note in notes for line in textwrap.wrap(note, width)]
    style = {"fontsize": 10, "color": NOTED} if lines else {"fontsize": 11}
    text = "\n".join((title, *lines)).replace("$", r"\$")
    figure.suptitle(text, fontweight="bold", x=0.01, ha="left", **style)
    if provenance:
        figure.supxlabel(provenance, fontsize=7, color=GREY, x=0.99, ha="right")
    return figure


def label_run(figure: Figure, run: Run, subtitle: str = "") -> Figure:
    """What every figure of a run says: the run, what is shown, what a reader must not overlook, the machine."""
    title = "\n".join((run.title, *textwrap.wrap(subtitle, int(figure.get_figwidth() * 11))))
    return _label(figure, title, run.provenance, run.config["notes"])


def _write(ax: Axes, text: str, at: tuple, dx: float = 0, dy: float = 0, **style) -> None:
    """Text beside a point of the data, `dx` and `dy` typographic points away from it."""
    text = text.replace("$", r"\$")  # no formula, also in a class's name
    ax.annotate(text, at, xytext=(dx, dy), textcoords="offset points", **{"fontsize": 9, **style})


def plot_triangular(lr_min: float, lr_max: float, step_size: int, cycles: int = 2, found_by: str = "") -> Figure:
    """The triangular cyclic learning rate of Smith (2015), its two bounds as dashed lines, and what they come from."""
    iterations = np.linspace(0, 2 * step_size * cycles, 400 * cycles + 1)
    figure, ax = plt.subplots(figsize=(7, 3))
    ax.plot(iterations, triangular(iterations, step_size, lr_min, lr_max), color=COLOURS["lr"])
    for bound, name in ((lr_min, "LRMIN"), (lr_max, "LRMAX")):
        ax.axhline(bound, linestyle="--", color=GREY, linewidth=1)
        _write(ax, f"{name} {bound:g}", (1.01, bound), xycoords=("axes fraction", "data"), va="center", color=GREY)
    ax.set(xlabel="iteration", ylabel="learning rate", xlim=(0, iterations[-1]))
    ax.set_xticks(np.arange(0, 2 * cycles + 1) * step_size)
    title = f"Triangular cyclic learning rate · step size {step_size} iterations"
    return _label(figure, title, found_by and f"bounds: {found_by}")


def plot_range_test(result: RangeTest) -> Figure:
    """Loss against learning rate, with the two bounds of the rule and the library's suggestion."""
    lrs, losses = np.array(result.lrs), np.array(result.losses)
    figure, ax = plt.subplots(figsize=(8, 4.2))
    ax.plot(lrs, losses, color=COLOURS["train"])
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss (smoothed)")
    ax.axvspan(result.lr_min, result.lr_max, color=COLOURS["val"], alpha=0.12, linewidth=0)
    for name, lr, side, dx in (("LRMIN", result.lr_min, "right", -4), ("LRMAX", result.lr_max, "left", 4)):
        ax.axvline(lr, color=COLOURS["val"], linestyle="--", linewidth=1.2)
        top = {"xycoords": ("data", "axes fraction"), "ha": side, "va": "top"}
        _write(ax, f"{name}\n{lr:g}", (lr, 0.98), dx, **top, color=COLOURS["val"], fontweight="bold")
    if result.steepest is not None:
        loss = losses[np.argmin(np.abs(lrs - result.steepest))]
        ax.plot(result.steepest, loss, "o", color=COLOURS["test"])
        text = f"steepest slope {result.steepest:.2g}\n(torch-lr-finder)"
        _write(ax, text, (result.steepest, loss), 8, 8, fontsize=8, color=COLOURS["test"])
        ax.margins(y=0.15)
    return _label(figure, result.title, f"{result.ended} · {result.provenance}", result.notes)


def plot_schedule(run: Run) -> Figure:
    """Learning rate and momentum of every optimizer step of the run, as the optimizer had them."""
    run.check_begun()
    iteration, an_epoch = run.steps["step"] + 1, run.steps_per_epoch
    figure, ax = plt.subplots(figsize=(8, 3.4))
    ax.plot(iteration, run.steps["lr"], color=COLOURS["lr"])
    scale = "log" if isinstance(run.recipe.schedule, Plateau) else "linear"
    ax.set(xlabel=f"iteration, {an_epoch} an epoch", xlim=(0, run.recipe.epochs * an_epoch), yscale=scale)
    ax.set_ylabel("learning rate", color=COLOURS["lr"])
    lr, peak = run.steps["lr"], int(np.argmax(run.steps["lr"]))
    labels = [(0, 3, -12, "left"), (peak, 0, 5, "center"), (-1, 0, -12, "right")]
    if scale == "log":  # the start of the warm-up, its end, and every step down
        labels = [(step, 4, 6, "left") for step in dict.fromkeys((0, peak, *(np.flatnonzero(lr[1:] < lr[:-1]) + 1)))]
    for step, dx, dy, side in labels:
        _write(ax, f"{lr[step]:.3g}", (iteration[step], lr[step]), dx, dy, ha=side, color=COLOURS["lr"])
    ax.margins(y=0.15)
    momentum = run.steps["momentum"]
    if np.ptp(momentum) == 0:  # a second axis would only cross the curve
        corner = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
        _write(ax, f"momentum {momentum[0]:g}", (1, 1), -4, -4, **corner, color=COLOURS["momentum"])
    else:
        twin = ax.twinx()
        twin.plot(iteration, momentum, color=COLOURS["momentum"], linestyle="--", linewidth=1.3)
        twin.set_ylabel("momentum", color=COLOURS["momentum"])
        twin.grid(False)
        twin.spines["right"].set_visible(True)
    return label_run(figure, run)


def plot_curves(run: Run) -> Figure:
    """Loss and accuracy of training, held-out and test images, an epoch a point; dotted lines: the rate was reduced."""
    run.check_begun()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    epochs = run.history["epoch"]
    splits = [name for name in NAMES if np.isfinite(run.history[f"{name}_loss"]).any()]
    # Losses meet at the bottom, accuracies at the top: from there their labels are moved apart.
    kinds = (("loss", "loss", "{:.3f}", 1), ("acc", "accuracy (%)", "{:.2f} %", -1))
    for ax, (quantity, unit, form, away) in zip(axes, kinds, strict=True):
        last = {split: run.history[f"{split}_{quantity}"][-1] for split in splits}
        for split in splits:
            ax.plot(epochs, run.history[f"{split}_{quantity}"], color=COLOURS[split], marker="o", markersize=3)
        for epoch in epochs[run.reduced]:
            ax.axvline(epoch - 0.5, color=GREY, linestyle=":", linewidth=1)
        ax.set(xlabel="epoch", ylabel=unit)
        ax.xaxis.get_major_locator().set_params(integer=True)
        place, (low, high) = -np.inf, ax.get_ylim()
        for split in sorted(splits, key=lambda split: away * last[split]):
            place = max(away * (last[split] - low) / (high - low), place + 0.07)  # of the axes: the height of a label
            text = f"{NAMES[split]} {form.format(last[split])}"
            _write(ax, text, (1.01, away * place), xycoords="axes fraction", va="center", color=COLOURS[split])
    return label_run(figure, run)


def plot_comparison(runs: Sequence[Run]) -> Figure:
    """Training and validation accuracy of several runs (up to six) at each epoch; dots mark lower learning rates.

    Runs without validation images show the test accuracy in its place. Of long runs the first eighth, where accuracies
    are still far apart, may lie below the picture.
    """
    if not 1 <= len(runs) <= len(RUN_COLOURS):
        raise CourseError(f"From 1 to {len(RUN_COLOURS)} runs can be compared in a figure, not {len(runs)}.")
    for run in runs:
        run.check_begun()
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.8), sharey=True)
    titles, lowest = [run.title for run in runs], 100.0
    for run, colour in zip(runs, RUN_COLOURS[: len(runs)], strict=True):
        epochs, lower = run.history["epoch"], run.reduced
        held_out = "val" if np.isfinite(run.history["val_acc"]).any() else "test"
        name = run.title if titles.count(run.title) == 1 else f"{run.folder.parent.name}/{run.folder.name}"
        for ax, split in zip(axes, ("train", held_out), strict=True):
            values = run.history[f"{split}_acc"]
            label = f"{name}\n{NAMES[split]} {values[-1]:.2f} % after epoch {epochs[-1]:.0f}"
            ax.plot(epochs, values, color=colour, label=label.replace("$", r"\$"))
            ax.plot(epochs[lower], values[lower], "o", color=colour, markersize=4)
            lowest = min(lowest, values[len(values) // 8 :].min())
    for ax, name in zip(axes, ("training", "held-out images"), strict=True):
        ax.set(xlabel="epoch (dot: the first at a lower learning rate)", title=name)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)  # below: two curves leave no corner empty
    axes[0].set(ylabel="accuracy (%)", ylim=(max(0, lowest - 2), None))
    every = [note for note in runs[0].config["notes"] if all(note in run.config["notes"] for run in runs)]
    own = [f"{run.recipe.name}: {note}" for run in runs for note in run.config["notes"] if note not in every]
    names = " against ".join(dict.fromkeys(run.recipe.name for run in runs))
    return _label(figure, names, " | ".join(dict.fromkeys(run.provenance for run in runs)), [*every, *own])


def plot_plateau(plateau: Plateau, values: Sequence[float]) -> Figure:
    """What ReduceLROnPlateau makes of a made-up course of the monitored value, an epoch each.

    Above the values: those that improve are filled, the patience that runs out is shaded. Below the learning rate.
    """
    lrs, epochs = plateau_lrs(plateau, values), np.arange(1, len(values) + 1)
    drops = epochs[:-1][np.diff(lrs) < 0]  # the last epoch at the higher learning rate
    improved, best = np.zeros(len(values), dtype=bool), None
    for k, value in enumerate(values):  # torch's rule: by more than the threshold's part of the best
        margin = 0 if best is None else abs(best) * plateau.threshold
        if best is None or (value > best + margin if plateau.mode == "max" else value < best - margin):
            improved[k], best = True, value
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(2, 1))
    top.plot(epochs, values, color=COLOURS["val"], linewidth=1)
    for chosen, face in ((improved, COLOURS["val"]), (~improved, top.get_facecolor())):
        style = {"linestyle": "", "markerfacecolor": face, "markeredgecolor": COLOURS["val"]}
        top.plot(epochs[chosen], np.array(values)[chosen], marker="o", **style)
    bottom.step(epochs, lrs, where="mid", color=COLOURS["lr"])
    for drop in drops:
        top.axvspan(drop - plateau.patience - 0.5, drop + 0.5, color=GREY, alpha=0.15, linewidth=0)
        waited = f"{plateau.patience + 1} without\nimprovement"
        middle = (drop - plateau.patience / 2, 0.04)
        _write(top, waited, middle, xycoords=("data", "axes fraction"), ha="center", fontsize=8, color=GREY)
        _write(bottom, f"{lrs[drop]:.3g}", (drop + 1, lrs[drop]), 2, 5, color=COLOURS["lr"])
    _write(bottom, f"{lrs[0]:.3g}", (1, lrs[0]), 2, -12, color=COLOURS["lr"])
    top.set(ylabel=f"{plateau.monitor}, made up")
    bottom.set(ylabel="learning rate", yscale="log", xlabel="epoch")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    bottom.margins(y=0.25)
    title = f"ReduceLROnPlateau · {plateau.mode} · factor {plateau.factor:g} · patience {plateau.patience}"
    return _label(figure, title)


def plot_normalised_together(images: int = 4, channels: int = 6) -> Figure:
    """Which values share a mean and a variance: a cell is one channel of one image, with all its positions."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    image, channel = np.indices((images, channels))
    panels = ((channel, "BatchNorm: each channel, over the batch"), (image, "layer normalisation: each image"))
    for ax, (group, name) in zip(axes, panels, strict=True):
        ax.pcolormesh(group, cmap="Pastel1", vmin=0, vmax=8, edgecolor="white", linewidth=1.5)
        ax.invert_yaxis()
        ax.set(title=name, xlabel="channel", ylabel="image", aspect="equal")
        ax.set_xticks(np.arange(channels) + 0.5, np.arange(channels) + 1)
        ax.set_yticks(np.arange(images) + 0.5, np.arange(images) + 1)
        ax.grid(False)
    return _label(figure, "Cells of one colour are normalised with the same mean and variance")


def class_names(names: Sequence[str]) -> list[str]:
    """As matplotlib shows them: a dollar sign begins no formula."""
    return [name.replace("$", r"\$") for name in names]


def _confusion(run: Run) -> np.ndarray:
    run.check_finished()
    return np.array(run.summary["confusion_matrix"])


def plot_class_accuracy(run: Run) -> Figure:
    """The share of each class's test images that was classified correctly, the lowest first (30 at most).

    The lines reach one standard error, sqrt(p (1 - p) / n), to either side.
    """
    confusion, classes = _confusion(run), class_names(run.config["data"]["classes"])
    accuracy, images = run.class_accuracy, confusion.sum(axis=1)
    error = np.sqrt(accuracy * (100 - accuracy) / images)
    order = np.argsort(accuracy)[:MOST_CLASSES][::-1]  # drawn from below, so the lowest stands on top
    figure, ax = plt.subplots(figsize=(8, 0.3 * len(order) + 1.4))
    ax.errorbar(accuracy[order], range(len(order)), xerr=error[order], fmt="o", color=COLOURS["test"])
    ax.set_yticks(range(len(order)), [f"{classes[i]}  {accuracy[i]:.1f}" for i in order])
    overall = 100 * confusion.trace() / confusion.sum()
    ax.axvline(overall, color=GREY, linestyle="--", linewidth=1)
    _write(ax, f"all {overall:.2f}", (overall, 1.01), xycoords=("data", "axes fraction"), ha="center", color=GREY)
    ax.set(xlabel="test accuracy (%), with one standard error")
    return label_run(figure, run)


def plot_confusion_matrix(run: Run) -> Figure:
    """Counts of test images by actual class (rows) and predicted class (columns), written out up to 30 classes."""
    confusion, classes = _confusion(run), class_names(run.config["data"]["classes"])
    wrong = confusion - np.diag(confusion.diagonal())
    figure, ax = plt.subplots(figsize=(7.4, 6))
    few = len(classes) <= MOST_CLASSES
    scale = {"cmap": "Oranges", "cbar_kws": {"label": "misclassified images", "shrink": 0.8}}
    cells = {"annot": confusion if few else None, "fmt": "d", "linewidths": 0.5 if few else 0}
    sns.heatmap(wrong, square=True, ax=ax, xticklabels=classes, yticklabels=classes, **scale, **cells)
    ax.set(xlabel="predicted class", ylabel="actual class")
    ax.grid(False)
    return label_run(figure, run)


RUN_FIGURES = {  # by name: what it shows, and how it is drawn
    "curves": ("Loss and accuracy", plot_curves),
    "lr": ("Learning rate and momentum of every step", plot_schedule),
    "class_accuracy": ("Test accuracy of each class", plot_class_accuracy),
    "confusion_matrix": ("Confusion matrix", plot_confusion_matrix),
}


def save_run_figures(run: Run) -> list[Path]:
    """Write the figures of a finished run into its folder."""
    return [save(plot(run), run.folder / f"{name}.png") for name, (_, plot) in RUN_FIGURES.items()]


def show_image(ax: Axes, image: np.ndarray, title: str = "", **style) -> None:
    """One image, its pixels unblurred, without axes."""
    ax.imshow(image, interpolation="nearest", **style)
    ax.set_title(title, fontsize=9)
    ax.axis("off")


def plot_classes(data: Data) -> Figure:
    """The first training images of every class (of 30 at most)."""
    rows, per_class = min(len(data.classes), MOST_CLASSES), 8
    figure, axes = plt.subplots(rows, per_class, figsize=(per_class * 0.8 + 1, rows * 0.8 + 0.5))
    for label, name in enumerate(class_names(data.classes[:rows])):
        images = data.train.images[np.flatnonzero(data.train.labels == label)[:per_class]]
        for ax, image in zip(axes[label], images, strict=False):
            show_image(ax, image)
        for ax in axes[label][len(images) :]:
            ax.axis("off")
        axes[label][0].annotate(
            name, (-0.15, 0.5), xycoords="axes fraction", ha="right", va="center", annotation_clip=False
        )
    return _label(figure, f"{data.name} · training images", notes=data.notes)


def plot_augmentation(recipe: Recipe, data: Data, seed: int = 0, images: int = 4, draws: int = 7) -> Figure:
    """Training images (left) and what the recipe's augmentation makes of each in several draws."""
    figure, axes = plt.subplots(images, draws + 1, figsize=(draws + 1.4, images + 0.6), squeeze=False)
    chosen = np.random.default_rng(seed).choice(len(data.train), images, replace=False)
    pipeline = compose(recipe.augmentation, data.mean)
    for row, index in enumerate(chosen):
        image = data.train.images[index]
        drawn = augment(np.repeat(image[None], draws, axis=0), pipeline, (seed, row))
        for column, (ax, picture) in enumerate(zip(axes[row], [image, *drawn], strict=True)):
            title = ("original", "augmented")[column] if row == 0 and column < 2 else ""
            show_image(ax, picture, title)
    names = " → ".join(name for name, _ in recipe.augmentation) or "none"
    return _label(figure, f"Augmentation of {recipe.name} · {data.name} · seed {seed}\n{names}", notes=data.notes)


def plot_softmax_twice() -> Figure:
    """Cross-entropy of logits and of probabilities, as the correct class's logit passes that of one wrong class."""
    margin = torch.linspace(-10, 10, 201)
    logits = torch.full((len(margin), 10), -20.0)  # the other classes are out of the question
    logits[:, 0], logits[:, 1] = margin, 0
    labels = torch.zeros(len(margin), dtype=torch.long)
    figure, ax = plt.subplots(figsize=(7, 3.4))
    for name, colour in (("cross_entropy", COLOURS["train"]), ("cross_entropy_of_softmax", COLOURS["test"])):
        losses = LOSSES[name](logits, labels, reduction="none")
        ax.plot(margin, losses, color=colour)
        style = {"ha": "right", "color": colour, "fontweight": "bold"}
        _write(ax, f"{name} {losses[-1]:.3f}", (margin[-1], losses[-1]), 0, 6, **style)
    _write(ax, f"{losses[0]:.3f}", (margin[0], losses[0]), 4, 6, color=colour, fontweight="bold")
    ax.set(xlabel="logit of the correct class (one wrong class: 0, the other eight: -20)", ylabel="loss")
    ax.set(ylim=(0, None), xlim=(-10, 10))
    return _label(figure, "Cross-entropy after one softmax and after two, 10 classes")
