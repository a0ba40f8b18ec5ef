"""Spares the reader half-written files and untrusted ones: all is written whole or not at all."""

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from filelock import FileLock

from helpers.plumbing.errors import CourseError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Whenever the process dies or the power fails, `path` is the old file or the new one. One process at a time: see
    `one_at_a_time`. Raises CourseError if the disk is full or the folder cannot be written; the old file then stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CourseError(
            f"{path} could not be written ({error}): free space or make its folder writable, then run the same again; "
            "or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be gone; the first error says why
            temporary.unlink(missing_ok=True)


Lock = partial(FileLock, mode=0o666, fallback_to_soft=False)  # one that other users see, too


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Make the folder of `path` and wait until no other process makes that file; where no locks are known, go on."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(Lock(f"{path}.lock"))
        yield


def make_folder(folder: Path) -> None:
    """Raises CourseError if it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"The folder {folder} cannot be made ({error}): choose another one.") from error
    if not os.access(folder, os.W_OK):
        raise CourseError(f"The folder {folder} cannot be written: choose another one.")


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(path: Path, state: dict) -> None:
    """`state`: nested dicts and lists of tensors, numbers and strings, so that it loads with weights_only."""
    import torch  # takes seconds, and only checkpoints need it

    # Into memory first: within a write, torch turns a full disk and Ctrl-C alike into "unexpected pos 512 vs 414".
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


def load_checkpoint(path: Path) -> dict:
    """The state saved at `path`, on the CPU; no code in the file is executed (weights_only).

    Raises CourseError if the file is damaged, to the last bit, or holds anything else than a checkpoint.
    """
    import torch

    from helpers.plumbing.devices import out_of_memory

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch writes checksums and does not look at them
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CourseError(f"{path} cannot be read ({error}): make it readable, then run the same again.") from error
    except Exception as error:  # damage can surface as anything
        if out_of_memory(error):
            raise
        damaged = True
    if damaged:
        raise CourseError(
            f"{path} is damaged or no checkpoint: it was kept as it is; put back a good copy of it, or move its "
            "folder away to train afresh."
        )
    if not isinstance(state, dict) or "model" not in state:
        raise CourseError(f"{path} holds no model: it was kept as it is; move its folder away to train afresh.")
    return state


def in_half_precision(weights: dict) -> dict:
    """A state dict's tensors in float16, but for those of whole numbers and those that float16 cannot hold."""
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    return {key: half if half.isfinite().all() else weights[key] for key, half in halves.items()}


def load_weights(model, checkpoint: dict, path: Path) -> None:
    """Give the model the weights of a checkpoint. Raises CourseError if they are another network's."""
    try:
        model.load_state_dict(checkpoint["model"])
    except (AttributeError, RuntimeError, TypeError) as error:
        raise CourseError(
            f"{path} belongs to another network ({first_line(error)}): move its folder away to train afresh."
        ) from error


def first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]
