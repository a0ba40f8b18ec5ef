"""Recipes: every hyperparameter of every training of the course, as data, in one place.

To change a hyperparameter, edit it here, or try `--set name=value` on the command line. To add a
recipe, add one to `RECIPES`. Nothing here imports torch, so that mistakes are found at once.
"""

import ast
import difflib
import json
import math
from collections.abc import Collection
from dataclasses import MISSING, asdict, dataclass, field, fields, replace

from helpers.plumbing.errors import CourseError

Problems = tuple[tuple[bool, str], ...]  # (whether something is wrong, what)
DROPOUTS = ("dropout_stem", "dropout", "dropout_norm2", "dropout_shortcut")
STRUCTURED = ("name", "schedule", "augmentation", "normalisation", "differs")  # no single values


def _checked(kind: type, value: object, key: str, old: object) -> object:
    """`value` if it is of type `kind`, whole numbers also where a number is due; else CourseError."""
    if kind in (float, float | None) and type(value) is int and abs(value) < 1e300:
        value = float(value)
    if type(value) is float and not math.isfinite(value):
        raise CourseError(f"{key} has to be a number that is finite, not {value}.")
    if (type(value) is bool and kind is not bool) or not isinstance(value, kind):
        due = {bool: "True or False", int: "a whole number", str: "a word"}.get(kind, "a number")
        example = "" if old is MISSING else f", as in {key}={old}"
        raise CourseError(f"{key} has to be {due}{example}, not {value!r}.")
    return value


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

    @property
    def lr_start(self) -> float:
        return self.lr_min

    def stretched(self, factor: float) -> "OneCycle":
        return replace(self, peak_epoch=round(self.peak_epoch * factor, 12))

    def problems(self, recipe: "Recipe") -> Problems:
        momenta = self.momentum_min, self.momentum_max
        return (
            (
                not 0 < self.lr_min < self.lr_max,
                f"lr_min has to be above 0 and below lr_max, not {self.lr_min:g} with lr_max {self.lr_max:g}",
            ),
            (
                self.lr_end is not None and not 0 < self.lr_end <= self.lr_max,
                f"lr_end has to be above 0 and not above lr_max, not {self.lr_end}",
            ),
            (
                momenta != (None, None) and (None in momenta or not 0 < momenta[0] <= momenta[1] < 1),
                f"momentum_min and momentum_max have to be given together, in order and within (0, 1), not {momenta}",
            ),
            (
                not 0 < self.peak_epoch < recipe.epochs,
                f"peak_epoch has to be above 0 and before the last epoch, {recipe.epochs}, not {self.peak_epoch:g}",
            ),
        )


@dataclass(frozen=True)
class Plateau:
    """Reduce the learning rate when what is monitored stops improving: torch's ReduceLROnPlateau.

    An accuracy is better the higher it is (its mode is "max"), a loss the lower ("min").
    """

    lr: float
    monitor: str  # a column of the history: "val_acc", "val_loss", "test_acc" or "test_loss"
    factor: float  # the learning rate is multiplied by it
    patience: int  # epochs without improvement that are waited for
    warmup_epochs: float = 0.0  # the learning rate first rises linearly to lr
    threshold: float = 1e-4  # better by less than this part of the best value is no improvement; torch's default

    @property
    def lr_start(self) -> float:
        return self.lr

    @property
    def mode(self) -> str:
        return "max" if self.monitor.endswith("_acc") else "min"

    def stretched(self, factor: float) -> "Plateau":
        return replace(self, warmup_epochs=round(self.warmup_epochs * factor, 12))

    def problems(self, recipe: "Recipe") -> Problems:
        return (
            (self.lr <= 0, f"lr has to be above 0, not {self.lr:g}"),
            (not 0 < self.factor < 1, f"factor has to be within (0, 1), not {self.factor:g}"),
            (self.patience < 0, f"patience cannot be negative, not {self.patience}"),
            (not 0 <= self.threshold < 1, f"threshold has to be within [0, 1), not {self.threshold:g}"),
            (
                not 0 <= self.warmup_epochs < recipe.epochs,
                f"warmup_epochs has to be 0 or more and below {recipe.epochs}, not {self.warmup_epochs:g}",
            ),
            (
                self.monitor.startswith("val_") and not recipe.validation_images,
                f"monitor={self.monitor} needs validation_images above 0",
            ),
        )


