"""Figures of runs, range tests and data. A title says what is seen, computed from the run, which stands below it."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.augmentation import augment, compose
from helpers.data import Data, demo_mark
from helpers.figures.drawing import (
    COLOURS,
    GREY,
    NAMES,
    RUN_COLOURS,
    class_names,
    ink,
    label,
    label_run,
    plain,
    save,
    show_image,
    write,
    write_left,
)
from helpers.plumbing.errors import CourseError
from helpers.recipes import Plateau, Recipe
from helpers.runs import STEPS, RangeTest, Run

MOST_CLASSES = 30  # whose counts a confusion matrix has room for


def plot_range_test(result: RangeTest) -> Figure:
    """Loss against learning rate, with the two bounds of the rule and the library's suggestion."""
    lrs, losses, colour = np.array(result.lrs), np.array(result.losses), ink(COLOURS["val"])
    figure, ax = plt.subplots(figsize=(8, 4.2))
    if result.raw:
        ax.plot(lrs, result.raw, ".", markersize=4, color=GREY, alpha=0.6)
    ax.plot(lrs, losses, color=ink(COLOURS["train"]))
    room = 0.15 * np.ptp(losses)
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss (smoothed)")
    ax.set_ylim(losses.min() - room, losses.max() + 2 * room)
    ax.axvspan(result.lr_min, result.lr_max, color=COLOURS["val"], alpha=0.12, linewidth=0)
    top = {"xycoords": ax.get_xaxis_transform(), "va": "top", "color": colour, "fontweight": "bold"}
    for name, lr, side, dx in (("LRMIN", result.lr_min, "right", -4), ("LRMAX", result.lr_max, "left", 4)):
        ax.axvline(lr, color=colour, linestyle="--", linewidth=1.2)
        write(ax, f"{name}\n{lr:g}", (lr, 0.98), dx, ha=side, **top)
    if result.steepest is not None:
        loss = losses[np.argmin(np.abs(lrs - result.steepest))]
        ax.plot(result.steepest, loss, "o", color=ink(COLOURS["test"]))
        text = f"steepest slope at {result.steepest:.2g}\n(torch-lr-finder)"
        free = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1}  # no curve strikes it through
        write(ax, text, (result.steepest, loss), 8, 8, fontsize=8, color=ink(COLOURS["test"]), bbox=free)
    title = f"Most of the first fall of the loss lies between learning rates {result.lr_min:g} and {result.lr_max:g}"
    below = f"{result.title} · {result.ended} · {result.provenance}"
    data, steps = result.settings["data"], result.settings["steps"]
    return label(figure, title, below, demo_mark(data.get("name", ""), result.notes, steps < STEPS))


def plot_schedule(run: Run) -> Figure:
    """Learning rate and momentum of every optimizer step of the run, as the optimizer had them."""
    run.check_begun()
    lr, momentum, ends = run.steps["lr"], run.steps["momentum"], "ends" if run.summary else "is now"
    epoch, peak, colour = (run.steps["step"] + 1) / run.steps_per_epoch, int(np.argmax(lr)), ink(COLOURS["lr"])
    figure, ax = plt.subplots(figsize=(8, 3.4))
    ax.plot(epoch, lr, color=colour)
    ax.set(xlabel="epoch", ylabel="learning rate", xlim=(0, run.recipe.epochs), ymargin=0.15)
    if isinstance(run.recipe.schedule, Plateau):
        falls = np.flatnonzero(lr[1:] < lr[:-1]) + 1
        labels = [(step, "", 4, 6, "left") for step in (peak, *falls)]
        ax.set(yscale="log", ylim=(lr[peak:].min() / 2, None)) if len(falls) else ax.set(ylim=(0, 1.2 * lr[peak]))
        times = {0: "never reduced", 1: "reduced once"}.get(len(falls), f"reduced {len(falls)} times")
        title = f"{'After a warm-up the' if peak else 'The'} learning rate {lr[peak]:.3g} was {times}"
    else:
        when = f" at epoch {epoch[peak]:.3g}"
        labels = [(0, "", 3, -12, "left"), (peak, when, 0, 5, "center"), (-1, "", 0, -12, "right")]
        title = f"The learning rate climbs to {lr[peak]:.3g}{when} and {ends} at {lr[-1]:.2g}"
    for step, text, dx, dy, side in labels:
        write(ax, f"{lr[step]:.3g}{text}", (epoch[step], lr[step]), dx, dy, ha=side, color=colour)
    if np.ptp(momentum) == 0:  # a second axis would only cross the curve
        ax.set_xlabel(f"epoch (momentum {momentum[0]:g} throughout)")
    else:
        twin = ax.twinx()
        twin.plot(epoch, momentum, color=ink(COLOURS["momentum"]), linestyle="--", linewidth=1.3)
        twin.set_ylabel("momentum (dashed)", color=ink(COLOURS["momentum"]))
        twin.grid(False)
        twin.spines["right"].set_visible(True)
    return label_run(figure, run, title)


