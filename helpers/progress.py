"""Progress bars, as text: a notebook can keep them, and they need no widgets."""

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

from helpers import distributed


def progress_bar(iterable: Iterable, title: str | None = None, total: int | None = None, unit: str = "it") -> tqdm:
    """tqdm's bar, where someone can watch it: in a terminal or a notebook. It vanishes at its end."""
    watched = not os.environ.get("TQDM_DISABLE") and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    watched = watched and distributed.RANK == 0
    return tqdm(
        iterable, title, total, leave=False, mininterval=0.5, disable=not watched, dynamic_ncols=True, unit=unit
    )
