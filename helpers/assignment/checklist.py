"""The assignments' demands, each checked against what a run recorded and what its network is made of."""

import contextlib
import glob
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import FiniteFloat, TypeAdapter
from torch import nn
from typing_extensions import TypedDict

from helpers.data import CIFAR10_FINGERPRINT
from helpers.gradcam import COARSEST
from helpers.lr_finder import read_curve
from helpers.models import StandardizedConv2d, make_model
from helpers.plumbing.errors import CourseError, printable
from helpers.plumbing.run_files import read_json
from helpers.recipes import OneCycle, Plateau
from helpers.runs import RangeTest, Run, load_lr, swept_values
from helpers.schedules import plateau_lrs

# What is read of a `gallery.json`: which test images it shows, and what explains them.
SHOWN = dict.fromkeys(("correct", "misclassified", "gradcam", "gradcam_correct"), list[int])
MAPS = {"map_size": tuple[int, int], "accuracy": FiniteFloat, "method": str, "layer": str}
GALLERY = TypeAdapter(TypedDict("GalleryRecord", SHOWN | MAPS))
Check = Callable[[Run, nn.Module], tuple[bool, str]]  # whether a demand is met, and how that can be seen


@dataclass(frozen=True)
class Demand:
    """A demand of the assignment, whether the run met it, and how that can be seen."""

    text: str
    met: bool
    evidence: str

    def __str__(self) -> str:
        return f"{'✅' if self.met else '❌'} {self.text}\n      {printable(self.evidence)}"


def checklist(run: Run) -> list[Demand]:
    """The demands of the run's assignment, in its order. Raises CourseError if it is unfinished or belongs to none.

    The assignment is that of the recipe of this name in helpers/recipes.py, whatever values were changed.
    """
    run.check_finished()
    name = run.recipe.about.assignment
    if name not in ASSIGNMENTS:
        raise CourseError(f"{run.recipe.name} belongs to no assignment of this course: see its About in recipes.py.")
    with torch.device("meta"):  # layers and shapes, no weights
        model = make_model(run.recipe, 10)
    return [Demand(text, *check(run, model)) for text, check in ASSIGNMENTS[name]]


def tolerance(images: int) -> float:
    """The points by which two accuracies of one network may differ: devices may classify a few images differently."""
    return max(0.1, 200 / images)


def gallery_checklist(run: Run) -> list[Demand]:
    """The demands on galleries and heatmaps, checked against `gallery.json`, which `galleries.save_gallery` left.

    Raises CourseError if there is none, or it is damaged.
    """
    path = run.folder / "gallery.json"
    try:
        made = read_json(path, GALLERY)
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is missing or damaged ({error}): `helpers gallery` makes it.") from error
    correct, wrong, explained = set(made["correct"]), set(made["misclassified"]), set(made["gradcam"])
    wanted, reported = run.recipe.about.gallery, run.summary["reported"]["test_acc"]
    demands = [Demand(f"{wanted} misclassified images", len(wrong) >= wanted, f"{len(wrong)} shown")]
    same, evidence = explained == wrong != set(), f"{len(explained & wrong)} of the {len(wrong)} misclassified images"
    if run.recipe.about.assignment == "resnet18_batchnorm":
        demands.insert(0, Demand(f"{wanted} correct images", len(correct) >= wanted, f"{len(correct)} shown"))
        explained = set(made["gradcam_correct"])
        same &= explained == correct
        evidence += f" and {len(explained & correct)} of the {len(correct)} correct ones"
    where = "{method} of {layer}, {map_size[0]}x{map_size[1]}".format(**made)
    measured = f"{made['accuracy']:.2f} % of these predictions are correct; the run reports {reported:.2f} %"
    images = run.config["data"]["test_images"]
    fits = abs(made["accuracy"] - reported) <= tolerance(images)
    fits &= not correct & wrong and correct | wrong <= set(range(images))
    return [
        *demands,
        Demand("GradCAM of the same images", same, f"{evidence} are explained"),
        Demand("GradCAM on maps of at least 5x5", min(made["map_size"]) >= COARSEST, where),
        Demand("Chosen from the whole test set, by the network that was reported", fits, measured),
    ]


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def _channels(by_size: dict[int, list[int]], run: Run, model: nn.Module) -> tuple[bool, str]:
    """Tell whether the convolutions 3x3, and 1x1 of shortcuts, have these output channels in this order."""
    found = {size: [m.out_channels for m in _convolutions(model) if m.kernel_size[0] == size] for size in by_size}
    return found == by_size, ", ".join(f"convolutions {size}x{size} in order: {found[size]}" for size in found)


