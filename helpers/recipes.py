"""Recipes: every hyperparameter of every training of the course, as data, in one place.

To change a hyperparameter, edit it here, or try `--set name=value` on the command line. To add a recipe, add one to
`RECIPES`. pydantic checks values against the types beside them. Without torch, so that mistakes are found at once.
"""

import difflib
import json
from dataclasses import asdict, field, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from helpers.plumbing.errors import CourseError, in_words


def _as_tuples(value: object) -> object:  # JSON has lists only
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


# 1 is no True, "1" is no number; but a whole number is a float.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Channels = tuple[float, float, float]
Transform = tuple[str, dict[str, Annotated[Any, BeforeValidator(_as_tuples)]]]


@model_validator(mode="wrap")
@classmethod
def _in_a_sentence(cls, values, handler):
    """Turn pydantic's complaint about a new object of the class into a CourseError."""
    try:
        return handler(values)
    except ValidationError as error:
        if not hasattr(values, "kwargs"):  # a field of a recipe, not a call: the recipe's own validator says it
            raise
        raise CourseError(f"{in_words(error)} ({cls.__name__}).") from error


@dataclass(frozen=True, config=STRICT)
class OneCycle:
    """One cycle of the learning rate (Smith & Topin 2017): up from lr_min to lr_max, and down again."""

    lr_max: Positive
    lr_min: Positive
    peak_epoch: Positive  # lr_max is reached with the last step of this epoch
    lr_end: Positive | None = None  # None: back to lr_min, that is, no annihilation
    anneal: Literal["linear", "cos"] = "linear"
    step: Literal["batch", "epoch"] = "batch"  # the scheduler is stepped after every batch or epoch
    momentum_min: Share | None = None  # momentum at lr_max; None: momentum is not cycled
    momentum_max: Share | None = None  # momentum at lr_min

    lr_start = property(lambda self: self.lr_min)
    _checked = _in_a_sentence

    def stretched(self, factor: float) -> "OneCycle":
        return replace(self, peak_epoch=round(self.peak_epoch * factor, 12))

    def problem(self, recipe: "Recipe") -> str:
        """Name the values that do not fit together, or nothing."""
        if not self.lr_min < self.lr_max:
            return f"lr_min has to be below lr_max, not {self.lr_min:g} with lr_max {self.lr_max:g}"
        if self.lr_end is not None and self.lr_end > self.lr_max:
            return f"lr_end has to be at most lr_max, not {self.lr_end:g}"
        momenta = self.momentum_min, self.momentum_max
        if momenta != (None, None) and (None in momenta or not 0 < momenta[0] <= momenta[1]):
            return f"momentum_min and momentum_max have to be given together and in order, not {momenta}"
        if self.peak_epoch >= recipe.epochs:
            return f"peak_epoch has to lie before the last epoch, {recipe.epochs}, not at {self.peak_epoch:g}"
        return ""


@dataclass(frozen=True, config=STRICT)
class Plateau:
    """Reduce the learning rate when what is monitored stops improving: torch's ReduceLROnPlateau.

    An accuracy is better the higher it is (its mode is "max"), a loss the lower ("min").
    """

    lr: Positive
    monitor: Literal["val_acc", "val_loss", "train_loss", "test_acc", "test_loss"]  # a column of the history
    factor: Annotated[float, Field(gt=0, lt=1)]  # the learning rate is multiplied by it
    patience: Annotated[int, Field(ge=0)]  # epochs without improvement that are waited for
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0  # the learning rate first rises linearly to lr
    threshold: Share = 1e-4  # better by less than this part of the best value is no improvement; torch's default

    lr_start = property(lambda self: self.lr)
    mode = property(lambda self: "max" if self.monitor.endswith("_acc") else "min")
    _checked = _in_a_sentence

    def stretched(self, factor: float) -> "Plateau":
        return replace(self, warmup_epochs=round(self.warmup_epochs * factor, 12))

    def problem(self, recipe: "Recipe") -> str:
        """Name the values that do not fit together, or nothing."""
        if self.warmup_epochs >= recipe.epochs:
            return f"warmup_epochs has to be below {recipe.epochs}, not {self.warmup_epochs:g}"
        if self.monitor.startswith("val_") and not recipe.validation_images:
            return f"monitor={self.monitor} needs validation_images above 0"
        return ""


