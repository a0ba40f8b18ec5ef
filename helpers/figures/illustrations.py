"""Pictures of ideas. They show no run: they are computed from networks, losses and schedules, or from what is given."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from helpers.data import SIZE
from helpers.evaluation import LOSSES
from helpers.figures.drawing import BLUES, COLOURS, GREY, ink, label, write
from helpers.models import BasicBlock, ResidualLayer, make_model
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES, OneCycle, Plateau
from helpers.schedules import one_cycle, plateau_lrs, triangular


def plot_network(model_name: str) -> Figure:
    """A network of the recipes ("custom_resnet", "resnet18"): each block's maps, and its share of the parameters.

    Boxes are as high as the maps (by the square root) and as wide as they have channels (by the logarithm).
    """
    recipe = next((recipe for recipe in RECIPES.values() if recipe.model == model_name), None)
    if recipe is None:
        raise CourseError(f"There is no network {model_name!r}: choose custom_resnet or resnet18.")
    model = make_model(recipe, 10).eval()
    shapes = {"image": (3, SIZE, SIZE)}
    for name, block in model.named_children():
        block.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
    model(torch.zeros(1, 3, SIZE, SIZE))
    blocks = {"image": nn.Identity()} | dict(model.named_children())
    counts = [sum(weight.numel() for weight in block.parameters()) for block in blocks.values()]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 4), sharex=True, height_ratios=(3, 1))
    for k, (name, (channels, *sides)) in enumerate(shapes.items()):
        x, y = 0.035 * np.log2(channels), np.sqrt((*sides, 1)[0] / SIZE) / 2
        dx, dy, style = 0.3 * y, 0.4 * y, {"facecolor": BLUES[k] if counts[k] else "#BBBBBB", "edgecolor": "#333333"}
        left, right = k - x, k + x  # a box: what is seen of its top and its right side, its front, the edge between
        sides_x = left, left + dx, right + dx, right + dx, right, right
        top.fill(sides_x, (y, y + dy, y + dy, dy - y, -y, y), **style, alpha=0.7)
        top.fill((left, right, right, left), (-y, -y, y, y), **style)
        top.plot((right, right + dx), (y, y + dy), color="#333333", linewidth=1)
        write(top, name, (k + dx / 2, y + dy), 0, 5, ha="center", fontweight="bold")
        write(top, "×".join(map(str, (channels, *sides) if y > 0.1 else [channels])), (k, -y), 0, -13, ha="center")
        if residual := sum(isinstance(module, ResidualLayer | BasicBlock) for module in blocks[name].modules()):
            text = f"{residual} blocks" if residual > 1 else "X + R(X)"
            write(top, text, (k, -y), 0, -26, ha="center", color=ink(COLOURS["test"]))
        if k:
            write(top, "→", (k - 0.5, 0), ha="center", va="center", fontsize=16)
        share = f"{counts[k]:,}\n{100 * counts[k] / sum(counts):.2g} %" if counts[k] else "0"
        write(bottom, share, (k, counts[k]), 0, 4, ha="center", fontsize=8)
    bottom.bar(range(len(counts)), counts, width=0.5, color=ink(COLOURS["train"]))
    top.set(ylim=(-0.78, 0.85), frame_on=False)
    bottom.set(ylim=(0, 1.6 * max(counts)), yticks=[], xticks=[], xlabel="parameters", frame_on=False)
    top.set_axis_off()
    most = f"{100 * max(counts) / sum(counts):.0f} % of them in {list(blocks)[int(np.argmax(counts))]}"
    return label(figure, f"{model_name}: {sum(counts):,} parameters, {most}")


def plot_residual_block() -> Figure:
    """The residual block of the custom ResNet: its layers as the network has them, and the way around them."""
    names = {nn.Conv2d: "3×3 conv", nn.BatchNorm2d: "BatchNorm", nn.ReLU: "ReLU"}
    layers = [names[type(module)] for module in ResidualLayer(4, 8).res_block.modules() if type(module) in names]
    figure, ax = plt.subplots(figsize=(9, 2.3))
    end, line, middle = len(layers) + 0.7, plt.rcParams["text.color"], {"ha": "center", "va": "center"}
    through = {"arrowstyle": "-|>", "color": line, "shrinkA": 12, "shrinkB": 11}
    around = through | {"color": ink(COLOURS["test"]), "linewidth": 2, "connectionstyle": "bar,fraction=-0.1"}
    for way in (through, around):
        ax.annotate("", (end, 0), (0, 0), arrowprops=way)
    for k, name in enumerate(layers, start=1):
        box = {"boxstyle": "round,pad=0.5", "facecolor": BLUES[1 + k // 4]}
        write(ax, name, (k, 0), **middle, color="black", bbox=box)
    plus = {"boxstyle": "circle,pad=0.1", "facecolor": plt.rcParams["axes.facecolor"], "edgecolor": line}
    write(ax, "+", (end, 0), **middle, fontsize=14, bbox=plus)
    write(ax, "X", (0, 0), **middle, fontsize=12, fontweight="bold")
    write(ax, "X + R(X)", (end, 0), 16, va="center", fontsize=12, fontweight="bold")
    write(ax, "the way around: X, unchanged", (end / 2, 0), 0, 38, ha="center", color=around["color"])
    write(ax, "R(X): what the block learns", (end / 2, 0), 0, -32, ha="center", color=ink(COLOURS["train"]))
    ax.set(xlim=(-0.3, end + 1.2), ylim=(-0.8, 1.2))
    ax.set_axis_off()
    return label(figure, "A residual block adds to its input what its convolutions make of it")


def plot_triangular(lr_min: float, lr_max: float, step_size: int, cycles: int = 2, found_by: str = "") -> Figure:
    """The triangular cyclic learning rate of Smith (2015), its two bounds as dashed lines, and what they come from."""
    iterations, grey = np.linspace(0, 2 * step_size * cycles, 400 * cycles + 1), ink(GREY)
    figure, ax = plt.subplots(figsize=(7, 3))
    ax.plot(iterations, triangular(iterations, step_size, lr_min, lr_max), color=ink(COLOURS["lr"]))
    for bound, name in ((lr_min, "LRMIN"), (lr_max, "LRMAX")):
        ax.axhline(bound, linestyle="--", color=grey, linewidth=1)
        write(ax, f"{name} {bound:g}", (1.01, bound), xycoords=("axes fraction", "data"), va="center", color=grey)
    ax.set(xlabel="iteration", ylabel="learning rate", xlim=(0, iterations[-1]))
    ax.set_xticks(np.arange(0, 2 * cycles + 1) * step_size)
    title = f"The learning rate climbs for {step_size} iterations and falls for as many"
    return label(figure, title, found_by and f"bounds: {found_by}")


def plot_annihilation(schedule: OneCycle, epochs: int, steps_per_epoch: int) -> Figure:
    """One cycle that ends at LRMIN, one that goes 10,000 times lower, and torch's OneCycleLR, which does so as well."""
    steps, ends = epochs * steps_per_epoch, {}
    cycles = {  # colour, line, where it ends
        "torch's default OneCycleLR": (GREY, "-", None),
        "with annihilation": (COLOURS["test"], "--", schedule.lr_min / 1e4),
        "without annihilation": (COLOURS["lr"], "-", None),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for name, (colour, dashes, lr_end) in cycles.items():
        optimizer = SGD([torch.zeros(1)], momentum=0.9)
        if name.startswith("torch"):
            scheduler = OneCycleLR(optimizer, schedule.lr_max, steps)
        else:
            scheduler = one_cycle(replace(schedule, lr_end=lr_end), optimizer, epochs, steps_per_epoch)
        lrs = scheduler.get_last_lr()
        for _ in range(steps - 1):
            optimizer.step()
            scheduler.step()
            lrs += scheduler.get_last_lr()
        for ax in axes:
            ax.plot(np.arange(1, steps + 1) / steps_per_epoch, lrs, dashes, color=ink(colour))
            ax.set(xlabel="epoch", xlim=(0, epochs))
        ends[name] = lrs[-1]
    sides = (("top", -6), ("bottom", 6), ("center", 0))  # the two lowest ends are close: their labels stand apart
    for (name, end), (side, dy) in zip(sorted(ends.items(), key=lambda item: item[1]), sides, strict=True):
        style = {"xycoords": ("axes fraction", "data"), "va": side, "color": ink(cycles[name][0])}
        write(axes[1], f"{name}\nends at {end:.2g}", (1.02, end), 0, dy, **style)
    axes[0].set(ylabel="learning rate", title="linear scale")
    axes[1].set(yscale="log", title="the same on a logarithmic scale")
    return label(figure, f"Without annihilation the cycle ends where it began, at LRMIN {schedule.lr_min:g}")


def plot_plateau(plateau: Plateau, values: Sequence[float]) -> Figure:
    """ReduceLROnPlateau's answer to a made-up course of the monitored value, an epoch each.

    Above the values: those that improve are filled, the patience that runs out is shaded. Below the learning rate.
    """
    lrs, epochs = plateau_lrs(plateau, values), np.arange(1, len(values) + 1)
    sign = 1 if plateau.mode == "max" else -1

    def better(new: float, old: float) -> bool:
        return sign * (new - old) > plateau.threshold * old  # torch's rule: by more than this part of the best

    best = list(accumulate(values, lambda old, new: new if better(new, old) else old))
    improved = np.array([True, *map(better, values[1:], best)])
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(2, 1))
    colour, lr_colour, grey = ink(COLOURS["val"]), ink(COLOURS["lr"]), ink(GREY)
    top.plot(epochs, values, color=colour, linewidth=1)
    for chosen, face in ((improved, colour), (~improved, top.get_facecolor())):
        top.plot(epochs[chosen], np.array(values)[chosen], "o", markerfacecolor=face, markeredgecolor=colour)
    bottom.step(epochs, lrs, where="mid", color=lr_colour)
    for drop in epochs[:-1][np.diff(lrs) < 0]:  # the last epoch at the higher learning rate
        top.axvspan(drop - plateau.patience - 0.5, drop + 0.5, color=GREY, alpha=0.15, linewidth=0)
        waited, middle = f"{plateau.patience + 1} without\nimprovement", (drop - plateau.patience / 2, 0.04)
        write(top, waited, middle, xycoords=("data", "axes fraction"), ha="center", fontsize=8, color=grey)
        write(bottom, f"{lrs[drop]:.3g}", (drop + 1, lrs[drop]), 2, 5, color=lr_colour)
    write(bottom, f"{lrs[0]:.3g}", (1, lrs[0]), 2, -12, color=lr_colour)
    top.set(ylabel=f"{plateau.monitor}, made up")
    bottom.set(ylabel="learning rate", yscale="log", xlabel="epoch")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    bottom.margins(y=0.25)
    title = f"{plateau.patience + 1} epochs without improvement: the learning rate is multiplied by {plateau.factor:g}"
    return label(figure, title, f"ReduceLROnPlateau, mode {plateau.mode}, patience {plateau.patience}")


