"""A run folder: what was trained on what, how it went, and the figures it ended with."""

import contextlib
import csv
import errno
import io
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers import __version__
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import check_shape, load_checkpoint, make_folder, read_json, write_text
from helpers.recipes import RECIPES, Plateau, Recipe, as_dict, change_notes, from_dict
from helpers.settings import REPOSITORY, recorded_only

HISTORY_COLUMNS = (
    *("epoch", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "seconds"),
)
STEP_COLUMNS = ("step", "lr", "momentum")
TABLES = {"history.csv": HISTORY_COLUMNS, "steps.csv": STEP_COLUMNS}
# What is read of these files, see `checkpoints.check_shape`.
CONFIG = {
    "recipe": {},
    "data": {"name": str, "classes": [str], "train_images": int, "test_images": int, "fingerprint": str},
    "seed": int,
    "notes": [str],
}
SUMMARY = {
    "reported": {"epoch": int, "chosen_by": str, "test_loss": float, "test_acc": float},
    "confusion_matrix": [[int]],
    **{"seconds": float, "device": str, "precision": str, "torch": str},
}


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it. Columns are float arrays; what was not measured is NaN."""

    folder: Path
    config: dict
    history: dict[str, np.ndarray]  # a value an epoch: HISTORY_COLUMNS
    steps: dict[str, np.ndarray]  # a value an optimizer step: STEP_COLUMNS
    log: str
    summary: dict | None  # None: the run is not finished

    @property
    def recipe(self) -> Recipe:
        return from_dict(self.config["recipe"])

    @property
    def title(self) -> str:
        """What every figure of this run says."""
        return f"{self.config['recipe']['name']} · {self.config['data']['name']} · seed {self.config['seed']}"

    @property
    def limit(self) -> int:
        """The limit that gives `load_data` the images of this run."""
        return max(self.config["data"]["train_images"], self.config["data"]["test_images"])

    @property
    def steps_per_epoch(self) -> int:
        """Of a run with a finished epoch."""
        return len(self.steps["step"]) // len(self.history["epoch"])

    @property
    def provenance(self) -> str:
        """Where it was trained: device, precision, version; empty until the run is finished."""
        return "{device}, {precision}, torch {torch}".format(**self.summary) if self.summary else ""

    @property
    def reduced(self) -> np.ndarray:
        """Rows of the history that are the first at a lower learning rate, if a plateau lowers it."""
        lr = self.history["lr"]
        return np.flatnonzero(lr[1:] < lr[:-1]) + 1 if isinstance(self.recipe.schedule, Plateau) else np.array([], int)

    @property
    def class_accuracy(self) -> np.ndarray:
        """Of a finished run: the share of each class's test images that was classified correctly, in %."""
        confusion = np.array(self.summary["confusion_matrix"])
        return 100 * confusion.diagonal() / confusion.sum(axis=1)

    def checkpoint(self, name: str) -> dict:
        """What its "best.pt" or "last.pt" holds. Raises CourseError, see `load_own_checkpoint`."""
        return load_own_checkpoint(self.folder / name, with_defaults(self.config))

    def check_begun(self) -> None:
        """Raises CourseError for a run without a finished epoch."""
        if not (len(self.history["epoch"]) and len(self.steps["step"])):
            raise CourseError(f"{self.folder} has no finished epoch yet: there is nothing to draw.")

    def check_finished(self) -> None:
        """Raises CourseError for a run that was interrupted."""
        if self.summary is None:
            raise CourseError(f"{self.folder} is not finished: run the same command or notebook again to go on.")


def configuration(recipe: Recipe, data: dict, seed: int) -> dict:
    """What decides the outcome of a run, as JSON types; `notes` says what a reader must not overlook."""
    notes = [*data["notes"], *change_notes(recipe)]
    return {"recipe": as_dict(recipe), "data": data, "seed": seed, "notes": notes}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes from writing there, until the block or this process ends.

    Raises CourseError if another process does, if it cannot be written, or if only recorded runs may be used and this
    is none. Where the file system knows no locks, as some network drives, nothing is kept away.
    """
    if recorded_only() and not (folder / "summary.json").exists():
        raise CourseError(
            f"{folder.name} is not recorded in full: train it and `python -m helpers record` it first, or unset "
            "COURSE_RECORDED."
        )
    make_folder(folder)
    path = folder / ".lock"
    try:
        file = path.open("ab+", buffering=0)
    except OSError as error:
        raise CourseError(f"{path} cannot be opened ({error}): choose another folder with --runs.") from error
    with file:
        try:
            import fcntl  # not on Windows

            # Unlike flock's, these locks are not inherited by the loading processes, which may outlive a killed run.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError) as error:
            if getattr(error, "errno", None) in (errno.EACCES, errno.EAGAIN):
                holder = path.read_text(errors="replace")[:200].strip() or "another process"
                raise CourseError(
                    f"{folder} is in use by {holder}: wait until that ends or stop it, or use another --runs folder "
                    "or --seed."
                ) from error
        with contextlib.suppress(OSError):  # a full disk; what needs space will say so
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        yield


def open_folder(folder: Path, config: dict) -> bool:
    """Record `config` in the run folder, or check that it holds the same, and tell whether a run has begun there.

    Raises CourseError with the difference if it holds another run's, or if it cannot be written.
    """
    path = folder / "config.json"
    begun = any((folder / name).exists() for name in ("last.pt", "summary.json")) or _epochs_recorded(folder)
    if not begun:  # nothing was trained yet, so nothing is lost
        write_text(path, json.dumps(config, indent=2) + "\n")
        return False
    try:
        recorded = with_defaults(read_json(path, CONFIG))
    except (OSError, ValueError, CourseError):  # missing or damaged, but the checkpoint knows
        recorded = with_defaults(load_own_checkpoint(folder / "last.pt", config)["config"])
        write_text(path, json.dumps(recorded, indent=2) + "\n")
    refuse_other(recorded, config, folder)
    return True


def _epochs_recorded(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        text = (folder / "history.csv").read_text(encoding="utf-8")
        return len(from_csv(text, HISTORY_COLUMNS)["epoch"]) > 0
    return False


def refuse_other(recorded: dict, asked: dict, folder: Path) -> None:
    """Raises CourseError with the difference if a folder's recorded configuration is not the one asked for."""
    different = _different(recorded, asked)
    if different:
        listed = "; ".join(f"{key}: {old} there, {new} asked for" for key, old, new in different)
        raise CourseError(
            f"{folder} holds a run of another configuration ({listed}): ask for the same, use another --runs "
            "folder or --seed, or move the old run away."
        )


def load_own_checkpoint(path: Path, config: dict) -> dict:
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
        check_shape(state, {"config": CONFIG})
        recorded = with_defaults(state["config"])
    except (CourseError, ValueError) as error:
        raise CourseError(
            f"{path} does not say which run it belongs to: it was kept as it is; move its folder away to train afresh."
        ) from error
    refuse_other(recorded, config, path)
    return state


def with_defaults(config: dict) -> dict:
    """A recorded configuration; values that its recipe did not know yet have their defaults."""
    return config | {"recipe": as_dict(from_dict(config["recipe"]))}


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
        recipe = folder.name.split("-")[0]
        command = f"python -m helpers train {recipe if recipe in RECIPES else 'RECIPE'}"
        raise CourseError(
            f"{folder} holds no run ({Path(error.filename).name} is missing): train it first, in its notebook or with "
            f"`{command}`."
        ) from error
    except (OSError, ValueError, CourseError) as error:
        raise CourseError(f"The run folder {folder} is damaged ({error}): move it away to train afresh.") from error


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

    Raises ValueError if it is another table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
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
