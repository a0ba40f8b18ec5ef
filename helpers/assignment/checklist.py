"""The assignment's demands, each checked against what a run recorded and what its network holds."""

import glob
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, with_config
from torch import nn
from typing_extensions import TypedDict

from helpers.data import CIFAR10_FINGERPRINT
from helpers.gradcam import COARSEST
from helpers.models import StandardizedConv2d, make_model
from helpers.plumbing.errors import CourseError
from helpers.plumbing.run_folder import read_json
from helpers.recipes import OneCycle, Plateau, Recipe
from helpers.runs import Run, load_lr, swept_values
from helpers.schedules import plateau_lrs


@with_config(ConfigDict(extra="allow"))
class GalleryRecord(TypedDict):
    """What is read of a `gallery.json`: which test images it shows, and what explains them."""

    correct: list[int]
    misclassified: list[int]
    gradcam: list[int]
    gradcam_correct: list[int]
    map_size: tuple[int, int]
    accuracy: FiniteFloat
    method: str
    layer: str


GALLERY = TypeAdapter(GalleryRecord)
Check = Callable[[Run, nn.Module], tuple[bool, str]]  # whether a demand is met, and how that can be seen
Demands = list[tuple[str, Check]]  # each with how it is checked
Transforms = tuple[tuple[str, dict], ...]  # as in recipes: names and arguments


@dataclass(frozen=True)
class Demand:
    """What the assignment asks for, whether the run did it, and how that can be seen."""

    text: str
    met: bool
    evidence: str

    def __str__(self) -> str:
        return f"{'✅' if self.met else '❌'} {self.text}\n      {self.evidence}"


def checklist(run: Run) -> list[Demand]:
    """The demands of the assignment that the run belongs to, in the assignment's order.

    Raises CourseError for an unfinished run.
    """
    run.check_finished()
    model = make_model(run.recipe, len(run.config["data"]["classes"]))
    return [Demand(text, *check(run, model)) for text, check in ASSIGNMENTS[assignment(run.recipe)]]


def assignment(recipe: Recipe) -> str:
    """The name of the assignment that a run is judged by: what `helpers.recipes` says of the recipe of its name.

    So no change of its values turns it into another assignment's. Raises CourseError if it belongs to none.
    """
    if recipe.about.assignment not in ASSIGNMENTS:
        raise CourseError(
            f"The recipe {recipe.name} belongs to no assignment of this course: name one in its About in "
            "helpers/recipes.py."
        )
    return recipe.about.assignment


def tolerance(images: int) -> float:
    """How far two measurements of one network on as many images may lie apart, in points.

    Another device or precision may turn a few images.
    """
    return max(0.1, 200 / images)


def gallery_checklist(run: Run) -> list[Demand]:
    """The demands on galleries and heatmaps, checked against `gallery.json`, which `galleries.save_gallery` left.

    Raises CourseError if there is none, or it is damaged.
    """
    path = run.folder / "gallery.json"
    try:
        made = read_json(path, GALLERY)
        correct, wrong = set(made["correct"]), set(made["misclassified"])
        explained, explained_too = set(made["gradcam"]), set(made["gradcam_correct"])
        (height, width), accuracy = made["map_size"], made["accuracy"]
        fine = min(height, width) >= COARSEST
        where = f"{made['method']} of {made['layer']}, {height}x{width}"
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{path} is missing or damaged ({error}): `python -m helpers gallery {run.folder}` makes it."
        ) from error
    wanted = run.recipe.about.gallery
    demands = [Demand(f"{wanted} misclassified images", len(wrong) >= wanted, f"{len(wrong)} shown")]
    same, evidence = explained == wrong != set(), f"{len(explained & wrong)} of the {len(wrong)} misclassified images"
    if assignment(run.recipe) == "resnet18_batchnorm":
        demands = [Demand(f"{wanted} correct images", len(correct) >= wanted, f"{len(correct)} shown"), *demands]
        same &= explained_too == correct
        evidence += f" and {len(explained_too & correct)} of the {len(correct)} correct ones"
    reported, images = run.summary["reported"]["test_acc"], run.config["data"]["test_images"]
    return [
        *demands,
        Demand("GradCAM of the same images", same, f"{evidence} are explained"),
        Demand("GradCAM on maps of at least 5x5", fine, where),
        Demand(
            "Chosen from the whole test set, by the network that was reported",
            abs(accuracy - reported) <= tolerance(images),
            f"{accuracy:.2f} % of these predictions are correct; the run reports {reported:.2f} %",
        ),
    ]