@dataclass(frozen=True, config=STRICT)
class About:
    """Facts about a recipe that change nothing in its training. Accuracies are in %."""

    assignment: str | None = None  # by whose demands its runs are judged, see helpers.assignment.checklist
    gallery: int = 20  # correct and misclassified images of each kind that it wants to see
    seeds: tuple[int, ...] = (0,)  # which `reproduce` trains
    others: float | None = None  # test accuracy: the best that a log proves; of a published recipe, its last epoch's
    others_train: float | None = None  # of a published recipe: the training accuracy of its last epoch
    claimed: float | None = None  # what others claim and no log proves
    source: str = ""  # repository of a published recipe
    differs: tuple[str, ...] = ()  # of a published recipe: what could not be repeated exactly
    _checked = _in_a_sentence


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """One training, complete: what the assignment lists. Raises CourseError for values that cannot be trained with."""

    name: str
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1)]
    schedule: OneCycle | Plateau
    model: Literal["custom_resnet", "resnet18"] = "custom_resnet"
    width: Annotated[int, Field(ge=1, le=1024)] = 64  # channels of the first layer; later ones have 2, 4, 8 times that
    fc_bias: bool = True  # custom_resnet
    logit_scale: Positive = 1.0  # custom_resnet: multiplies the logits
    norm: Literal["batch", "layer"] = "batch"  # resnet18: BatchNorm or layer normalisation
    weight_standardization: bool = False  # resnet18: filters of mean 0 and variance 1 / fan-in
    sync_batchnorm: bool = False  # several GPUs: BatchNorm statistics of the whole batch, not of each GPU's share
    dropout_stem: Share = 0.0  # resnet18: the share of channels that Dropout2d drops after the stem,
    dropout: Share = 0.0  # in every block after its first ReLU,
    dropout_norm2: Share = 0.0  # after its second norm,
    dropout_shortcut: Share = 0.0  # and after its shortcut's norm
    zero_init_residual: bool = False  # resnet18: every block starts as its shortcut alone
    # (mean, standard deviation) of the three channels, pixels / 255; None: those of the training images
    normalisation: tuple[Channels, tuple[Positive, Positive, Positive]] | None = None
    # (class of albumentations or of helpers.augmentation, arguments) in order. The word "mean" stands for the mean
    # of the normalisation, "BORDER_..." for OpenCV's constant of that name.
    augmentation: tuple[Transform, ...] = ()
    optimizer: Literal["SGD", "Adam", "AdamW", "RMSprop"] = "SGD"  # a class of torch.optim
    momentum: Share = 0.0  # SGD and RMSprop
    nesterov: bool = False  # SGD
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_vectors: bool = True  # False: no weight decay on biases and normalisation parameters
    clip_norm: Annotated[float, Field(ge=0)] = 0.0  # above 0: the gradient is scaled down to this norm
    loss: Literal["cross_entropy", "cross_entropy_of_softmax"] = "cross_entropy"  # see helpers.evaluation
    label_smoothing: Share = 0.0
    ema_decay: Share = 0.0  # per step; above 0 the averaged weights are evaluated and kept
    validation_images: Annotated[int, Field(ge=0)] = 0  # held out of the training set, the same share of each class
    select: Literal["last", "val_acc", "test_acc"] = "last"  # the epoch that is reported: the last, or the best by it
    flip_averaging: bool = False  # also report the mean of the logits of each test image and its mirror image
    about: About = field(default=About(), compare=False)

    published = property(lambda self: bool(self.about.source))  # it repeats what others ran

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values, handler):
        name = (getattr(values, "kwargs", None) or {}).get("name", "")
        try:
            recipe = handler(values)
        except ValidationError as error:
            raise CourseError(f"The recipe {name} cannot be trained: {in_words(error)}.") from error
        if problem := recipe.schedule.problem(recipe) or recipe.problem():
            raise CourseError(f"The recipe {name} cannot be trained: {problem}.")
        return recipe

    def problem(self) -> str:
        """Name the values that do not fit together, or nothing."""
        if self.nesterov and not self.momentum:
            return "nesterov=True needs a momentum above 0"
        if self.select == "val_acc" and not self.validation_images:
            return "select=val_acc needs validation_images above 0"
        for item in fields(self):
            if item.name in UNREAD[self.model] and getattr(self, item.name) != item.default:
                return f"{self.model} does not read {item.name}={getattr(self, item.name)}"
        return ""


