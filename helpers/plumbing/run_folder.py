"""Spares the reader a run's files: a folder that is locked, opened, written whole or not at all, and compared."""

import contextlib
import csv
import io
import json
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NotRequired

import numpy as np
from filelock import FileLock, Timeout
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from helpers import __version__
from helpers.plumbing import distributed
from helpers.plumbing.errors import CourseError, in_words
from helpers.plumbing.files import load_checkpoint, load_weights, make_folder, save_checkpoint, write_text
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


CONFIG, SUMMARY = TypeAdapter(Config), TypeAdapter(Summary)
HISTORY_COLUMNS, STEP_COLUMNS = tuple(HistoryRow.__annotations__), tuple(StepRow.__annotations__)
TABLES = {"history.csv": HISTORY_COLUMNS, "steps.csv": STEP_COLUMNS}


def read_json(path: Path, kind: TypeAdapter) -> dict:
    """Read a JSON file, checked to be of that kind. Raises OSError, or ValueError for all that is wrong."""
    try:
        return kind.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise ValueError(in_words(error)) from error


def folder_name(recipe: Recipe, data, seed: int) -> str:
    return f"{recipe.name}-{data.name}-seed{seed}"


def configuration(recipe: Recipe, data: dict, seed: int) -> Config:
    """All that decides the outcome of a run, as JSON types."""
    return {"recipe": as_dict(recipe), "data": data, "seed": seed, "notes": [*data["notes"], *change_notes(recipe)]}


def differences(recipe: Recipe) -> list[str]:
    """List how the recipe differs from the one of its name, as "value=new (recipe: old)"."""
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


def own_checkpoint(path: Path, config: Config) -> dict:
    """The checkpoint at `path` of the run with this configuration.

    Raises CourseError if it is missing, damaged, or of another run.
    """
    if not path.exists():
        raise CourseError(
            f"{path} is missing: put it back, finish the run if it never was, or move the run folder away to train "
            "afresh."
        )
    state = load_checkpoint(path)
    try:
        recorded = with_defaults(CONFIG.validate_python(state.get("config"), strict=True))
    except (CourseError, ValidationError) as error:
        raise CourseError(
            f"{path} does not say which run it belongs to: it was kept as it is; move its folder away to train afresh."
        ) from error
    refuse_other(recorded, config, path)
    return state


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes from writing there, until the block or this process ends.

    Raises CourseError if another process does, or if it cannot be written. Where the file system knows no locks, as
    some network drives, nothing is kept away.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)
    owner = folder / ".lock-owner"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except Timeout as error:
            holder = owner.read_text(errors="replace")[:200].strip() if owner.exists() else "another process"
            raise CourseError(
                f"{folder} is in use by {holder}: wait until that ends or stop it, or use another --runs folder "
                "or --seed."
            ) from error
        except (NotImplementedError, OSError):
            pass  # no locks here: go on without
        with contextlib.suppress(OSError):  # a full disk; what needs space will say so
            owner.write_text(f"process {os.getpid()} on {platform.node()}\n")
        yield


class RunFolder:
    """A run folder while its training goes on, locked. Of several processes the first alone touches it."""

    def __init__(self, path: Path, config: Config):
        self.path, self.config = path, config

    def __enter__(self) -> "RunFolder":
        self.stack = contextlib.ExitStack()
        distributed.from_rank_zero(lambda: self.stack.enter_context(locked(self.path)))
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def open(self, training) -> tuple[bool, dict | None]:
        """Tell whether the run is finished, and if not, return the state to go on from, if there is one.

        Raises CourseError if the folder holds another run's or damaged files.
        """
        return distributed.from_rank_zero(self._open, training)

    def _open(self, training) -> tuple[bool, dict | None]:
        path, summary = self.path / "config.json", self.path / "summary.json"
        last = self.path / "last.pt"
        if not (last.exists() or summary.exists() or self._has_history()):  # nothing was trained, so nothing is lost
            write_text(path, json.dumps(self.config, indent=2) + "\n")
            return False, None
        try:
            recorded = with_defaults(read_json(path, CONFIG))
        except (OSError, ValueError, CourseError):  # missing or damaged, but the checkpoint knows
            recorded = with_defaults(own_checkpoint(last, self.config)["config"])
            write_text(path, json.dumps(recorded, indent=2) + "\n")
        refuse_other(recorded, self.config, self.path)
        if summary.exists() and (not last.exists() or self._is_whole()):
            return True, None
        if training.recipe.select != "last":  # the end needs it: damage is found now and not after hours
            best = self.path / "best.pt"
            load_weights(training.evaluated, own_checkpoint(best, self.config), best)
        return False, own_checkpoint(last, self.config)

    def _has_history(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return len(from_csv((self.path / "history.csv").read_text(encoding="utf-8"), HISTORY_COLUMNS)["epoch"]) > 0
        return False

    def _is_whole(self) -> bool:
        """Tell whether a finished run's files can be read; if not, the checkpoint can make them again."""
        try:
            read_json(self.path / "summary.json", SUMMARY)
            for name, columns in TABLES.items():
                from_csv((self.path / name).read_text(encoding="utf-8"), columns)
            return (self.path / "train.log").exists()
        except (OSError, ValueError):
            return False

    def checkpoint(self, name: str) -> dict:
        """Load "best.pt" or "last.pt". Raises CourseError, see `own_checkpoint`."""
        return distributed.from_rank_zero(own_checkpoint, self.path / name, self.config)

    def save(self, state: dict, training) -> None:
        """Write checkpoints and tables after an epoch."""
        distributed.from_rank_zero(self._save, state, training)

    def _save(self, state: dict, training) -> None:
        # best.pt first: killed between the two, the run repeats this epoch and writes the same again.
        if training.is_best():
            best = {"model": training.evaluated.state_dict(), "epoch": training.epoch}
            save_checkpoint(self.path / "best.pt", best | {"config": self.config})
        save_checkpoint(self.path / "last.pt", state | {"config": self.config})
        self._write_tables(training)

    def write_tables(self, training) -> None:
        distributed.from_rank_zero(self._write_tables, training)

    def _write_tables(self, training) -> None:
        write_text(self.path / "history.csv", to_csv(HISTORY_COLUMNS, training.history))
        write_text(self.path / "steps.csv", to_csv(STEP_COLUMNS, training.steps))
        write_text(self.path / "train.log", "\n".join(training.log) + "\n")

    def finish(self, training, figures: dict) -> None:
        """Write the tables and `summary.json`, which says that the run is finished."""
        self.write_tables(training)
        sessions = {key: " and ".join(dict.fromkeys(s[key] for s in training.sessions)) for key in training.sessions[0]}
        origin = {key: self.config[key] for key in ("data", "seed", "notes")}
        distributed.from_rank_zero(write_summary, self.path, figures | sessions | origin)


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
    command = ["git", "-C", str(REPOSITORY)]
    try:
        top, described = (
            subprocess.run([*command, *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for words in (
                ("rev-parse", "--show-toplevel"),
                ("describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} ({described})" if Path(top).resolve() == REPOSITORY else __version__