def _custom_blocks(run: Run, model: nn.Module) -> tuple[bool, str]:
    kinds = [type(m).__name__ for m in model.modules() if not list(m.children())]
    pooled, plain = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "ReLU"]
    expected = plain + pooled + 2 * plain + 2 * pooled + 2 * plain + ["MaxPool2d", "Linear"]
    kernels, last = {m.kernel_size for m in _convolutions(model)}, getattr(model.pool, "kernel_size", "adaptive")
    evidence = f"{len(kinds)} layers {'as' if kinds == expected else 'not as'} listed, kernels {sorted(kernels)}"
    return kinds == expected and kernels == {(3, 3)} and last == 4, f"{evidence}, last pooling {last}"


def _only_norm(wanted: str, run: Run, model: nn.Module) -> tuple[bool, str]:
    def kind(norm: nn.Module) -> str:
        one_group = getattr(norm, "num_groups", None) == 1  # a GroupNorm that is layer normalisation
        return "layer normalisation" if one_group else type(norm).__name__.removesuffix("2d")

    found = Counter(kind(m) for m in model.modules() if "Norm" in type(m).__name__)
    listed = [f"{count} layers of {name}" for name, count in found.items()]
    if any(isinstance(m, StandardizedConv2d) for m in model.modules()):
        listed.append("filters standardized")
    return found == {wanted: len(_convolutions(model))}, ", ".join(listed)


def _parameters(for_ten: int, run: Run, model: nn.Module) -> tuple[bool, str]:
    count = sum(p.numel() for p in model.parameters())
    return count == for_ten, f"{count:,} for 10 classes"


def _logits(run: Run, model: nn.Module) -> tuple[bool, str]:
    softmax = sum(isinstance(m, nn.Softmax | nn.LogSoftmax) for m in model.modules())
    evidence = f"loss: {run.recipe.loss}, softmax layers in the network: {softmax}"
    return run.recipe.loss == "cross_entropy" and not softmax, evidence


def _epochs(wanted: int, run: Run, model: nn.Module) -> tuple[bool, str]:
    return len(run.history["epoch"]) == wanted, f"{len(run.history['epoch'])} epochs in the history"


def range_tests(run: Run) -> list[Path]:
    """The range tests of a run's recipe and data beside its folder, of any seed."""
    name = glob.escape(f"{run.config['recipe']['name']}-{run.config['data']['name']}")
    return sorted(run.folder.parent.glob(f"{name}-seed*-lr-find/lr_find.json"))


def _genuine(test: RangeTest) -> bool:
    """Tell whether the rule reads the recorded bounds off the recorded curve."""
    with contextlib.suppress(CourseError):
        return read_curve(np.array(test.lrs), np.array(test.losses)) == (test.lr_min, test.lr_max)
    return False


def _found(run: Run, model: nn.Module) -> tuple[bool, str]:
    """Tell whether the bounds are those of a range test of this recipe and data, of any seed, beside the run."""
    schedule = run.recipe.schedule
    if not isinstance(schedule, OneCycle):
        return False, f"the schedule is {type(schedule).__name__}"
    tests = []
    for path in range_tests(run):
        with contextlib.suppress(CourseError):  # a damaged one may lie beside a good one
            tests.append(load_lr(path))
    used = f"trained with LRMIN {schedule.lr_min:g}, LRMAX {schedule.lr_max:g}"
    if not tests:
        return False, f"{used}, no range test of {run.recipe.name} beside the run"
    swept, images = swept_values(run.config["recipe"]), run.config["data"]["fingerprint"]
    of_data = [test for test in tests if test.settings["data"]["fingerprint"] == images]
    same = [test for test in of_data if swept_values(test.settings["recipe"]) == swept]
    met = [test for test in same if (test.lr_min, test.lr_max) == (schedule.lr_min, schedule.lr_max)]
    found = (met or same or tests)[0]
    whose = f"this recipe and data, seed {found.settings['seed']}," if same else "another recipe or other data"
    genuine = _genuine(found)
    evidence = f"{used}; the range test of {whose} found {found.lr_min:g} and {found.lr_max:g}"
    return bool(met) and genuine, evidence + ("" if genuine else ", which its curve does not give")


def _peak(run: Run, model: nn.Module) -> tuple[bool, str]:
    lr = run.steps["lr"]
    peak = int(np.flatnonzero(lr == lr.max())[-1] + 1) * len(run.history["epoch"]) / len(lr)  # a step or a whole epoch
    met = abs(peak - 5) < 1e-9 and np.isclose(lr.max(), getattr(run.recipe.schedule, "lr_max", np.nan))
    return bool(met), f"highest LR {lr.max():.4g} in the last step of epoch {peak:g}"