def plot_normalised_together() -> Figure:
    """Which values (cubes) share a mean and a variance in three normalisations, after Wu & He (2018, figure 2)."""
    images, channels = 4, 6
    channel, image, _ = np.indices((channels, images, 4))
    norms = {
        "BatchNorm:\neach channel, over all images": channel,
        "layer normalisation:\neach image, over all channels": image,
        "group normalisation:\neach image, half of the channels": 2 * image + 2 * channel // channels,
    }
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), subplot_kw={"projection": "3d"})
    for ax, (name, group) in zip(axes, norms.items(), strict=True):
        ax.voxels(np.ones_like(group), facecolors=plt.colormaps["Set3"](group % 12), edgecolor="#555555", shade=False)
        ax.text(channels / 2, -1, -0.5, "channel", "x", ha="center", va="top")
        ax.text(channels + 1, images / 2, -0.5, "image", "y", ha="center", va="top")
        ax.text(-1, 0, 2, "position", "z", ha="center", va="center")
        ax.set_title(name, fontsize=10)
        ax.set(aspect="equal")
        ax.view_init(elev=22, azim=-58)
        ax.set_axis_off()
    return label(figure, "Values of one colour are normalised with the same mean and variance")


def plot_softmax_twice() -> Figure:
    """Cross-entropy of logits and of probabilities, as the correct class's logit passes that of one wrong class."""
    margin = torch.linspace(-10, 10, 201)
    logits = torch.full((len(margin), 10), -20.0)  # the other classes are out of the question
    logits[:, 0], logits[:, 1] = margin, 0
    figure, ax = plt.subplots(figsize=(7, 3.4))
    for name, colour in (("cross_entropy", ink(COLOURS["train"])), ("cross_entropy_of_softmax", ink(COLOURS["test"]))):
        losses = LOSSES[name](logits, torch.zeros(len(margin), dtype=torch.long), reduction="none")
        ax.plot(margin, losses, color=colour)
        style = {"color": colour, "fontweight": "bold"}
        write(ax, f"{name} {losses[-1]:.3f}", (margin[-1], losses[-1]), 0, 6, ha="right", **style)
    write(ax, f"{losses[0]:.3f}", (margin[0], losses[0]), 4, 6, **style)
    ax.set(xlabel="logit of the correct class (one wrong class: 0, the other eight: -20)", ylabel="loss")
    ax.set(ylim=(0, None), xlim=(-10, 10))
    return label(figure, f"Two softmaxes: flat where the network is wrong, and never below {losses.min():.3f}")