def _custom_channels(run: Run, model: nn.Module) -> tuple[bool, str]:
    channels = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    expected = [64, 128, 128, 128, 256, 512, 512, 512]
    return channels == expected, f"convolutions in order: {channels}"


def _custom_blocks(run: Run, model: nn.Module) -> tuple[bool, str]:
    kinds = [type(m).__name__ for m in model.modules() if not list(m.children())]
    pooled, plain = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "ReLU"]
    residual = pooled + plain + plain
    expected = plain + residual + pooled + residual + ["MaxPool2d", "Linear"]
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)}
    last = getattr(model.pool, "kernel_size", "adaptive")
    met = kinds == expected and kernels == {(3, 3)} and last == 4
    listed = "as listed" if kinds == expected else "not as listed"
    return met, f"{len(kinds)} layers {listed}, kernels {sorted(kernels)}, last pooling {last}"


def _resnet18_channels(run: Run, model: nn.Module) -> tuple[bool, str]:
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    channels = [m.out_channels for m in convolutions if m.kernel_size == (3, 3)]
    shortcuts = [m.out_channels for m in convolutions if m.kernel_size == (1, 1)]
    met = channels == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4 and shortcuts == [128, 256, 512]
    return met, f"{len(channels)} convolutions 3x3 (stem first), shortcuts 1x1 with {shortcuts} channels"


def _only_norm(wanted: str, run: Run, model: nn.Module) -> tuple[bool, str]:
    found = Counter(_norm_name(m) for m in model.modules() if "Norm" in type(m).__name__)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    listed = [f"{count} layers of {name}" for name, count in found.items()]
    if any(isinstance(m, StandardizedConv2d) for m in model.modules()):
        listed.append("filters standardized")
    return found == {wanted: convolutions}, ", ".join(listed)


def _norm_name(module: nn.Module) -> str:
    if isinstance(module, nn.GroupNorm):  # with a single group it is layer normalisation
        return "layer normalisation" if module.num_groups == 1 else "group normalisation"
    return "BatchNorm" if isinstance(module, nn.BatchNorm2d) else type(module).__name__


def _parameters(for_ten: int, run: Run, model: nn.Module) -> tuple[bool, str]:
    count = sum(p.numel() for p in model.parameters())
    classes = len(run.config["data"]["classes"])
    return count == for_ten + (classes - 10) * 513, f"{count:,} for {classes} classes"


def _logits(run: Run, model: nn.Module) -> tuple[bool, str]:
    softmax = sum(isinstance(m, nn.Softmax | nn.LogSoftmax) for m in model.modules())
    met = run.recipe.loss == "cross_entropy" and not softmax
    return met, f"loss: {run.recipe.loss}, softmax layers in the network: {softmax}"


def _batch(run: Run, model: nn.Module) -> tuple[bool, str]:
    return run.recipe.batch_size == 512, f"{run.recipe.batch_size}"


def _epochs(wanted: int, run: Run, model: nn.Module) -> tuple[bool, str]:
    return len(run.history["epoch"]) == wanted, f"{len(run.history['epoch'])} epochs in the history"


def _found(run: Run, model: nn.Module) -> tuple[bool, str]:
    """Whether the bounds are those of a range test of this recipe and data, of any seed, beside the run."""
    name, separator, _ = run.folder.name.rpartition("-seed")
    beside = f"{glob.escape(name)}-seed*" if separator else glob.escape(run.folder.name)
    tests = [load_lr(path) for path in sorted(run.folder.parent.glob(f"{beside}-lr-find/lr_find.json"))]
    schedule = run.recipe.schedule
    if not isinstance(schedule, OneCycle):
        return False, f"the schedule is {type(schedule).__name__}"
    used = f"trained with LRMIN {schedule.lr_min:g}, LRMAX {schedule.lr_max:g}"
    if not tests:
        return False, f"{used}, no range test beside the run"
    ours, bounds = run.config, (schedule.lr_min, schedule.lr_max)
    same = [
        test
        for test in tests
        if swept_values(test.settings["recipe"]) == swept_values(ours["recipe"])
        and test.settings["data"]["fingerprint"] == ours["data"]["fingerprint"]
    ]
    met = [test for test in same if (test.lr_min, test.lr_max) == bounds]
    found = (met or same or tests)[0]
    of = f"this recipe and data, seed {found.settings['seed']}," if same else "another recipe or other data"
    return bool(met), f"{used}; the range test of {of} found {found.lr_min:g} and {found.lr_max:g}"


