"""The assignment's demands, each checked against what a run recorded and what its network holds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from helpers.data import CIFAR10_FINGERPRINT
from helpers.errors import CourseError
from helpers.lr_finder import load_lr, swept_values
from helpers.models import make_model
from helpers.runs import Run


@dataclass(frozen=True)
class Demand:
    """What the assignment asks for, whether the run did it, and how that can be seen."""

    text: str
    met: bool
    evidence: str

    def __str__(self) -> str:
        return f"{'✅' if self.met else '❌'} {self.text}\n      {self.evidence}"


def checklist(run: Run) -> list[Demand]:
    """The demands on the run's recipe, in the assignment's order.

    Raises CourseError for an unfinished run, or a network without a list.
    """
    if run.summary is None:
        raise CourseError(f"{run.folder} is not finished: run the same command or notebook again to go on.")
    if run.recipe.model not in DEMANDS:
        raise CourseError(f"There is no checklist for {run.recipe.model}, only for {', '.join(DEMANDS)}.")
    model = make_model(run.recipe, len(run.config["data"]["classes"]))
    return [Demand(text, *check(run, model)) for text, check in DEMANDS[run.recipe.model]]


def _network(run: Run, model: nn.Module) -> tuple[bool, str]:
    channels = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    expected = [64, 128, 128, 128, 256, 512, 512, 512]
    return channels == expected, f"convolutions in order: {channels}"


def _blocks(run: Run, model: nn.Module) -> tuple[bool, str]:
    kinds = [type(m).__name__ for m in model.modules() if not list(m.children())]
    pooled, plain = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "ReLU"]
    residual = pooled + plain + plain
    expected = plain + residual + pooled + residual + ["MaxPool2d", "Linear"]
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)}
    met = kinds == expected and kernels == {(3, 3)} and model.pool.kernel_size == 4
    return met, f"{len(kinds)} layers as listed, kernels {sorted(kernels)}, last pooling {model.pool.kernel_size}"


def _parameters(run: Run, model: nn.Module) -> tuple[bool, str]:
    count = sum(p.numel() for p in model.parameters())
    classes = len(run.config["data"]["classes"])
    return count == 6_573_130 + (classes - 10) * 513, f"{count:,} for {classes} classes"


def _logits(run: Run, model: nn.Module) -> tuple[bool, str]:
    softmax = any(isinstance(m, nn.Softmax | nn.LogSoftmax) for m in model.modules())
    met = run.recipe.loss == "cross_entropy" and not softmax
    return met, f"loss: {run.recipe.loss}, softmax layers in the network: {int(softmax)}"


def _batch(run: Run, model: nn.Module) -> tuple[bool, str]:
    return run.recipe.batch_size == 512, f"{run.recipe.batch_size}"


def _epochs(run: Run, model: nn.Module) -> tuple[bool, str]:
    return len(run.history["epoch"]) == 24, f"{len(run.history['epoch'])} epochs in the history"


def _found(run: Run, model: nn.Module) -> tuple[bool, str]:
    path = run.folder.parent / f"{run.folder.name}-lr-find" / "lr_find.json"
    schedule = run.recipe.schedule
    used = f"trained with LRMIN {schedule.lr_min:g}, LRMAX {schedule.lr_max:g}"
    if not path.exists():
        return False, f"{used}, no range test beside the run"
    found = load_lr(path)
    theirs, ours = found.settings, run.config
    same = (
        swept_values(theirs["recipe"]) == swept_values(ours["recipe"])
        and theirs["data"]["fingerprint"] == ours["data"]["fingerprint"]
    )
    met = same and (found.lr_min, found.lr_max) == (schedule.lr_min, schedule.lr_max)
    of = "this recipe and data" if same else "another recipe or other data"
    return met, f"{used}; the range test of {of} found {found.lr_min:g} and {found.lr_max:g}"


def _peak(run: Run, model: nn.Module) -> tuple[bool, str]:
    lr = run.steps["lr"]
    peak = (int(np.argmax(lr)) + 1) * len(run.history["epoch"]) / len(lr)
    met = abs(peak - 5) < 1e-9 and np.isclose(lr.max(), run.recipe.schedule.lr_max)
    return bool(met), f"highest LR {lr.max():.4g} in the last step of epoch {peak:g}"


def _no_annihilation(run: Run, model: nn.Module) -> tuple[bool, str]:
    first, last = run.steps["lr"][[0, -1]]
    return bool(np.isclose(first, last)), f"first step {first:.4g}, last step {last:.4g}"


def _transforms(run: Run, model: nn.Module) -> tuple[bool, str]:
    pipeline = dict(run.recipe.augmentation)
    pad, crop, hole = (pipeline.get(name, {}) for name in ("PadIfNeeded", "RandomCrop", "CoarseDropout"))
    met = (
        (pad.get("min_height"), pad.get("min_width")) == (40, 40)
        and (crop.get("height"), crop.get("width")) == (32, 32)
        and "HorizontalFlip" in pipeline
        and tuple(hole.get("hole_height_range", ())) == tuple(hole.get("hole_width_range", ())) == (8, 8)
        and hole.get("p") == 1
    )
    return met, " → ".join(pipeline) or "none"


def _accuracy(run: Run, model: nn.Module) -> tuple[bool, str]:
    reported, data = run.summary["reported"], run.config["data"]
    real = data["fingerprint"] == CIFAR10_FINGERPRINT
    evidence = f"{reported['test_acc']:.2f} % ({reported['chosen_by']}, epoch {reported['epoch']})"
    return real and reported["test_acc"] >= 90, evidence + ("" if real else "; only the complete CIFAR-10 counts")


DEMANDS: dict[str, list[tuple[str, Callable]]] = {
    "custom_resnet": [
        ("PrepLayer 64, Layer1 128 with R1, Layer2 256, Layer3 512 with R2", _network),
        ("conv 3x3, (MaxPool), BatchNorm, ReLU in this order; MaxPool kernel 4; FC", _blocks),
        ("6,573,130 parameters (for ten classes)", _parameters),
        ("Softmax once: the network returns logits, the loss holds the softmax", _logits),
        ("RandomCrop 32 after padding 4, flip left-right, CutOut 8x8", _transforms),
        ("Batch size 512", _batch),
        ("24 epochs", _epochs),
        ("LRMIN and LRMAX found by a range test", _found),
        ("OneCycle: maximum at epoch 5", _peak),
        ("No annihilation: the last learning rate is LRMIN", _no_annihilation),
        ("Test accuracy of 90 % on CIFAR-10", _accuracy),
    ]
}
