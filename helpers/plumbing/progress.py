"""Spares the reader progress bars: as text, which a notebook can keep and which needs no widgets."""

import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

from helpers.plumbing import distributed


def progress_bar(
    iterable: Iterable, title: str | None = None, total: int | None = None, unit: str = "it", show: object = None
) -> Iterable:
    """tqdm's bar, where someone can watch it: in a terminal or a notebook. It vanishes at its end.

    `show`, as text, stands behind the bar, read at most twice a second: a GPU would be waited for.
    """
    notebook = "ipykernel" in sys.modules
    watched = not os.environ.get("TQDM_DISABLE") and (notebook or sys.stderr.isatty())
    watched = watched and distributed.RANK == 0
    options = {"leave": False, "mininterval": 0.5, "dynamic_ncols": True, "unit": unit}
    file = sys.stdout if notebook else sys.stderr  # JupyterLab shows stderr in red, as if something had gone wrong
    bar = tqdm(iterable, title, total, file=file, disable=not watched, **options)
    return bar if show is None or not watched else _showing(bar, show)


def _showing(bar: tqdm, show: object) -> Iterator:
    read = time.monotonic()
    with bar:
        for item in bar:
            yield item
            if time.monotonic() - read > 0.5:
                read = time.monotonic()
                bar.set_postfix_str(str(show), refresh=False)


def epoch_title(history: list[dict], epochs: int) -> str:
    """The title of the bar of the epoch after those of `history`, with the time per epoch and the time left."""
    title = f"Epoch {len(history) + 1}/{epochs}"
    if not history:
        return title
    seconds = history[-1]["seconds"]
    each, left = map(tqdm.format_interval, (seconds, seconds * (epochs - len(history))))
    return f"{title}, {each} per epoch, {left} left"


def line_per_epoch() -> Callable[[str], None]:
    """A `report` for `train` that prints one line per epoch in the place of the log's three or more."""
    line: list[str] = []

    def report(log: str) -> None:
        for text in log.splitlines():
            if epoch := re.match(r"EPOCH: (\d+)", text):
                line[:] = [f"epoch {int(epoch[1]):>3}"]
            elif line and (figures := re.match(r"(\w+) set: Average loss: (.*), Accuracy: .*\((.*)%\)", text)):
                line.append(f"{figures[1].lower():<5.5} {figures[3]:>6} %, loss {figures[2]}")
                if figures[1] == "Test":
                    print(" · ".join(line))
                    line.clear()
            elif not text.endswith("saving the model"):
                print(textwrap.shorten(text, 200, placeholder=" ..."))

    return report