def _no_annihilation(run: Run, model: nn.Module) -> tuple[bool, str]:
    first, last = run.steps["lr"][[0, -1]]
    return bool(np.isclose(first, last)), f"first step {first:.4g}, last step {last:.4g}"


def _transforms(wanted: tuple[tuple[str, dict], ...], run: Run, model: nn.Module) -> tuple[bool, str]:
    """Tell whether each of these transforms occurs once, with these arguments, and can act; padding before the crop."""
    pipeline = [_spelt_out(*transform) for transform in run.recipe.augmentation]
    names, given = [name for name, _ in pipeline], dict(pipeline)
    other = [
        f"{name} with {key} {given[name].get(key)}, not {value}"
        for name, arguments in wanted
        for key, value in arguments.items()
        if name in given and given[name].get(key) != value
    ]
    limits = {name: [value for key, value in given[name].items() if "limit" in key] for name in given}
    idle = {name for name in given if not given[name]["p"] or (limits[name] and not np.any(limits[name]))}
    able = all(names.count(name) == 1 and name not in idle for name, _ in wanted)
    order = [[name for name in part if name in ("PadIfNeeded", "RandomCrop")] for part in (names, dict(wanted))]
    listed = [f"{name} (p {values['p']:g})" if values["p"] < 1 else name for name, values in pipeline]
    return not other and able and order[0] == order[1], "; ".join((" → ".join(listed) or "none", *other))


def _spelt_out(name: str, arguments: dict) -> tuple[str, dict]:
    """A transform with its probability, a limit of one number from its negative to it, and one name per kind."""
    if name == "Pad" and arguments.get("padding") in (4, (4, 4), (4, 4, 4, 4)):
        name, arguments = "PadIfNeeded", PAD[1] | {"p": arguments.get("p", 1.0)}
    if name == "CutOut" and arguments.get("holes", 1) == 1:  # our own, whose hole may stick out
        name, arguments = "CoarseDropout", _cutout(arguments["size"])[1] | {"p": arguments.get("p", 0.5)}
    if name == "HueSaturationValue":  # what is not named has albumentations' default
        arguments = dict.fromkeys(("hue_shift_limit", "sat_shift_limit", "val_shift_limit"), 20) | arguments
    limits = {key: (-value, value) for key, value in arguments.items() if "limit" in key and np.isscalar(value)}
    return name, {"p": 1.0 if name in ("Pad", "PadIfNeeded", "RandomCrop") else 0.5} | arguments | limits


def _cutout(size: int) -> tuple[str, dict]:
    square = {"hole_height_range": (size, size), "hole_width_range": (size, size)}
    return "CoarseDropout", {"num_holes_range": (1, 1), **square, "p": 1.0}


PAD = ("PadIfNeeded", {"min_height": 40, "min_width": 40, "p": 1.0})
CROP = ("RandomCrop", {"height": 32, "width": 32, "p": 1.0})


def _plateau(run: Run, model: nn.Module) -> tuple[bool, str]:
    """Tell whether a fresh scheduler, fed with the recorded figures, arrives at the recorded learning rates."""
    plateau, recorded = run.recipe.schedule, run.history["lr"]
    if not isinstance(plateau, Plateau):
        return False, f"the schedule is {type(plateau).__name__}"
    expected = plateau_lrs(plateau, run.history[plateau.monitor], run.steps_per_epoch)
    drops = [str(row) for row in run.reduced]  # row k, from 0, comes after epoch k
    after = f"reduced after {'epoch' if len(drops) == 1 else 'epochs'} {', '.join(drops)}"
    return bool(np.allclose(recorded, expected, rtol=1e-6)), (
        f"monitors {plateau.monitor} ({plateau.mode}), factor {plateau.factor:g}, patience {plateau.patience}, "
        f"threshold {plateau.threshold:g}; {after if drops else 'nothing had to be reduced'}"
    )


def _test_set_apart(run: Run, model: nn.Module) -> tuple[bool, str]:
    used = sorted({run.recipe.select, getattr(run.recipe.schedule, "monitor", run.recipe.select)})
    evidence = f"decided by {' and '.join(used)}; {run.recipe.validation_images:,} images held out"
    return not any(name.startswith("test_") for name in used), evidence


