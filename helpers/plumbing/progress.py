"""Progress bars, as text: a notebook can keep them, and they need no widgets."""

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

from helpers.plumbing import distributed


def progress_bar(iterable: Iterable, title: str | None = None, total: int | None = None, unit: str = "it") -> tqdm:
    """tqdm's bar, where someone can watch it: in a terminal or a notebook. It vanishes at its end."""
    notebook = "ipykernel" in sys.modules
    watched = not os.environ.get("TQDM_DISABLE") and (notebook or sys.stderr.isatty())
    watched = watched and distributed.RANK == 0
    options = {"leave": False, "mininterval": 0.5, "dynamic_ncols": True, "unit": unit}
    file = sys.stdout if notebook else sys.stderr  # JupyterLab shows stderr in red, as if something had gone wrong
    return tqdm(iterable, title, total, file=file, disable=not watched, **options)
