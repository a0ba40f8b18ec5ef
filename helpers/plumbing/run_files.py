"""Spares the reader what the files of a run hold: their kinds, how they are read and written, how two runs differ."""

import csv
import io
import json
import platform
import re
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import NotRequired

import numpy as np
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from helpers import __version__
from helpers.plumbing.errors import CourseError, in_words
from helpers.plumbing.files import write_text
from helpers.plumbing.setup import REQUIREMENTS
from helpers.recipes import RECIPES, Recipe, as_dict, from_dict

REPOSITORY = REQUIREMENTS.parent


class HistoryRow(TypedDict):
    """A row of `history.csv`, one per epoch."""

    epoch: int
    lr: FiniteFloat
    train_loss: FiniteFloat
    train_acc: FiniteFloat
    val_loss: NotRequired[FiniteFloat]  # if images are held out
    val_acc: NotRequired[FiniteFloat]
    test_loss: FiniteFloat
    test_acc: FiniteFloat
    seconds: FiniteFloat


class StepRow(TypedDict):
    """A row of `steps.csv`, one per optimizer step."""

    step: int
    lr: FiniteFloat
    momentum: FiniteFloat


class Session(TypedDict):
    """The machine and versions that trained a part of a run."""

    device: str
    precision: str
    torch: str
    python: str
    code: str


@with_config(ConfigDict(extra="allow"))
class DataRecord(TypedDict):
    name: str
    classes: list[str]
    train_images: int
    test_images: int
    fingerprint: str


@with_config(ConfigDict(extra="allow"))
class Config(TypedDict):
    """`config.json`: what decides the outcome of a run. `notes` says what a reader must not overlook."""

    recipe: dict
    data: DataRecord
    seed: int
    notes: list[str]


@with_config(ConfigDict(extra="allow"))
class Reported(TypedDict):
    epoch: int
    chosen_by: str
    test_loss: FiniteFloat
    test_acc: FiniteFloat


@with_config(ConfigDict(extra="allow"))
class Summary(TypedDict):
    """`summary.json`: the final figures of a finished run, and where they come from."""

    reported: Reported
    confusion_matrix: list[list[int]]
    seconds: FiniteFloat
    device: str
    precision: str
    torch: str
    weights: NotRequired[dict]  # of a recorded run: the digest of its best.pt


CONFIG, SUMMARY = TypeAdapter(Config), TypeAdapter(Summary)
HISTORY_COLUMNS, STEP_COLUMNS = tuple(HistoryRow.__annotations__), tuple(StepRow.__annotations__)
TABLES = {"history.csv": HISTORY_COLUMNS, "steps.csv": STEP_COLUMNS}


def read_json(path: Path, kind: TypeAdapter) -> dict:
    """Read a JSON file, checked to be of that kind. Raises OSError, or ValueError for all that is wrong."""
    try:
        return kind.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise ValueError(in_words(error)) from error


def checked_seed(seed: object) -> int:
    """The seed as an int. Raises CourseError unless it is a whole number from 0 to 2**63 - 1, numpy's included."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise CourseError(f"seed has to be a whole number from 0 to 2**63 - 1, not {seed!r}.")
    return int(seed)


def folder_name(recipe: Recipe, data, seed: int) -> str:
    return f"{recipe.name}-{data.name}-seed{seed}"


def configuration(recipe: Recipe, data: dict, seed: int) -> Config:
    """All that decides the outcome of a run, as JSON types."""
    return {"recipe": as_dict(recipe), "data": data, "seed": seed, "notes": [*data["notes"], *change_notes(recipe)]}


def differences(recipe: Recipe) -> list[str]:
    """List how the recipe differs from the one of its name, as "value=new (recipe: old)"."""
    return compared(as_dict(recipe), as_dict(RECIPES.get(recipe.name, recipe)))


def compared(new: dict, old: dict) -> list[str]:
    """List how two recipes differ, given as by `as_dict`, whole or in part."""
    keys = [key for key in {**new, **old} if new.get(key) != old.get(key)]  # another schedule has other values
    return [f"{key}={_short(new.get(key))} (recipe: {_short(old.get(key))})" for key in keys]


def change_notes(recipe: Recipe, besides: Collection[str] = ()) -> list[str]:
    """A note of how the recipe differs, besides in these values, from the one of its name; none if it does not."""
    changes = [change for change in differences(recipe) if change.split("=")[0] not in besides]
    return ["changed: " + ", ".join(changes)] if changes else []


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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


def with_defaults(config: Config) -> Config:
    """A recorded configuration; values that its recipe did not know yet have their defaults."""
    return config | {"recipe": as_dict(from_dict(config["recipe"]))}


def write_summary(folder: Path, summary: dict) -> None:
    """Write `summary.json`, each row of the confusion matrix on one line."""
    text = re.sub(r"\[[\d,\s]+\]", lambda row: " ".join(row[0].split()), json.dumps(summary, indent=2))
    write_text(folder / "summary.json", text + "\n")


def to_csv(columns: tuple[str, ...], rows: list[dict]) -> str:
    """Rows as CSV; missing values stay empty, floats get eight significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row.get(column) for column in columns)
        writer.writerow("" if v is None else f"{v:.8g}" for v in values)
    return out.getvalue()


def from_csv(text: str, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The columns of a table as float arrays, what is missing as NaN, rows counted up by the first column.

    A spreadsheet's byte order mark and semicolons are taken as well. Raises ValueError if it is another table.
    """
    text = text.removeprefix("\ufeff")
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    try:
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
        table = {key: np.array([float(row[key] or "nan") for row in rows]) for key in columns}
    except (csv.Error, KeyError, TypeError) as error:
        raise ValueError(f"a table is not made of the columns {', '.join(columns)}: {error}") from error
    for key, column in table.items():
        given = column[~np.isnan(column)] if key.startswith("val_") else column  # there may be no held-out images
        if not (np.abs(given) < 1e300).all():
            raise ValueError(f"a table has gaps in its column {key}, or values that are no numbers")
    if (np.diff(table[columns[0]]) != 1).any():
        raise ValueError(f"rows are missing, by the column {columns[0]}")
    return table


def describe_session(device) -> Session:
    """The machine, versions and code that train from now on."""
    import torch

    versions = {"torch": str(torch.__version__), "python": platform.python_version(), "code": code_version()}
    return {"device": device.name, "precision": device.precision} | versions


def code_version() -> str:
    """The package's version and the repository's commit, "+" appended if files differ from it.

    Unpacked inside another repository, the course has no commit of its own.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *words]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True)
        return done.stdout.strip()

    try:
        inside_another = git("rev-parse", "--show-prefix")
        described = git("describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return __version__
    return __version__ if inside_another else f"{__version__} ({described})"