def plot_curves(run: Run) -> Figure:
    """Loss and accuracy of training, held-out and test images, an epoch a point; dotted lines: the rate was reduced."""
    run.check_begun()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    epochs = run.history["epoch"]
    splits = [name for name in NAMES if np.isfinite(run.history[f"{name}_loss"]).any()]
    # Losses meet at the bottom, accuracies at the top: from there their labels are moved apart.
    kinds = (("loss", run.recipe.loss.replace("_", " "), "{:.3f}", 1), ("acc", "accuracy (%)", "{:.2f} %", -1))
    for ax, (quantity, unit, form, away) in zip(axes, kinds, strict=True):
        last = {split: run.history[f"{split}_{quantity}"][-1] for split in splits}
        for split in reversed(splits):  # validation last and dashed: it may lie on the test curve
            style = "+--" if split == "val" else "o-"
            ax.plot(epochs, run.history[f"{split}_{quantity}"], style, color=ink(COLOURS[split]), markersize=3)
        for epoch in epochs[run.reduced]:
            ax.axvline(epoch - 0.5, color=GREY, linestyle=":", linewidth=1)
        ax.set(xlabel="epoch (dotted: learning rate reduced)" if len(run.reduced) else "epoch", ylabel=unit)
        ax.xaxis.get_major_locator().set_params(integer=True)
        place, (low, high) = -np.inf, ax.get_ylim()
        for split in sorted(splits, key=lambda split: away * last[split]):
            place = max(away * (last[split] - low) / (high - low), place + 0.07)  # of the axes: the height of a label
            text = f"{NAMES[split]} {form.format(last[split])}"
            write(ax, text, (1.01, away * place), xycoords="axes fraction", va="center", color=ink(COLOURS[split]))
    last = run.summary["reported"] if run.summary else {"test_acc": run.history["test_acc"][-1], "epoch": len(epochs)}
    axes[1].plot(last["epoch"], last["test_acc"], "o", markersize=9, fillstyle="none", color=ink(COLOURS["test"]))
    title = "{test_acc:.2f} % of the test images are classified correctly after epoch {epoch} of ".format(**last)
    return label_run(figure, run, f"{title}{run.recipe.epochs} (ringed)")