def _peak(run: Run, model: nn.Module) -> tuple[bool, str]:
    lr = run.steps["lr"]
    if not isinstance(run.recipe.schedule, OneCycle):
        return False, f"the schedule is {type(run.recipe.schedule).__name__}"
    peak = int(np.flatnonzero(lr == lr.max())[-1] + 1) * len(run.history["epoch"]) / len(lr)  # a step or a whole epoch
    met = abs(peak - 5) < 1e-9 and np.isclose(lr.max(), run.recipe.schedule.lr_max)
    return bool(met), f"highest LR {lr.max():.4g} in the last step of epoch {peak:g}"


def _no_annihilation(run: Run, model: nn.Module) -> tuple[bool, str]:
    first, last = run.steps["lr"][[0, -1]]
    return bool(np.isclose(first, last)), f"first step {first:.4g}, last step {last:.4g}"


def _transforms(wanted: Transforms, run: Run, model: nn.Module) -> tuple[bool, str]:
    """Whether the pipeline has each of these once, with these arguments, and able to act; padding and crop always.

    A limit of one number means from its negative to it, as in albumentations.
    """
    pipeline = run.recipe.augmentation
    names = [name for name, _ in pipeline]
    chance = {name: arguments.get("p", 1.0 if name in CROPPING else 0.5) for name, arguments in pipeline}
    given = {
        name: {"p": chance[name]} | {key: _both_ways(key, value) for key, value in arguments.items()}
        for name, arguments in pipeline
    }
    other = [
        f"{name} with {key} {given[name].get(key)}, not {value}"
        for name, arguments in wanted
        for key, value in arguments.items()
        if name in given and given[name].get(key) != value
    ]
    met = not other and all(
        names.count(name) == 1
        and (chance[name] == 1 if name in CROPPING else chance[name] > 0)
        and _acts(name, given[name])
        for name, arguments in wanted
    )
    met &= [name for name in names if name in CROPPING] == [name for name, _ in wanted if name in CROPPING]
    listed = " → ".join(name + f" (p {chance[name]:g})" * (chance[name] < 1) for name in names) or "none"
    return met, "; ".join((listed, *other))


def _both_ways(key: str, value: object) -> object:
    return (-value, value) if key.endswith("limit") and isinstance(value, int | float) else value


def _acts(name: str, arguments: dict) -> bool:
    """Whether some limit is not zero; one that is not given has its default, which is not."""
    limits = [arguments.get(key) for key in LIMITS.get(name, ())]
    return not limits or any(limit is None or any(limit) for limit in limits)


def _cutout(size: int) -> tuple[str, dict]:
    square = {"hole_height_range": (size, size), "hole_width_range": (size, size)}
    return "CoarseDropout", {"num_holes_range": (1, 1), **square, "p": 1.0}


CROPPING = ("PadIfNeeded", "RandomCrop")
LIMITS = {"Rotate": ("limit",), "HueSaturationValue": ("hue_shift_limit", "sat_shift_limit", "val_shift_limit")}
PAD_CROP = (("PadIfNeeded", {"min_height": 40, "min_width": 40}), ("RandomCrop", {"height": 32, "width": 32}))


def _plateau(run: Run, model: nn.Module) -> tuple[bool, str]:
    """Whether a fresh scheduler, shown the recorded figures, comes to the recorded learning rates."""
    plateau, recorded = run.recipe.schedule, run.history["lr"]
    if not isinstance(plateau, Plateau):
        return False, f"the schedule is {type(plateau).__name__}"
    expected = plateau_lrs(plateau, run.history[plateau.monitor], run.steps_per_epoch)
    drops = [str(row) for row in run.reduced]  # row k, from 0, comes after epoch k
    evidence = f"monitors {plateau.monitor} ({plateau.mode}), factor {plateau.factor:g}, patience {plateau.patience}, "
    evidence += f"threshold {plateau.threshold:g}"
    word = "epoch" if len(drops) == 1 else "epochs"
    evidence += f"; reduced after {word} {', '.join(drops)}" if drops else "; nothing had to be reduced"
    return bool(np.allclose(recorded, expected, rtol=1e-6)), evidence


