"""A TensorBoard log of the history beside it, for whoever wants to watch a training: COURSE_TENSORBOARD=1."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.plumbing.errors import CourseError


@contextlib.contextmanager
def open_log(folder: Path, history: list[dict], wanted: bool) -> Iterator[Callable[[dict], None]]:
    """Yield a function that adds a row to the log in `folder`, or does nothing if none is wanted.

    It begins anew with the rows of `history`, so that a run that goes on after an interruption has every epoch once.
    Needs TensorBoard, see `settings.tensorboard`.
    """
    if not wanted:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # nothing else needs it

    with _writing(folder):
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        writer = SummaryWriter(str(folder), purge_step=0)  # a TensorBoard that is open forgets the old points

    def add(row: dict) -> None:
        with _writing(folder):
            for column, value in row.items():
                part, _, figure = column.rpartition("_")  # train_loss and test_loss stand side by side
                if column != "epoch":
                    writer.add_scalar(f"{figure}/{part}" if part else column, value, row["epoch"])
            writer.flush()

    try:
        for row in history:
            add(row)
        yield add
    finally:
        with contextlib.suppress(OSError):  # every row was flushed
            writer.close()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CourseError(
            f"The TensorBoard log in {folder} cannot be written ({error}): free space, close TensorBoard, or unset "
            "COURSE_TENSORBOARD; then run the same again."
        ) from error