def plot_comparison(runs: Sequence[Run]) -> Figure:
    """Training and validation accuracy of several runs (up to six) at each epoch; dots mark lower learning rates.

    Runs without validation images show test accuracy. The axis leaves out the first eighth, which lies far below.
    """
    if not 1 <= len(runs) <= len(RUN_COLOURS):
        raise CourseError(f"From 1 to {len(RUN_COLOURS)} runs can be compared in a figure, not {len(runs)}.")
    for run in runs:
        run.check_begun()
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True)
    recipes, lowest, ends = [run.recipe.name for run in runs], 100.0, {}
    for run, colour in zip(runs, RUN_COLOURS, strict=False):
        name = run.recipe.name if recipes.count(run.recipe.name) == 1 else f"{run.folder.parent.name}/{run.folder.name}"
        held_out = "val" if np.isfinite(run.history["val_acc"]).any() else "test"
        for ax, split in zip(axes, ("train", held_out), strict=True):
            epochs, values, text = run.history["epoch"], run.history[f"{split}_acc"], f"{name}: {NAMES[split]}"
            ends[name] = values[-1]
            ax.plot(epochs, values, color=ink(colour), label=plain(f"{text} {ends[name]:.2f} %"))
            ax.plot(epochs[run.reduced], values[run.reduced], "o", color=ink(colour), markersize=4)
            lowest = min(lowest, values[len(values) // 8 :].min())
    for ax, name in zip(axes, ("training images", "held-out images"), strict=True):
        ax.set(xlabel="epoch (dot: the first at a lower learning rate)", title=name)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)  # below: two curves leave no corner empty
    axes[0].set(ylabel="accuracy (%)", ylim=(max(0, lowest - 2), None))
    best = max(ends, key=ends.get)
    below = " | ".join(dict.fromkeys(run.caption for run in runs))
    title = f"{best} ends highest, at {ends[best]:.2f} % of the held-out images"
    return label(figure, title, below, next((run.mark for run in runs if run.mark), ""))


def _confusion(run: Run) -> tuple[np.ndarray, list[str]]:
    run.check_finished()
    return np.array(run.summary["confusion_matrix"]), class_names(run.config["data"]["classes"])


def _row(names: Sequence[str]) -> float:
    """Inches for the row of a class."""
    return 0.3 if len(names) <= MOST_CLASSES else 0.2


def plot_class_accuracy(run: Run) -> Figure:
    """The share of each class's test images that was classified correctly, the lowest first.

    The lines reach one standard error, sqrt(p (1 - p) / n), to either side.
    """
    confusion, names = _confusion(run)
    accuracy, images = run.class_accuracy, confusion.sum(axis=1)
    error = np.sqrt(accuracy * (100 - accuracy) / images)
    order = np.argsort(accuracy, kind="stable")[::-1]  # drawn from below, so the lowest stands on top
    figure, ax = plt.subplots(figsize=(8, min(25, _row(names) * len(order) + 1.4)))
    ax.errorbar(accuracy[order], range(len(order)), xerr=error[order], fmt="o", color=ink(COLOURS["test"]))
    labels = [f"{names[k]}  {accuracy[k]:.1f}" for k in order]
    ax.set_yticks(range(len(order)), labels, fontsize=10 if len(names) <= MOST_CLASSES else 8)
    ax.set(xlabel="test accuracy (%) ± one standard error", ylim=(-0.7, len(order) - 0.3))
    overall, grey = 100 * confusion.trace() / confusion.sum(), ink(GREY)
    ax.axvline(overall, color=grey, linestyle="--", linewidth=1)
    write(ax, f"all {overall:.2f} %", (overall, 1), 0, 4, xycoords=ax.get_xaxis_transform(), ha="center", color=grey)
    behind = accuracy - accuracy[order[-1]] - 2 * np.hypot(error, error[order[-1]])  # two errors of a difference
    lowest, *close = [k for k in order[::-1] if behind[k] <= 0]
    rest = "; too close to rank: " * bool(close) + ", ".join(names[k] for k in close[:2]) + ", …" * (len(close) > 2)
    return label_run(figure, run, f"{names[lowest]} is lowest, {accuracy[lowest]:.1f} % correct{rest}")


def plot_confusion_matrix(run: Run) -> Figure:
    """Counts of test images by actual class (rows) and predicted class (columns), written out up to 30 classes."""
    confusion, names = _confusion(run)
    right, size = np.eye(len(names), dtype=bool), min(22, max(6, _row(names) * len(names) + 2))
    wrong = np.where(right, 0, confusion)
    figure, ax = plt.subplots(figsize=(size + 1.4, size))
    page, text = plt.rcParams["axes.facecolor"], plt.rcParams["text.color"]
    grey, orange = ("#B0B0B0", "#E8743B") if text == "black" else ("#555555", "#C25200")  # the text at 4.5:1 on both
    few = len(names) <= MOST_CLASSES
    cells = {"annot": confusion if few else None, "fmt": "d", "linewidths": 0.5 if few else 0, "linecolor": page}
    cells |= {"square": True, "ax": ax, "xticklabels": names, "yticklabels": names, "annot_kws": {"color": text}}
    bar = {"label": "misclassified images", "shrink": 0.6, "ticks": MaxNLocator(integer=True)}
    scale = LinearSegmentedColormap.from_list("mistakes", [page, orange])
    sns.heatmap(wrong, mask=right, cmap=scale, vmin=0, vmax=max(1, wrong.max()), cbar_kws=bar, **cells)
    sns.heatmap(confusion, mask=~right, cmap=[grey], cbar=False, **cells)
    ax.tick_params(labelsize=10 if few else 8, grid_alpha=0)
    ax.tick_params(axis="y", labelrotation=0)
    ax.set(xlabel="predicted class", ylabel="actual class")
    a, b = np.unravel_index((wrong + wrong.T).argmax(), wrong.shape)  # in both directions: one may lead by chance
    title = f"Confused most: {names[a]} taken for {names[b]} {wrong[a, b]:,} times, the other way {wrong[b, a]:,}"
    return label_run(figure, run, title if wrong.any() else "Every test image is classified correctly")


RUN_FIGURES = {  # by name: what it shows, and how it is drawn
    "curves": ("Loss and accuracy", plot_curves),
    "lr": ("Learning rate and momentum of every step", plot_schedule),
    "class_accuracy": ("Test accuracy of each class", plot_class_accuracy),
    "confusion_matrix": ("Confusion matrix", plot_confusion_matrix),
}


def save_run_figures(run: Run) -> list[Path]:
    """Write the figures of a finished run into its folder."""
    return [save(plot(run), run.folder / f"{name}.png") for name, (_, plot) in RUN_FIGURES.items()]


def plot_classes(data: Data) -> Figure:
    """The first training images of every class (of 30 at most)."""
    rows, per_class = min(len(data.classes), MOST_CLASSES), 8
    figure, axes = plt.subplots(rows, per_class, figsize=(per_class * 0.8 + 1, rows * 0.8 + 0.5))
    for ax in axes.flat:
        ax.axis("off")
    for k, (row, name) in enumerate(zip(axes, class_names(data.classes), strict=False)):
        for ax, index in zip(row, np.flatnonzero(data.train.labels == k), strict=False):
            show_image(ax, data.train.images[index])
        write_left(row[0], name)
    of_all = f" of {len(data.classes)}" if rows < len(data.classes) else ""
    title = f"{per_class} training images of each of {rows}{of_all} classes"
    return label(figure, title, f"{data.name} · {len(data.train):,} training images", data.mark)


def plot_augmentation(recipe: Recipe, data: Data, seed: int = 0, images: int = 4, draws: int = 7) -> Figure:
    """Training images (left) and what the recipe's augmentation makes of each in several draws."""
    chosen = np.random.default_rng(seed).choice(len(data.train), min(images, len(data.train)), replace=False)
    figure, axes = plt.subplots(len(chosen), draws + 1, figsize=(draws + 1.4, len(chosen) + 0.6), squeeze=False)
    pipeline = compose(recipe.augmentation, data.normalised_by(recipe).mean)
    for row, index in enumerate(chosen):
        image = data.train.images[index]
        drawn = augment(np.repeat(image[None], draws, axis=0), pipeline, (seed, row))
        for column, (ax, picture) in enumerate(zip(axes[row], [image, *drawn], strict=True)):
            title = ("original", "augmented")[column] if row == 0 and column < 2 else ""
            show_image(ax, picture, title)
    names = " → ".join(name for name, _ in recipe.augmentation) or "none"
    return label(figure, f"Augmentation: {names}", f"{recipe.name} · {data.name} · seed {seed}", data.mark)