DROPOUTS = ("dropout_stem", "dropout", "dropout_norm2", "dropout_shortcut")
UNREAD = {  # a change of these would change nothing
    "resnet18": ("fc_bias", "logit_scale"),
    "custom_resnet": ("norm", "weight_standardization", "zero_init_residual", *DROPOUTS),
}
_PAD_CROP = (
    ("PadIfNeeded", {"min_height": 40, "min_width": 40, "border_mode": "BORDER_REFLECT_101"}),
    ("RandomCrop", {"height": 32, "width": 32}),
)


def _cutout(size: int, p: float = 1.0) -> Transform:
    """CutOut (DeVries & Taylor 2017) as albumentations spells it: one square hole inside the image."""
    hole = {"hole_height_range": (size, size), "hole_width_range": (size, size)}
    return "CoarseDropout", {"num_holes_range": (1, 1), **hole, "fill": "mean", "p": p}


_MEAN = (0.4914, 0.4822, 0.4465)
_OLD_DEVIATION = (0.2023, 0.1994, 0.2010)  # a mean over images of each image's own deviation: not CIFAR-10's
_OLD_HOLES = (
    "a hole over the upper or left border was moved inside then (albumentations 0.4 to 1.3); here it is cut off"
)
_FLOAT32 = "float32 where it was trained; bfloat16 or float16 here where the device has them"


def _by_name(*recipes: Recipe) -> dict[str, Recipe]:
    """Raises CourseError if two recipes have one name: the second would silently replace the first."""
    named = {recipe.name: recipe for recipe in recipes}
    if len(named) < len(recipes):
        twice = next(recipe.name for recipe in recipes if named[recipe.name] is not recipe)
        raise CourseError(f"Two recipes in helpers/recipes.py are called {twice}: give the copy a name of its own.")
    return named