@dataclass(frozen=True)
class Recipe:
    """One training, complete: what the assignment lists, and nothing that depends on the machine."""

    name: str
    epochs: int
    batch_size: int
    schedule: OneCycle | Plateau
    model: str = "custom_resnet"
    width: int = 64  # channels of the first layer; the others have 2, 4, 8 times as many
    fc_bias: bool = True  # custom_resnet
    logit_scale: float = 1.0  # custom_resnet: multiplies the logits
    norm: str = "batch"  # resnet18: BatchNorm, or "layer" normalisation
    weight_standardization: bool = False  # resnet18: all filters of mean 0 and one variance
    sync_batchnorm: bool = False  # several GPUs: BatchNorm statistics of the whole batch, not of each GPU's share
    # resnet18: the share of channels that Dropout2d drops after the stem, and in every block after its first ReLU,
    # its second norm and its shortcut's norm
    dropout_stem: float = 0.0
    dropout: float = 0.0
    dropout_norm2: float = 0.0
    dropout_shortcut: float = 0.0
    zero_init_residual: bool = False  # resnet18: every block starts as the identity
    # (mean, standard deviation) of the three channels, pixels / 255; None: those of the training images
    normalisation: tuple | None = None
    # (class of albumentations or of helpers.augmentation, arguments) in order. The word "mean" stands for the mean
    # of the normalisation, "BORDER_..." for OpenCV's constant of that name.
    augmentation: tuple = ()
    optimizer: str = "SGD"  # a class of torch.optim
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_vectors: bool = True  # False: no weight decay on biases and normalisation parameters
    clip_norm: float = 0.0  # above 0: the gradient is scaled down to this norm
    loss: str = "cross_entropy"  # or "cross_entropy_of_softmax", see helpers.evaluation
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # per step; above 0 the averaged weights are evaluated and kept
    validation_images: int = 0  # held out of the training set, the same share of each class
    select: str = "last"  # the epoch that is reported: the "last", or the best by "val_acc" or "test_acc"
    flip_averaging: bool = False  # also report the mean of the logits of each test image and its mirror image
    # Of a published recipe: what could not be repeated exactly. It is no part of a run's configuration.
    differs: tuple = field(default=(), compare=False)

    @property
    def published(self) -> bool:
        """Whether it repeats what others ran, instead of being the course's own."""
        return self.name.startswith("published_")

    def _unread(self) -> Problems:
        """Values that this network does not read: a change of them would change nothing."""
        others = {
            "resnet18": ("fc_bias", "logit_scale"),
            "custom_resnet": ("norm", "weight_standardization", "zero_init_residual", *DROPOUTS),
        }
        defaults = {item.name: item.default for item in fields(self)}
        return tuple(
            (getattr(self, key) != defaults[key], f"{self.model} does not read {key}={getattr(self, key)}")
            for key in others.get(self.model, ())
        )

    def __post_init__(self):
        """Raises CourseError for values that cannot be trained with."""
        for part in (self, self.schedule):
            for item in fields(part):
                if item.name not in STRUCTURED:
                    _checked(item.type, getattr(part, item.name), item.name, item.default)
        problems = (
            (not 1 <= self.epochs <= 100_000, f"epochs has to be within 1 and 100,000, not {self.epochs}"),
            (self.batch_size < 1, f"batch_size has to be 1 or more, not {self.batch_size}"),
            (self.validation_images < 0, f"validation_images cannot be negative, not {self.validation_images}"),
            (not 0 <= self.ema_decay < 1, f"ema_decay has to be in [0, 1), not {self.ema_decay}"),
            (not 0 <= self.label_smoothing < 1, f"label_smoothing has to be in [0, 1), not {self.label_smoothing}"),
            (not 0 <= self.momentum < 1, f"momentum has to be in [0, 1), not {self.momentum}"),
            (self.logit_scale <= 0, f"logit_scale has to be above 0, not {self.logit_scale}"),
            *(
                (not 0 <= getattr(self, name) < 1, f"{name} has to be in [0, 1), not {getattr(self, name)}")
                for name in DROPOUTS
            ),
            (not 1 <= self.width <= 1024, f"width has to be within 1 and 1024, not {self.width}"),
            (not _is_normalisation(self.normalisation), "normalisation has to be two triples, (mean, deviation > 0)"),
            (self.nesterov and not self.momentum, "nesterov=True needs a momentum above 0"),
            (self.weight_decay < 0, f"weight_decay cannot be negative, not {self.weight_decay}"),
            (self.clip_norm < 0, f"clip_norm cannot be negative, not {self.clip_norm}"),
            (
                self.select == "val_acc" and not self.validation_images,
                "select=val_acc needs validation_images above 0",
            ),
        )
        for wrong, sentence in (*problems, *self._unread(), *self.schedule.problems(self)):
            if wrong:
                raise CourseError(f"The recipe {self.name} cannot be trained: {sentence}.")
        for key, allowed in CHOICES.items():
            for part in (self, self.schedule):
                if getattr(part, key, allowed[0]) not in allowed:
                    raise CourseError(
                        f"The recipe {self.name} has {key}={getattr(part, key)!r}: choose one of {', '.join(allowed)}."
                    )


