"""What the environment sets for the notebooks and as the command line's defaults.

COURSE_DATA   the data: `cifar10` (default), `synthetic`, or the path of a folder of images
COURSE_RUNS   where run folders are made (default: `runs/` in the repository)
COURSE_FAST   1: a few steps on little data, to see that everything works; never a result
"""

import os
from pathlib import Path

from helpers.recipes import FAST_LIMIT

REPOSITORY = Path(__file__).resolve().parents[1]


def data_source() -> str:
    return os.environ.get("COURSE_DATA") or "cifar10"


def runs_folder() -> Path:
    return REPOSITORY / (os.environ.get("COURSE_RUNS") or "runs")  # an absolute path stays as it is


def image_limit() -> int | None:
    """How many images fast mode keeps; None: all of them."""
    return FAST_LIMIT if fast() else None


def fast() -> bool:
    return os.environ.get("COURSE_FAST", "0") not in ("", "0")
