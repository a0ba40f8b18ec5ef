"""Reads what a run leaves: its folder. Everything that is drawn or judged is drawn and judged from this."""

import shutil
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, with_config
from torch import nn
from typing_extensions import TypedDict

from helpers import settings
from helpers.data import Data, demo_mark
from helpers.models import make_model
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import file_digest, load_weights, make_folder
from helpers.plumbing.run_files import CONFIG, SUMMARY, TABLES, folder_name, from_csv, read_json, with_defaults
from helpers.plumbing.run_folder import own_checkpoint
from helpers.recipes import RECIPES, OneCycle, Plateau, Recipe, from_dict


@dataclass(frozen=True)
class Run:
    """A run as its folder has it. Columns are float arrays; what was not measured is NaN."""

    folder: Path
    config: dict
    history: dict[str, np.ndarray]  # the columns of history.csv, a value per epoch
    steps: dict[str, np.ndarray]  # the columns of steps.csv, a value per optimizer step
    log: str
    summary: dict | None  # None: the run is not finished

    @property
    def recipe(self) -> Recipe:
        """The recipe that was trained; its `about` is today's, of the recipe of that name."""
        return from_dict(self.config["recipe"])

    @property
    def title(self) -> str:
        """The name of this run, as figures have it."""
        return f"{self.config['recipe']['name']} · {self.config['data']['name']} · seed {self.config['seed']}"

    @property
    def limit(self) -> int:
        """The limit that gives `load_data` the images of this run."""
        return max(self.config["data"]["train_images"], self.config["data"]["test_images"])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch, of a run with a finished epoch."""
        return len(self.steps["step"]) // len(self.history["epoch"])

    @property
    def provenance(self) -> str:
        """Where it was trained: device, precision, version; empty until the run is finished."""
        return "{device}, {precision}, torch {torch}".format(**self.summary) if self.summary else ""

    @property
    def caption(self) -> str:
        """The line below its figures: the run, whether its recipe was changed, and where it was trained."""
        changed = "recipe changed" if any(note.startswith("changed: ") for note in self.config["notes"]) else ""
        return " · ".join(filter(None, (self.title, changed, self.provenance)))

    @property
    def mark(self) -> str:
        short = self.recipe.epochs < RECIPES.get(self.recipe.name, self.recipe).epochs
        return demo_mark(self.config["data"]["name"], self.config["notes"], short)

    @property
    def reduced(self) -> np.ndarray:
        """Rows of the history that are the first at a lower learning rate, if a plateau lowers it."""
        lr = self.history["lr"]
        return np.flatnonzero(lr[1:] < lr[:-1]) + 1 if isinstance(self.recipe.schedule, Plateau) else np.array([], int)

    @property
    def class_accuracy(self) -> np.ndarray:
        """The share of each class's test images that a finished run classifies correctly, in %."""
        confusion = np.array(self.summary["confusion_matrix"])
        return 100 * confusion.diagonal() / confusion.sum(axis=1)

    def checkpoint(self, name: str) -> dict:
        """Load its "best.pt" or "last.pt". Raises CourseError if it is missing, damaged or another run's."""
        return own_checkpoint(self.folder / name, with_defaults(self.config))

    def check_begun(self) -> None:
        """Raises CourseError for a run without a finished epoch."""
        if not (len(self.history["epoch"]) and len(self.steps["step"])):
            raise CourseError(f"{self.folder} has no finished epoch yet: there is nothing to draw.")

    def check_finished(self) -> None:
        """Raises CourseError for a run that was interrupted."""
        if self.summary is None:
            raise CourseError(f"{self.folder} is not finished: run the same command or notebook again to go on.")


def load_run(folder: Path) -> Run:
    """Read a run folder. Raises CourseError if there is none or it is damaged."""
    folder = Path(folder)
    if folder.is_file():
        raise CourseError(f"{folder} is a file of a run folder: name the folder, {folder.parent}.")
    try:
        config = read_json(folder / "config.json", CONFIG)
        texts = {name: (folder / name).read_text(encoding="utf-8") for name in (*TABLES, "train.log")}
        history, steps = (from_csv(texts[name], columns) for name, columns in TABLES.items())
        summary = folder / "summary.json"
        summary = read_json(summary, SUMMARY) if summary.exists() else None
        run = Run(folder, config, history, steps, texts["train.log"], summary)
        rows, count, classes = len(history["epoch"]), len(steps["step"]), len(config["data"]["classes"])
        if rows > run.recipe.epochs or (summary and (not rows or not count or count % rows)):
            raise ValueError(f"its {rows} epochs and {count} steps do not fit together")
        if summary and {classes} != {len(row) for row in (summary["confusion_matrix"], *summary["confusion_matrix"])}:
            raise ValueError(f"its confusion matrix is not one of {classes} classes")
        return run
    except FileNotFoundError as error:
        raise CourseError(
            f"{folder} holds no run ({Path(error.filename).name} is missing): train it first, in its notebook or with "
            "`python -m helpers train`."
        ) from error
    except (OSError, ValueError, CourseError) as error:
        raise CourseError(
            f"The run folder {folder} is damaged ({error}): delete its summary.json and train it again, which writes "
            "its tables anew from last.pt; or move it away to train afresh."
        ) from error