def _is_normalisation(value: object) -> bool:
    if value is None:
        return True
    triples = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, tuple) and len(v) == 3 for v in value)
    return triples and all(type(number) is float for part in value for number in part) and min(value[1]) > 0


def _pad_crop(border_mode: str, **fill) -> tuple:
    pad = {"min_height": 40, "min_width": 40, "border_mode": border_mode, **fill}
    return ("PadIfNeeded", pad), ("RandomCrop", {"height": 32, "width": 32})


def _cutout(size: int, p: float = 1.0) -> tuple:
    """CutOut (DeVries & Taylor 2017) as albumentations spells it: one square hole inside the image."""
    hole = {"hole_height_range": (size, size), "hole_width_range": (size, size)}
    return "CoarseDropout", {"num_holes_range": (1, 1), **hole, "fill": "mean", "p": p}


_CROP_CUTOUT_ROTATE = (
    *_pad_crop("BORDER_REFLECT_101"),
    _cutout(16),
    ("Rotate", {"limit": (-5, 5), "border_mode": "BORDER_REFLECT_101", "p": 1.0}),
)

_MEAN = (0.4914, 0.4822, 0.4465)
_OLD_DEVIATION = (0.2023, 0.1994, 0.2010)  # a mean over images of each image's own deviation: not CIFAR-10's
_OLD_HOLES = (
    "a hole over the upper or left border was moved inside then (albumentations 0.4 to 1.3); here it is cut off"
)
_FLOAT32 = "float32 where it was trained; bfloat16 or float16 here where the device has them"

CHOICES = {
    "model": ("custom_resnet", "resnet18"),
    "norm": ("batch", "layer"),
    "monitor": ("val_acc", "val_loss", "test_acc", "test_loss"),
    "optimizer": ("SGD", "Adam"),
    "loss": ("cross_entropy", "cross_entropy_of_softmax"),
    "select": ("last", "val_acc", "test_acc"),
    "anneal": ("linear", "cos"),
    "step": ("batch", "epoch"),
}

