"""Spares the reader a run's folder: locked, opened, resumed from, and written whole or not at all."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout
from pydantic import ValidationError

from helpers.plumbing import distributed
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import Lock, load_checkpoint, load_weights, make_folder, save_checkpoint, write_text
from helpers.plumbing.run_files import (
    CONFIG,
    HISTORY_COLUMNS,
    STEP_COLUMNS,
    SUMMARY,
    TABLES,
    Config,
    from_csv,
    read_json,
    refuse_other,
    to_csv,
    with_defaults,
    write_summary,
)


def own_checkpoint(path: Path, config: Config) -> dict:
    """The checkpoint at `path` of the run with this configuration.

    Raises CourseError if it is missing, damaged, or of another run.
    """
    if not path.exists():
        raise CourseError(
            f"{path} is missing: put it back, go on with the run if it was interrupted, or move the run folder away "
            "to train afresh."
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
    lock = Lock(folder / ".lock", timeout=0)
    owner = folder / ".lock-owner"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except Timeout as error:
            holder = "another process"
            with contextlib.suppress(OSError):
                holder = owner.read_text(errors="replace")[:200].strip()
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
        self.path, self.config, self.saved = path, config, 0  # the last epoch that is saved

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
        best = self.path / "best.pt"
        if training.recipe.select != "last" and best.exists():  # the end needs it: damage is found now, not after hours
            load_weights(training.evaluated, own_checkpoint(best, self.config), best)
        return False, own_checkpoint(last, self.config)

    def _has_history(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return len(from_csv((self.path / "history.csv").read_text(encoding="utf-8"), HISTORY_COLUMNS)["epoch"]) > 0
        return False

    def _is_whole(self) -> bool:
        """Tell whether all files of a finished run can be read; if not, last.pt can make them again."""
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
        distributed.from_rank_zero(save_checkpoint, self.path / "last.pt", state | {"config": self.config})
        self.write_files(training)

    def write_files(self, training) -> None:
        """Write what follows from `last.pt`, which is written first: after an interruption the others may be older."""
        distributed.from_rank_zero(self._write_files, training)
        self.saved = training.epoch

    def _write_files(self, training) -> None:
        best = self.path / "best.pt"
        if training.epoch and training.is_best():
            state = {"model": training.evaluated.state_dict(), "epoch": training.epoch}
            save_checkpoint(best, state | {"config": self.config})
        elif training.epoch and training.recipe.select != "last" and not best.exists():
            own_checkpoint(best, self.config)  # raises: it is missing
        self._write_tables(training)

    def _write_tables(self, training) -> None:
        write_text(self.path / "history.csv", to_csv(HISTORY_COLUMNS, training.history))
        write_text(self.path / "steps.csv", to_csv(STEP_COLUMNS, training.steps))
        write_text(self.path / "train.log", "\n".join(training.log) + "\n")

    def finish(self, training, figures: dict) -> None:
        """Write the tables and `summary.json`, which says that the run is finished."""
        distributed.from_rank_zero(self._write_tables, training)
        sessions = {key: " and ".join(dict.fromkeys(s[key] for s in training.sessions)) for key in training.sessions[0]}
        origin = {key: self.config[key] for key in ("data", "seed", "notes")}
        distributed.from_rank_zero(write_summary, self.path, figures | sessions | origin)
