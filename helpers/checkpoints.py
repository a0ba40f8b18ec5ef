"""Files of a run, written whole or not at all, and read without trusting them."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from helpers.errors import CourseError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Whenever the process dies, `path` is the old file or the new one. Raises CourseError if the disk
    is full or the folder cannot be written; the old file then stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):  # the folder itself may be gone; the first error says why
            temporary.unlink(missing_ok=True)
        raise CourseError(
            f"{path} could not be written ({error}): free space or choose another --runs folder."
        ) from error


def make_folder(folder: Path) -> None:
    """Raises CourseError if it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"The folder {folder} cannot be made ({error}): choose another with --runs.") from error
    if not os.access(folder, os.W_OK):
        raise CourseError(f"The folder {folder} cannot be written: choose another with --runs.")


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(path: Path, state: dict) -> None:
    """`state`: nested dicts and lists of tensors, numbers and strings, so that it loads with weights_only."""
    import torch  # takes seconds, and only checkpoints need it

    write_atomically(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path) -> dict:
    """The state saved at `path`, on the CPU; no code in the file is executed (weights_only).

    Raises CourseError if the file is damaged or holds anything else than a checkpoint.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage can surface as anything
        raise CourseError(
            f"{path} is damaged or no checkpoint: it was kept as it is; move it away to train afresh."
        ) from error
    if not isinstance(state, dict) or "model" not in state:
        raise CourseError(f"{path} holds no model: it was kept as it is; move it away to train afresh.")
    return state