def plot_lr_contest(points: Sequence[tuple[float, float]], error: float, below: str = "") -> Figure:
    """Validation accuracy (%) against LRMAX: a dot per training, (LRMAX, accuracy), and each LRMAX's mean.

    The bars reach one standard error of a training, `error`, to either side; under two of a difference, none is better.
    `below` says where the trainings come from.
    """
    lrs, colour = sorted({lr for lr, _ in points}), ink(COLOURS["val"])
    groups = [[accuracy for other, accuracy in points if other == lr] for lr in lrs]
    means, errors = np.array([np.mean(group) for group in groups]), error / np.sqrt([len(group) for group in groups])
    figure, ax = plt.subplots(figsize=(7, 3.6))
    ax.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, alpha=0.4)
    ax.errorbar(lrs, means, yerr=errors, fmt="o-", color=colour, linewidth=1, capsize=3)
    ax.set(xscale="log", xlabel="LRMAX", ylabel="validation accuracy (%)")
    ax.set_xticks(lrs, [f"{lr:g}" for lr in lrs])
    ax.set_xticks([], minor=True)
    behind = (means.max() - means) / np.hypot(errors, errors[means.argmax()])  # in standard errors of the difference
    leaders = [f"{lr:g}" for lr in np.array(lrs)[behind <= 2]]
    chance = ", too close to rank" if len(leaders) > 1 else f": {means.max():.2f} % of the held-out images"
    return label(figure, f"LRMAX {' and '.join(leaders)} trained best{chance}", below)