RECIPES = {  # in the order in which results are shown: ours, then the published ones
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="custom_resnet",
            epochs=24,
            batch_size=512,
            logit_scale=0.125,
            augmentation=(
                *_pad_crop("BORDER_REFLECT_101"),
                ("HorizontalFlip", {"p": 0.5}),
                _cutout(8),
            ),
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-3,  # found on held-out images, results/SEARCH.md
            schedule=OneCycle(lr_max=0.2, lr_min=0.003, peak_epoch=5),  # as the range test found them, notebook 01
            label_smoothing=0.1,
            ema_decay=0.99,
            flip_averaging=True,
        ),
        Recipe(
            name="resnet18_batchnorm",
            epochs=50,
            batch_size=128,
            model="resnet18",
            zero_init_residual=True,
            augmentation=(
                ("HorizontalFlip", {"p": 0.5}),
                ("Rotate", {"limit": (-10, 10), "border_mode": "BORDER_REFLECT_101", "p": 0.5}),
                (
                    "HueSaturationValue",
                    {"hue_shift_limit": 5, "sat_shift_limit": 15, "val_shift_limit": 10, "p": 0.3},
                ),
                _cutout(16),
            ),
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-3,
            schedule=Plateau(lr=0.1, monitor="val_acc", factor=0.2, patience=2, warmup_epochs=3),
            label_smoothing=0.1,
            ema_decay=0.995,
            validation_images=2500,
            select="val_acc",
            flip_averaging=True,
        ),
        Recipe(
            name="resnet18_layernorm",
            epochs=40,
            batch_size=128,
            model="resnet18",
            norm="layer",
            weight_standardization=True,
            augmentation=_CROP_CUTOUT_ROTATE,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            decay_vectors=False,
            clip_norm=1.0,
            # With averaged weights the accuracy creeps up by a hair for dozens of epochs: 0.4 points count.
            schedule=Plateau(lr=0.1, monitor="val_acc", factor=0.2, patience=2, warmup_epochs=3, threshold=0.005),
            label_smoothing=0.1,
            ema_decay=0.995,
            validation_images=2500,
            select="val_acc",
            flip_averaging=True,
        ),
        # The published ones: as they were really run, mistakes included (results/PUBLISHED.md). Those of ResNet18
        # monitor the test set, as they did.
        Recipe(
            name="published_s8_onecycle_sgd",
            epochs=24,
            batch_size=512,
            momentum=0.9,
            weight_decay=1e-4,
            # torch's OneCycleLR(max_lr=0.18348291, total_steps=24, pct_start=5/24), its defaults spelt out:
            # it starts at max / 25, ends at that / 10,000, and cycles the momentum.
            schedule=OneCycle(
                lr_max=0.18348291,
                lr_min=0.18348291 / 25,
                lr_end=0.18348291 / 25 / 1e4,
                peak_epoch=5,
                anneal="cos",
                step="epoch",
                momentum_min=0.85,
                momentum_max=0.95,
            ),
            loss="cross_entropy_of_softmax",
            differs=("one or two GPUs, which is not known: with two, BatchNorm saw 256 images of each batch", _FLOAT32),
        ),
        Recipe(
            name="published_s9_onecycle_adam",
            epochs=24,
            batch_size=512,
            fc_bias=False,
            augmentation=(
                *_pad_crop("BORDER_REFLECT_101"),
                ("HorizontalFlip", {"p": 0.2}),
                _cutout(8, p=0.5),
            ),
            optimizer="Adam",
            schedule=OneCycle(  # ends and momentum as torch's OneCycleLR has them by default
                lr_max=0.0026826958,
                lr_min=0.0026826958 / 25,
                lr_end=0.0026826958 / 25 / 1e4,
                peak_epoch=4.8,  # pct_start=0.2
                anneal="cos",
                momentum_min=0.85,
                momentum_max=0.95,
            ),
            loss="cross_entropy_of_softmax",
            differs=(
                "its code changed while it ran: its hole may have been cut off at the lower and right border",
                "a crop never began at the last of nine rows or columns then (albumentations 0.4)",
                _FLOAT32,
            ),
        ),
        Recipe(
            name="published_s10_plateau_sgd",
            epochs=50,
            batch_size=64,
            model="resnet18",
            normalisation=(_MEAN, _OLD_DEVIATION),
            augmentation=(
                ("RandomBrightnessContrast", {"brightness_limit": 0, "contrast_limit": 0.2, "p": 0.5}),
                ("CutOut", {"size": 16, "fill": 0, "p": 0.75}),
                ("HorizontalFlip", {"p": 0.5}),
            ),
            momentum=0.9,
            weight_decay=5e-4,
            schedule=Plateau(lr=0.0095454846, monitor="test_loss", factor=0.1, patience=10),
            differs=(_OLD_HOLES, _FLOAT32),
        ),
        Recipe(
            name="published_s10_plateau_albumentations",
            epochs=50,
            batch_size=128,
            model="resnet18",
            dropout_stem=0.05,
            dropout=0.1,
            dropout_norm2=0.1,
            dropout_shortcut=0.1,
            normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            augmentation=(
                ("HorizontalFlip", {"p": 0.5}),
                ("Rotate", {"limit": (-2, 2), "border_mode": "BORDER_REFLECT_101", "p": 0.5}),
                (
                    "HueSaturationValue",
                    {"hue_shift_limit": 3, "sat_shift_limit": 2, "val_shift_limit": 20, "p": 0.5},
                ),
                ("CutOut", {"size": 8, "holes": 3, "fill": 0, "p": 0.5}),
            ),
            momentum=0.9,
            weight_decay=1e-3,
            schedule=Plateau(lr=0.05, monitor="test_loss", factor=0.1, patience=3),
            differs=("its holes may have been 6x6: its code says 8, a picture in its notebook shows 6", _FLOAT32),
        ),
        Recipe(
            name="published_s11_plateau_batchnorm",
            epochs=20,
            batch_size=256,
            model="resnet18",
            normalisation=(_MEAN, _OLD_DEVIATION),
            augmentation=(
                ("CutOut", {"size": 8, "fill": "mean", "p": 0.5}),
                ("HorizontalFlip", {"p": 0.1}),
                (
                    "Affine",  # once ShiftScaleRotate(shift_limit=0.0625, scale_limit=0.5, rotate_limit=45)
                    {
                        "translate_percent": (-0.0625, 0.0625),
                        "scale": (0.5, 1.5),
                        "keep_ratio": True,
                        "rotate": (-45, 45),
                        "border_mode": "BORDER_REFLECT_101",
                        "p": 0.75,
                    },
                ),
                ("GaussNoise", {"std_range": (10**0.5 / 255, 50**0.5 / 255), "p": 0.15}),
                ("ThreePointAffine", {"most": 50, "p": 0.15}),
            ),
            momentum=0.9,
            schedule=Plateau(lr=0.01, monitor="test_acc", factor=0.8, patience=5),
            select="test_acc",
            differs=(
                _OLD_HOLES,
                "noise: its deviation is drawn evenly, not its variance",
                "ElasticTransform without its elastic part, which moved pixels by 0.02 of their width",
                _FLOAT32,
            ),
        ),
    )
}