# fmt: off
RECIPES = _by_name(  # in the order in which results are shown: ours, then the published ones
    Recipe(
        name="custom_resnet", epochs=24, batch_size=512, logit_scale=0.125,
        augmentation=(*_PAD_CROP, ("HorizontalFlip", {"p": 0.5}), _cutout(8)),
        momentum=0.9, nesterov=True,
        weight_decay=1e-3,  # found on held-out images, results/SEARCH.md
        schedule=OneCycle(lr_max=0.2, lr_min=0.003, peak_epoch=5),  # as the range test found them, notebook 01
        label_smoothing=0.1, ema_decay=0.99, flip_averaging=True,
        about=About(assignment="custom_resnet", seeds=(0, 1, 2, 3, 4), others=93.69),
    ),
    Recipe(
        name="resnet18_batchnorm", epochs=50, batch_size=128,
        model="resnet18", zero_init_residual=True,
        augmentation=(
            ("HorizontalFlip", {"p": 0.5}),
            ("Rotate", {"limit": (-10, 10), "border_mode": "BORDER_REFLECT_101", "p": 0.5}),
            ("HueSaturationValue", {"hue_shift_limit": 5, "sat_shift_limit": 15, "val_shift_limit": 10, "p": 0.3}),
            _cutout(16),
        ),
        momentum=0.9, nesterov=True, weight_decay=1e-3,
        schedule=Plateau(lr=0.1, monitor="val_acc", factor=0.2, patience=2, warmup_epochs=3),
        label_smoothing=0.1, ema_decay=0.995,
        validation_images=2500, select="val_acc", flip_averaging=True,
        about=About(assignment="resnet18_batchnorm", gallery=25, seeds=(0, 1, 2), others=93.01, claimed=93.80),
    ),
    Recipe(
        name="resnet18_layernorm", epochs=40, batch_size=128,
        model="resnet18", norm="layer", weight_standardization=True,
        augmentation=(
            *_PAD_CROP,
            _cutout(16),
            ("Rotate", {"limit": (-5, 5), "border_mode": "BORDER_REFLECT_101", "p": 1.0}),
        ),
        momentum=0.9, nesterov=True, weight_decay=5e-4, decay_vectors=False, clip_norm=1.0,
        # With averaged weights the accuracy creeps up by a hair for dozens of epochs: 0.4 points count.
        schedule=Plateau(lr=0.1, monitor="val_acc", factor=0.2, patience=2, warmup_epochs=3, threshold=0.005),
        label_smoothing=0.1, ema_decay=0.995,
        validation_images=2500, select="val_acc", flip_averaging=True,
        about=About(assignment="resnet18_layernorm", seeds=(0, 1, 2), others=89.68, claimed=90.03),
    ),
    # The published ones: as they were really run, mistakes and test set included (results/PUBLISHED.md)
    Recipe(
        name="published_s8_onecycle_sgd", epochs=24, batch_size=512,
        momentum=0.9, weight_decay=1e-4,
        # torch's OneCycleLR(max_lr=0.18348291, total_steps=24, pct_start=5/24), its defaults spelt out
        schedule=OneCycle(
            lr_max=0.18348291, lr_min=0.18348291 / 25, lr_end=0.18348291 / 25 / 1e4, peak_epoch=5,
            anneal="cos", step="epoch", momentum_min=0.85, momentum_max=0.95,
        ),
        loss="cross_entropy_of_softmax",
        about=About(  # seeds, here and below, that kept all classes through an epoch: results/lost_classes*.csv
            "custom_resnet", seeds=(3,), others=87.15, others_train=97.02, source="Gokulapps/EVA-Assignments, S8",
            differs=("one GPU or two is not known: with two, BatchNorm saw 256 images of each batch", _FLOAT32),
        ),
    ),
    Recipe(
        name="published_s9_onecycle_adam", epochs=24, batch_size=512, fc_bias=False,
        augmentation=(*_PAD_CROP, ("HorizontalFlip", {"p": 0.2}), _cutout(8, p=0.5)),
        optimizer="Adam",
        schedule=OneCycle(  # pct_start=0.2; ends and momentum as torch's OneCycleLR has them by default
            lr_max=0.0026826958, lr_min=0.0026826958 / 25, lr_end=0.0026826958 / 25 / 1e4, peak_epoch=4.8,
            anneal="cos", momentum_min=0.85, momentum_max=0.95,
        ),
        loss="cross_entropy_of_softmax",
        about=About(
            "custom_resnet", seeds=(3, 8), others=90.63, others_train=94.59, source="a-pujahari/EVA7, S9",
            differs=("its code changed while it ran: its hole may have been cut off at the lower and right border",
                     "a crop never began at the last of nine rows or columns then (albumentations 0.4)", _FLOAT32),
        ),
    ),
    Recipe(
        name="published_s10_plateau_sgd", epochs=50, batch_size=64,
        model="resnet18",
        normalisation=(_MEAN, _OLD_DEVIATION),
        augmentation=(
            ("RandomBrightnessContrast", {"brightness_limit": 0, "contrast_limit": 0.2, "p": 0.5}),
            ("CutOut", {"size": 16, "fill": 0, "p": 0.75}),
            ("HorizontalFlip", {"p": 0.5}),
        ),
        momentum=0.9, weight_decay=5e-4,
        schedule=Plateau(lr=0.0095454846, monitor="test_loss", factor=0.1, patience=10),
        about=About(
            "resnet18_batchnorm", gallery=25, others=91.77, others_train=98.40, source="RaviVaishnav20/TSAI-EVA5, S10",
            differs=(_OLD_HOLES, _FLOAT32),
        ),
    ),
    Recipe(
        name="published_s10_plateau_albumentations", epochs=50, batch_size=128,
        model="resnet18", dropout_stem=0.05, dropout=0.1, dropout_norm2=0.1, dropout_shortcut=0.1,
        normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        augmentation=(
            ("HorizontalFlip", {"p": 0.5}),
            ("Rotate", {"limit": (-2, 2), "border_mode": "BORDER_REFLECT_101", "p": 0.5}),
            ("HueSaturationValue", {"hue_shift_limit": 3, "sat_shift_limit": 2, "val_shift_limit": 20, "p": 0.5}),
            ("CutOut", {"size": 8, "holes": 3, "fill": 0, "p": 0.5}),
        ),
        momentum=0.9, weight_decay=1e-3,
        schedule=Plateau(lr=0.05, monitor="test_loss", factor=0.1, patience=3),
        about=About(
            "resnet18_batchnorm", gallery=25, others=91.73, others_train=98.32, source="pratikiiitb2013/EVA4, S10",
            differs=("its holes may have been 6x6: its code says 8, a picture in its notebook shows 6", _FLOAT32),
        ),
    ),
    Recipe(
        name="published_s11_plateau_batchnorm", epochs=20, batch_size=256,
        model="resnet18",
        normalisation=(_MEAN, _OLD_DEVIATION),
        augmentation=(
            ("CutOut", {"size": 8, "fill": "mean", "p": 0.5}),
            ("HorizontalFlip", {"p": 0.1}),
            # once ShiftScaleRotate(shift_limit=0.0625, scale_limit=0.5, rotate_limit=45)
            ("Affine", {"translate_percent": (-0.0625, 0.0625), "scale": (0.5, 1.5), "keep_ratio": True,
                        "rotate": (-45, 45), "border_mode": "BORDER_REFLECT_101", "p": 0.75}),
            ("GaussNoise", {"std_range": (10**0.5 / 255, 50**0.5 / 255), "p": 0.15}),
            ("ThreePointAffine", {"most": 50, "p": 0.15}),
        ),
        momentum=0.9,
        schedule=Plateau(lr=0.01, monitor="test_acc", factor=0.8, patience=5), select="test_acc",
        about=About(
            "resnet18_layernorm", others=84.50, others_train=73.59, source="monimoydebp/session11",
            differs=(_OLD_HOLES, "noise: its deviation is drawn evenly, not its variance", _FLOAT32,
                     "ElasticTransform without its elastic part, which moved pixels by 0.02 of their width"),
        ),
    ),
)

