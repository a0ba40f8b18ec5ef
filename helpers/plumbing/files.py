"""Files of a run, written whole or not at all, and read without trusting them."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, get_args

from helpers.plumbing.errors import CourseError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Whenever the process dies, `path` is the old file or the new one; once this returns, it is the new one even if
    the power fails. Raises CourseError if the disk is full or the folder cannot be written; the old file then stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # what lies there may be a link to elsewhere
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CourseError(
            f"{path} could not be written ({error}): free space or make its folder writable, then run the same again; "
            "or choose another --runs folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be gone; the first error says why
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems have no folders that could be flushed
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, is on the disk
        finally:
            os.close(folder)


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


def read_json(path: Path, shape: object) -> object:
    """What the file holds, of that shape (see `check_shape`). Raises OSError, or ValueError for all that is wrong."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    check_shape(value, shape)
    return value


def check_shape(value: object, shape: object, name: str = "it") -> None:
    """Raises ValueError unless `value` is made as `shape` is: of types, dicts with these keys at least, and lists
    whose items are all like the shape's only one. A whole number is a float, too; NaN and infinity are no numbers."""
    if isinstance(shape, dict):
        check_shape(value, type(shape), name)
        for key, inner in shape.items():
            if key not in value:
                raise ValueError(f"{name} has no {key!r}")
            check_shape(value[key], inner, f"{key!r}")
    elif isinstance(shape, list):
        check_shape(value, type(shape), name)
        for item in value:
            check_shape(item, shape[0], f"a value in {name}")
    else:
        kinds = get_args(shape) or (shape,)
        if not isinstance(value, (*kinds, int) if float in kinds else kinds) or isinstance(value, bool):
            raise ValueError(f"{name} is {str(value)[:50]!r}, of another type")
        if isinstance(value, int | float) and not abs(value) < 1e300:  # NaN is not, either
            raise ValueError(f"{name} is {str(value)[:50]}, out of all bounds")


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