# Fast mode: to see that everything works; never a result.
FAST = {"epochs": 3, "batch_size": 64}
FAST_LIMIT = 512  # images


def get_recipe(name: str, *, fast: bool = False) -> Recipe:
    """The recipe of that name, in fast mode over a few steps only, to be used with FAST_LIMIT images.

    Raises CourseError with the nearest names if there is none.
    """
    if name in RECIPES:
        recipe = RECIPES[name]
        if not fast:
            return recipe
        held_out = min(recipe.validation_images, FAST_LIMIT // 4)
        return replace(with_epochs(recipe, FAST["epochs"]), batch_size=FAST["batch_size"], validation_images=held_out)
    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
    raise CourseError(f"There is no recipe {name!r}; did you mean {' or '.join(near)}?")


def changed(recipe: Recipe, assignments: dict[str, object]) -> Recipe:
    """The recipe with some values replaced, each by its name, those of the schedule included.

    Raises CourseError for an unknown name or a value of another type than the recipe's.
    """
    new = {"recipe": {}, "schedule": {}}
    known = {
        item.name: (part, item.type, getattr(values, item.name))
        for part, values in (("recipe", recipe), ("schedule", recipe.schedule))
        for item in fields(values)
        if item.name not in STRUCTURED
    }
    for key, value in assignments.items():
        if key in STRUCTURED:
            raise CourseError(
                f"{key} is no single value: in Python, dataclasses.replace(recipe, {key}=...) replaces it."
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or sorted(known)
            raise CourseError(f"The recipe {recipe.name} has no value {key!r}; did you mean {' or '.join(near)}?")
        part, kind, old = known[key]
        new[part][key] = _checked(kind, value, key, old)
    return replace(recipe, **new["recipe"], schedule=replace(recipe.schedule, **new["schedule"]))


def parse_assignments(texts: list[str]) -> dict[str, object]:
    """`["lr_max=0.2", "loss=cross_entropy"]` as a dict; values are Python literals, or else words."""
    assignments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise CourseError(f"--set takes name=value, for instance lr_max=0.2, not {text!r}.")
        try:
            assignments[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply
            assignments[key.strip()] = value.strip()
    return assignments


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over another number of epochs, its schedule stretched or squeezed to them."""
    if type(epochs) is not int or epochs < 1:
        raise CourseError(f"epochs has to be a whole number of 1 or more, not {epochs}.")
    return replace(recipe, epochs=epochs, schedule=recipe.schedule.stretched(epochs / recipe.epochs))


def differences(recipe: Recipe) -> list[str]:
    """How the recipe differs from the one of its name, as "value=new (recipe: old)"."""
    return compared(as_dict(recipe), as_dict(RECIPES.get(recipe.name, recipe)))


def compared(new: dict, old: dict) -> list[str]:
    """The same for recipes as `as_dict` gives them, or parts of such."""
    keys = [key for key in {**new, **old} if new.get(key) != old.get(key)]  # another schedule has other values
    return [f"{key}={_short(new.get(key))} (recipe: {_short(old.get(key))})" for key in keys]


def change_notes(recipe: Recipe, besides: Collection[str] = ()) -> list[str]:
    """A note of how the recipe differs, besides in these values, from the one of its name; none if it does not."""
    changes = [change for change in differences(recipe) if change.split("=")[0] not in besides]
    return ["changed: " + ", ".join(changes)] if changes else []


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def as_dict(recipe: Recipe) -> dict:
    """The recipe as JSON types; the schedule's values by their own names."""
    values = asdict(recipe)
    values["augmentation"] = [[name, dict(arguments)] for name, arguments in recipe.augmentation]
    del values["differs"]
    return json.loads(json.dumps(values | values.pop("schedule")))


def from_dict(values: dict) -> Recipe:
    """The recipe that `as_dict` was given; values that it did not know yet have their defaults.

    Raises CourseError if it is none.
    """
    try:
        values = dict(values)
        kind = OneCycle if "lr_max" in values else Plateau
        schedule = kind(**{item.name: values.pop(item.name) for item in fields(kind) if item.name in values})
        augmentation = tuple(
            (name, {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})
            for name, arguments in values.pop("augmentation")
        )
        if values.get("normalisation"):
            values["normalisation"] = tuple(map(tuple, values["normalisation"]))
        return Recipe(**values, augmentation=augmentation, schedule=schedule)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CourseError(f"These values are no recipe ({error}).") from error
