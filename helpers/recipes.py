"""Recipes: every hyperparameter of every training of the course, as data, in one place.

To change a hyperparameter, edit it here, or try `--set name=value` on the command line. To add a
recipe, add one to `RECIPES`. Nothing here imports torch, so that mistakes are found at once.
"""

import ast
import dataclasses
import difflib
from dataclasses import dataclass, field

from helpers.errors import CourseError


@dataclass(frozen=True)
class OneCycle:
    """One cycle of the learning rate (Smith & Topin 2017): up from lr_min to lr_max, and down again."""

    lr_max: float
    lr_min: float
    peak_epoch: float  # lr_max is reached with the last step of this epoch
    lr_end: float | None = None  # None: back to lr_min, that is, no annihilation
    anneal: str = "linear"  # "linear" or "cos"
    step: str = "batch"  # the scheduler is stepped after every "batch" or "epoch"
    momentum_min: float | None = None  # momentum at lr_max; None: momentum is not cycled
    momentum_max: float | None = None  # momentum at lr_min


@dataclass(frozen=True)
class Recipe:
    """One training, complete: what the assignment lists, and nothing that depends on the machine."""

    name: str
    title: str
    epochs: int
    batch_size: int
    schedule: OneCycle
    model: str = "custom_resnet"
    model_options: dict = field(default_factory=dict)
    # (albumentations class, arguments) in order. The word "mean" stands for the channel means of
    # the training data, "BORDER_..." for OpenCV's constant of that name.
    augmentation: tuple = ()
    optimizer: str = "SGD"  # a class of torch.optim
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    loss: str = "cross_entropy"  # or "cross_entropy_of_softmax", see helpers.training
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # per step; above 0 the averaged weights are evaluated and kept
    target: float = 0.0  # the test accuracy, in percent, that the assignment asks for


def _pad_crop(border_mode: str, **fill) -> tuple:
    pad = {"min_height": 40, "min_width": 40, "border_mode": border_mode, **fill}
    return ("PadIfNeeded", pad), ("RandomCrop", {"height": 32, "width": 32})


def _cutout(size: int, p: float = 1.0) -> tuple:
    """CutOut (DeVries & Taylor 2017) as albumentations spells it: one square hole inside the image."""
    hole = {"hole_height_range": (size, size), "hole_width_range": (size, size)}
    return "CoarseDropout", {"num_holes_range": (1, 1), **hole, "fill": "mean", "p": p}


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="custom_resnet",
            title="Custom ResNet with OneCycle",
            epochs=24,
            batch_size=512,
            model_options={"logit_scale": 0.125},
            augmentation=(
                *_pad_crop("BORDER_REFLECT_101"),
                ("HorizontalFlip", {"p": 0.5}),
                _cutout(8),
            ),
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            schedule=OneCycle(lr_max=0.4, lr_min=0.004, peak_epoch=5),
            label_smoothing=0.1,
            ema_decay=0.99,
            target=90.0,
        ),
        Recipe(
            name="published_s8_onecycle_sgd",
            title="Published S8: OneCycle per epoch, SGD, softmax before the loss",
            epochs=24,
            batch_size=512,
            momentum=0.9,
            # torch's OneCycleLR(max_lr=0.1834, total_steps=24, pct_start=5/24), its defaults spelt out:
            # it starts at max / 25, ends at that / 10,000, and cycles the momentum.
            schedule=OneCycle(
                lr_max=0.1834,
                lr_min=0.1834 / 25,
                lr_end=0.1834 / 25 / 1e4,
                peak_epoch=5,
                anneal="cos",
                step="epoch",
                momentum_min=0.85,
                momentum_max=0.95,
            ),
            loss="cross_entropy_of_softmax",
            target=90.0,
        ),
        Recipe(
            name="published_s9_onecycle_adam",
            title="Published S9: OneCycle, Adam, softmax before the loss",
            epochs=24,
            batch_size=512,
            model_options={"fc_bias": False},
            augmentation=(
                *_pad_crop("BORDER_CONSTANT", fill="mean"),
                ("HorizontalFlip", {"p": 0.2}),
                _cutout(8),
            ),
            optimizer="Adam",
            schedule=OneCycle(
                lr_max=0.0026827,
                lr_min=0.0026827 / 25,
                lr_end=0.0026827 / 25 / 1e4,
                peak_epoch=4.8,  # pct_start=0.2
                anneal="cos",
                momentum_min=0.85,
                momentum_max=0.95,
            ),
            loss="cross_entropy_of_softmax",
            target=90.0,
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises CourseError with the nearest names if there is none."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
    raise CourseError(f"There is no recipe {name!r}; did you mean {' or '.join(near)}?")