def find_run(recipe: Recipe, data: Data, folder: Path, *, seed: int = 0) -> Run | None:
    """A finished run of that name, with its weights: the one in `folder`, or else a copy of the recorded one.

    Its values may differ from the recipe's: `run.recipe` has them.
    """
    folder, name = Path(folder), folder_name(recipe, data, seed)
    for place in (folder / name, settings.REPOSITORY / "results" / name):
        if (place / "summary.json").exists() and (place / "best.pt").exists():
            if place.parent != folder:
                make_folder(folder)
                place = shutil.copytree(place, folder / "recorded" / name, dirs_exist_ok=True)
            return load_run(place)
    return None


def load_model(run: Run) -> nn.Module:
    """The network that a run reports, from its `best.pt`, on the CPU, in evaluation mode, in float32.

    Raises CourseError if there is none, if it is another run's, or if its digest is not the recorded one.
    """
    path = run.folder / "best.pt"
    recorded = (run.summary or {}).get("weights", {}).get("sha256")
    if recorded and path.exists() and file_digest(path) != recorded:
        raise CourseError(f"{path} is not the file that {run.folder.name} recorded: fetch the repository's again.")
    model = make_model(run.recipe, len(run.config["data"]["classes"]))
    load_weights(model, run.checkpoint(path.name), path)
    return model.eval()


STEPS = 100  # points of a whole range test
# What a range test does not depend on: the schedule, whose bounds it is there to find, and what comes after training.
NOT_SWEPT = {
    *("epochs", "ema_decay", "flip_averaging", "select", "sync_batchnorm", "about"),
    *(field.name for kind in (OneCycle, Plateau) for field in fields(kind)),
}


@with_config(ConfigDict(extra="allow"))
class Fingerprint(TypedDict):
    fingerprint: str


class Swept(TypedDict):
    """The settings of a range test: its recipe without the schedule, the data, the seed, the number of steps."""

    recipe: dict
    data: Fingerprint
    seed: int
    steps: int


@dataclass(frozen=True)
class RangeTest:
    """The curve of a range test, and what the rule reads off it. Written as `lr_find.json`."""

    title: str
    notes: list[str]  # what a reader must not overlook
    lrs: list[FiniteFloat]  # one per step
    losses: list[FiniteFloat]  # smoothed, one per step
    lr_min: FiniteFloat
    lr_max: FiniteFloat
    steepest: FiniteFloat | None  # torch-lr-finder's suggestion; None if the curve is too short for it
    ended: str  # why the curve ends where it does
    settings: Swept
    provenance: str
    raw: list[FiniteFloat] = field(default_factory=list)  # one per step, before smoothing; older records have none


RANGE_TEST = TypeAdapter(RangeTest)


def load_lr(path: Path) -> RangeTest:
    """Read an `lr_find.json`. Raises CourseError if there is none or it is damaged."""
    try:
        result = read_json(Path(path), RANGE_TEST)
        lengths = {len(result.lrs), len(result.losses), len(result.raw) or len(result.lrs)}
        if len(lengths) > 1 or not 0 < result.lr_min < result.lr_max or min(result.lrs) <= 0:
            raise ValueError("its values do not fit together")
        return result
    except FileNotFoundError as error:
        raise CourseError(f"{path} is missing: run notebook 01 or `python -m helpers lr-find` first.") from error
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is damaged ({error}): delete it and run the range test again.") from error


def swept_values(recipe: dict) -> dict:
    """The values of a recipe, given as by `as_dict`, that decide a range test; missing ones have their defaults."""
    defaults = {item.name: item.default for item in fields(Recipe) if item.default is not MISSING}
    return {key: value for key, value in (defaults | recipe).items() if key not in NOT_SWEPT}