def _held_out(run: Run, model: nn.Module) -> tuple[bool, str]:
    recipe = run.recipe
    used = {recipe.select, getattr(recipe.schedule, "monitor", recipe.select)}
    met = not any(name.startswith("test_") for name in used)
    return met, f"decided by {' and '.join(sorted(used))}; {recipe.validation_images:,} images held out"


def _best_saved(run: Run, model: nn.Module) -> tuple[bool, str]:
    select = run.recipe.select
    if select == "last":
        return False, "the recipe keeps the last model"
    try:
        saved = run.checkpoint("best.pt").get("epoch")
    except CourseError as error:
        return False, str(error)
    best = int(run.history["epoch"][np.argmax(run.history[select])])
    return saved == best, f"best.pt is of epoch {saved}; the highest {select} is that of epoch {best}"


def _accuracy(at_least: float, run: Run, model: nn.Module) -> tuple[bool, str]:
    reported, data = run.summary["reported"], run.config["data"]
    real = data["fingerprint"] == CIFAR10_FINGERPRINT
    evidence = f"{reported['test_acc']:.2f} % ({reported['chosen_by']}, epoch {reported['epoch']})"
    return real and reported["test_acc"] >= at_least, evidence + ("" if real else "; only the complete CIFAR-10 counts")


SOFTMAX_ONCE = ("Softmax once: the network returns logits, the loss holds the softmax", _logits)
CUSTOM_RESNET: Demands = [
    ("PrepLayer 64, Layer1 128 with R1, Layer2 256, Layer3 512 with R2", _custom_channels),
    ("conv 3x3, (MaxPool), BatchNorm, ReLU in this order; MaxPool kernel 4; FC", _custom_blocks),
    ("6,573,130 parameters (for ten classes)", partial(_parameters, 6_573_130)),
    SOFTMAX_ONCE,
    (
        "RandomCrop 32 after padding 4, flip left-right, CutOut 8x8",
        partial(_transforms, (*PAD_CROP, ("HorizontalFlip", {}), _cutout(8))),
    ),
    ("Batch size 512", _batch),
    ("24 epochs", partial(_epochs, 24)),
    ("LRMIN and LRMAX found by a range test", _found),
    ("OneCycle: maximum at epoch 5", _peak),
    ("No annihilation: the last learning rate is LRMIN", _no_annihilation),
    ("Test accuracy of 90 % on CIFAR-10", partial(_accuracy, 90)),
]


def _resnet18(norm: str, epochs: int, transforms: tuple[str, Check], target: tuple[str, Check]) -> Demands:
    return [
        ("ResNet18 for 32x32: a 3x3 stem, four layers of two blocks", _resnet18_channels),
        ("11,173,962 parameters (for ten classes)", partial(_parameters, 11_173_962)),
        (f"{norm} only, after every convolution", partial(_only_norm, norm)),
        SOFTMAX_ONCE,
        transforms,
        (f"{epochs} epochs", partial(_epochs, epochs)),
        ("ReduceLROnPlateau: the recorded learning rates are its decisions", _plateau),
        ("Held-out images decide, the test set decides nothing", _held_out),
        ("Best model saved", _best_saved),
        target,
    ]


NETWORK_DEMANDS = 3  # the first ones of every assignment are about the network, the others about its training
COLOURED = (("HorizontalFlip", {}), ("Rotate", {}), ("HueSaturationValue", {}), ("CoarseDropout", {}))
ROTATED = (*PAD_CROP, _cutout(16), ("Rotate", {"limit": (-5, 5), "p": 1.0}))
ASSIGNMENTS: dict[str, Demands] = {
    "custom_resnet": CUSTOM_RESNET,
    "resnet18_batchnorm": _resnet18(
        "BatchNorm",
        50,
        ("Albumentations' HorizontalFlip, Rotate, HueSaturationValue, CutOut", partial(_transforms, COLOURED)),
        ("At least 91.77 % on CIFAR-10, as published", partial(_accuracy, 91.77)),
    ),
    "resnet18_layernorm": _resnet18(
        "layer normalisation",
        40,
        ("RandomCrop 32 after padding 4, CutOut 16x16, Rotate by up to 5 degrees", partial(_transforms, ROTATED)),
        ("At least 84.50 % on CIFAR-10, as published (with BatchNorm, though)", partial(_accuracy, 84.50)),
    ),
}
