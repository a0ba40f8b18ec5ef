"""A run folder: what was trained on what, how it went, and the figures it ended with."""

import csv
import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers import __version__
from helpers.checkpoints import make_folder, write_text
from helpers.errors import CourseError
from helpers.recipes import Recipe, as_dict, differences, from_dict
from helpers.settings import REPOSITORY

HISTORY_COLUMNS = (
    *("epoch", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "seconds"),
)
STEP_COLUMNS = ("step", "lr", "momentum")


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it. Columns are float arrays; what was not measured is NaN."""

    folder: Path
    config: dict
    history: dict[str, np.ndarray]  # a value an epoch: HISTORY_COLUMNS
    steps: dict[str, np.ndarray]  # a value an optimizer step: STEP_COLUMNS
    summary: dict | None  # None: the run is not finished

    @property
    def recipe(self) -> Recipe:
        return from_dict(self.config["recipe"])

    @property
    def title(self) -> str:
        """What every figure of this run says."""
        return f"{self.config['recipe']['name']} · {self.config['data']['name']} · seed {self.config['seed']}"

    @property
    def provenance(self) -> str:
        """Where it was trained: device, precision, version; empty until the run is finished."""
        return "{device}, {precision}, torch {torch}".format(**self.summary) if self.summary else ""


def configuration(recipe: Recipe, data: dict, seed: int) -> dict:
    """What decides the outcome of a run, as JSON types; `notes` says what a reader must not overlook."""
    return {
        "recipe": as_dict(recipe),
        "data": data,
        "seed": seed,
        "notes": [*data["notes"], *(["changed: " + ", ".join(differences(recipe))] if differences(recipe) else [])],
    }


def open_folder(folder: Path, config: dict) -> None:
    """Make the run folder and record `config` in it, or check that it holds the same.

    Raises CourseError with the difference if it holds another run's, or if it cannot be written.
    """
    path = folder / "config.json"
    make_folder(folder)
    try:
        recorded = json.loads(path.read_text()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is damaged ({error}): move the run folder away to train afresh.") from error
    if recorded is None:
        write_text(path, json.dumps(config, indent=2) + "\n")
        return
    try:  # values that are newer than the run take their defaults
        recorded["recipe"] = as_dict(from_dict(recorded["recipe"]))
    except (CourseError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(f"{path} cannot be compared ({error}): move the run folder away to train afresh.") from error
    refuse_other(recorded, config, folder)


def refuse_other(recorded: dict, asked: dict, folder: Path) -> None:
    """Raises CourseError with the difference if a folder's recorded configuration is not the one asked for."""
    different = _different(recorded, asked)
    if different:
        listed = "; ".join(f"{key}: {old} there, {new} asked for" for key, old, new in different)
        raise CourseError(
            f"{folder} holds a run of another configuration ({listed}): ask for the same, use another --runs "
            "folder or --seed, or move the old run away."
        )


def _different(old: dict, new: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    found = []
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _different(a, b, f"{prefix}{key}.")
        elif a != b and key != "notes":
            found.append((prefix + key, a, b))
    return found


def load_run(folder: Path) -> Run:
    """Read a run folder. Raises CourseError if there is none or it is damaged."""
    try:
        config = json.loads((folder / "config.json").read_text())
        history = from_csv((folder / "history.csv").read_text())
        steps = from_csv((folder / "steps.csv").read_text())
        summary = folder / "summary.json"
        return Run(folder, config, history, steps, json.loads(summary.read_text()) if summary.exists() else None)
    except FileNotFoundError as error:
        raise CourseError(
            f"{folder} holds no run ({Path(error.filename).name} is missing): train one with `python -m helpers train`."
        ) from error
    except (OSError, ValueError) as error:
        raise CourseError(f"The run folder {folder} cannot be read ({error}).") from error


def to_csv(columns: tuple[str, ...], rows: list[dict]) -> str:
    """Rows as CSV; missing values stay empty, floats get eight significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row.get(column) for column in columns)
        writer.writerow("" if v is None else f"{v:.8g}" for v in values)
    return out.getvalue()


def from_csv(text: str) -> dict[str, np.ndarray]:
    rows = list(csv.DictReader(io.StringIO(text)))
    return {key: np.array([float(row[key] or "nan") for row in rows]) for key in (rows[0] if rows else ())}


def code_version() -> str:
    """The package's version and the repository's commit, "+" appended if files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return f"{__version__} ({described.stdout.strip()})"
    except (OSError, subprocess.SubprocessError):
        return __version__