def _best_saved(run: Run, model: nn.Module) -> tuple[bool, str]:
    select = run.recipe.select
    if select == "last":
        return False, "the recipe keeps the last model"
    if not (run.folder / "best.pt").exists():
        return False, "its best.pt is not in the run folder"
    try:
        saved = run.checkpoint("best.pt").get("epoch")
    except CourseError as error:
        return False, str(error)
    best = int(run.history["epoch"][np.argmax(run.history[select])])
    return saved == best, f"best.pt is of epoch {saved}; the highest {select} is that of epoch {best}"


def _accuracy(at_least: float, run: Run, model: nn.Module) -> tuple[bool, str]:
    reported, real = run.summary["reported"], run.config["data"]["fingerprint"] == CIFAR10_FINGERPRINT
    evidence = f"{reported['test_acc']:.2f} % ({reported['chosen_by']}, epoch {reported['epoch']})"
    return real and reported["test_acc"] >= at_least, evidence + ("" if real else "; only the complete CIFAR-10 counts")


NETWORK_DEMANDS = 3  # the first ones of every assignment are about the network, the others about its training
SOFTMAX_ONCE = ("Softmax once: the network returns logits, the loss holds the softmax", _logits)
TEST_SET_APART = ("The test set decides nothing", _test_set_apart)
CROP_FLIP_CUTOUT = (
    "RandomCrop 32 after padding 4, flip left-right, CutOut 8x8",
    partial(_transforms, (PAD, CROP, ("HorizontalFlip", {}), _cutout(8))),
)
CROP_CUTOUT_ROTATE = (
    "RandomCrop 32 after padding 4, CutOut 16x16, Rotate by up to 5 degrees",
    partial(_transforms, (PAD, CROP, _cutout(16), ("Rotate", {"limit": (-5, 5), "p": 1.0}))),
)
COLOURED = (
    "Albumentations' HorizontalFlip, Rotate, HueSaturationValue, CutOut",
    partial(_transforms, tuple((n, {}) for n in ("HorizontalFlip", "Rotate", "HueSaturationValue", "CoarseDropout"))),
)
CUSTOM_CHANNELS = {3: [64, 128, 128, 128, 256, 512, 512, 512]}
RESNET18_CHANNELS = {3: [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4, 1: [128, 256, 512]}
CUSTOM_RESNET: list[tuple[str, Check]] = [
    ("PrepLayer 64, Layer1 128 with R1, Layer2 256, Layer3 512 with R2", partial(_channels, CUSTOM_CHANNELS)),
    ("conv 3x3, (MaxPool), BatchNorm, ReLU in this order; MaxPool kernel 4; FC", _custom_blocks),
    ("6,573,130 parameters (for ten classes)", partial(_parameters, 6_573_130)),
    SOFTMAX_ONCE,
    CROP_FLIP_CUTOUT,
    ("Batch size 512", lambda run, model: (run.recipe.batch_size == 512, f"{run.recipe.batch_size}")),
    ("24 epochs", partial(_epochs, 24)),
    ("LRMIN and LRMAX found by a range test", _found),
    ("OneCycle: maximum at epoch 5", _peak),
    ("No annihilation: the last learning rate is LRMIN", _no_annihilation),
    TEST_SET_APART,
    ("Test accuracy of 90 % on CIFAR-10", partial(_accuracy, 90)),
]


def _resnet18(norm: str, epochs: int, transforms: tuple[str, Check], others: float, note: str = "") -> list:
    return [
        ("ResNet18 for 32x32: a 3x3 stem, four layers of two blocks", partial(_channels, RESNET18_CHANNELS)),
        ("11,173,962 parameters (for ten classes)", partial(_parameters, 11_173_962)),
        (f"{norm} only, after every convolution", partial(_only_norm, norm)),
        SOFTMAX_ONCE,
        transforms,
        (f"{epochs} epochs", partial(_epochs, epochs)),
        ("ReduceLROnPlateau: the recorded learning rates are its decisions", _plateau),
        TEST_SET_APART,
        ("Best model saved", _best_saved),
        (f"At least {others:.2f} % on CIFAR-10, as published{note}", partial(_accuracy, others)),
    ]


ASSIGNMENTS: dict[str, list[tuple[str, Check]]] = {  # a demand is its text, and what checks it
    "custom_resnet": CUSTOM_RESNET,
    "resnet18_batchnorm": _resnet18("BatchNorm", 50, COLOURED, 91.77),
    "resnet18_layernorm": _resnet18("layer normalisation", 40, CROP_CUTOUT_ROTATE, 84.50, " (with BatchNorm, though)"),
}