# Fast mode: narrow networks that learn the synthetic pictures in a minute or less; never a result.
FAST = {
    "custom_resnet": {"epochs": 6, "batch_size": 64, "width": 16},
    # No narrower: with 8 or 12 channels ResNet18's backward pass crashes PyTorch 2.14 on some processors.
    "resnet18": {"epochs": 8, "batch_size": 32, "width": 16, "lr": 0.03, "ema_decay": 0.98, "patience": 3,
                 "zero_init_residual": False},  # blocks that start as their shortcut would need more steps than these
}
# fmt: on
FAST_LIMIT = 2000  # images
FAST_HOLE = 4  # pixels: a hole of 16x16 hides most of a synthetic shape


def get_recipe(name: str, *, fast: bool = False) -> Recipe:
    """The recipe of that name, in fast mode for a narrow network and FAST_LIMIT images.

    Raises CourseError with the nearest names if there is none.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise CourseError(f"There is no recipe {name!r}; did you mean {' or '.join(near)}?")
    recipe = RECIPES[name]
    if not fast:
        return recipe
    own = FAST.get(recipe.model, FAST["custom_resnet"])  # of an added network or schedule, what fits
    values = {key: own[key] for key in own.keys() & as_dict(recipe)}
    recipe = with_epochs(recipe, values.pop("epochs"))
    values["validation_images"] = min(recipe.validation_images, FAST_LIMIT // 16)
    small = {"hole_height_range": (FAST_HOLE, FAST_HOLE), "hole_width_range": (FAST_HOLE, FAST_HOLE)}
    augmentation = tuple(
        (name, arguments | small if name == "CoarseDropout" else arguments) for name, arguments in recipe.augmentation
    )
    return replace(changed(recipe, values), augmentation=augmentation)


def changed(recipe: Recipe, assignments: dict[str, object]) -> Recipe:
    """The recipe with some values replaced, each by its name, those of the schedule included.

    Raises CourseError for an unknown name or a value that does not fit.
    """
    values = as_dict(recipe)
    names = sorted(values.keys() - {"name"})
    for key in assignments:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=3, cutoff=0.5) or names
            raise CourseError(f"The recipe {recipe.name} has no value {key!r}; did you mean {' or '.join(near)}?")
    return replace(from_dict(values | assignments), about=recipe.about)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over another number of epochs, its schedule stretched or squeezed to them."""
    if type(epochs) is not int or epochs < 1:
        raise CourseError(f"epochs has to be a whole number of 1 or more, not {epochs}.")
    return replace(recipe, epochs=epochs, schedule=recipe.schedule.stretched(epochs / recipe.epochs))


def as_dict(recipe: Recipe) -> dict:
    """The recipe as JSON types; the schedule's values by their own names."""
    values = asdict(recipe)
    del values["about"]
    return json.loads(json.dumps(values | values.pop("schedule")))


def from_dict(values: dict) -> Recipe:
    """The recipe that `as_dict` was given; values that it did not know yet have their defaults.

    Raises CourseError if it is none.
    """
    values = {key: _as_tuples(value) for key, value in values.items()}
    own = RECIPES.get(str(values.get("name")))
    kind = OneCycle if "lr_max" in values else Plateau
    try:
        schedule = kind(**{item.name: values.pop(item.name) for item in fields(kind) if item.name in values})
    except CourseError as error:
        raise CourseError(f"The recipe {values.get('name')} cannot be trained: {error}") from error
    return Recipe(**values | {"schedule": schedule, "about": own.about if own else About()})
