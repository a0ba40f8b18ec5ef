"""Settings from the environment, for the notebooks and as the command line's defaults.

COURSE_DATA   the data: `cifar10` (default), another name of `data.NAMES`, or the path of a folder of images
COURSE_DATA_DIR   where archives and decoded data are kept (default: `data/` in the repository)
COURSE_CIFAR10_URL   a copy of CIFAR-10's archive, a classroom's own for instance, that is tried first
COURSE_RUNS   where run folders are made (default: `runs/` in the repository, in fast mode `runs/fast/`)
COURSE_FAST   1: narrow networks on little data, which learn the drawn pictures in a minute; never a result
COURSE_TENSORBOARD   1: a training also writes a TensorBoard log into its run folder
COURSE_RECORDED   1: recorded runs alone, nothing is trained or swept; `python -m helpers render` sets it
"""

import os
from importlib.util import find_spec
from pathlib import Path

from helpers.plumbing.errors import CourseError
from helpers.plumbing.setup import REQUIREMENTS, switched_on
from helpers.recipes import FAST_LIMIT

INSTALLED = not REQUIREMENTS.exists()  # among other packages: data and runs go into the current folder
REPOSITORY = Path.cwd() if INSTALLED else REQUIREMENTS.parent


def data_source() -> str:
    """COURSE_DATA, or cifar10."""
    return os.environ.get("COURSE_DATA") or "cifar10"


def data_folder() -> Path:
    """COURSE_DATA_DIR, or `data/`."""
    return REPOSITORY / without_tilde(os.environ.get("COURSE_DATA_DIR") or "data")


def cifar10_url() -> str:
    """COURSE_CIFAR10_URL, or nothing."""
    return os.environ.get("COURSE_CIFAR10_URL", "")


def runs_folder(fast_mode: bool | None = None) -> Path:
    """COURSE_RUNS as it is, or else `runs/`, in fast mode `runs/fast/`, so that fast and full runs do not meet."""
    default = "runs/fast" if (fast() if fast_mode is None else fast_mode) else "runs"
    return REPOSITORY / without_tilde(os.environ.get("COURSE_RUNS") or default)  # an absolute path stays


def named_run(run: str, runs: str | None) -> Path:
    """The folder that RUN names on the command line: a path, or a name among the runs."""
    path = without_tilde(run)
    return path if path.exists() else (without_tilde(runs) if runs else runs_folder()) / run


def without_tilde(path: str) -> Path:
    """The path with `~` spelt out. As in a shell, `~name` stays as it is if nobody is called so."""
    return Path(os.path.expanduser(path))


def keep_runs_on_drive() -> Path:
    """Mount the user's Google Drive (Colab only, with their permission), and keep run folders there from now on.

    Downloaded data go there, too, into `MyDrive/cifar10-data`, unless COURSE_DATA_DIR is set. Returns the folder of the
    runs. Raises CourseError outside Colab, or if permission is refused.
    """
    try:
        from google.colab import drive
    except ImportError as error:
        raise CourseError(
            "Google Drive can be mounted in Colab only; elsewhere set COURSE_RUNS to a folder that lasts."
        ) from error
    try:
        drive.mount("/content/drive")
    except Exception as error:  # Google's own kinds
        raise CourseError(
            f"Google Drive was not mounted ({error}): run this cell again and allow it; or go on without it, and the "
            "runs are gone when Colab disconnects."
        ) from error
    os.environ["COURSE_RUNS"] = "/content/drive/MyDrive/cifar10-runs" + ("/fast" if fast() else "")
    os.environ["COURSE_DATA_DIR"] = os.environ.get("COURSE_DATA_DIR") or "/content/drive/MyDrive/cifar10-data"
    return runs_folder()


def image_limit() -> int | None:
    """The number of images that fast mode keeps; None: all of them."""
    return FAST_LIMIT if fast() else None


def fast() -> bool:
    return switched_on("COURSE_FAST")


def check_recorded(file: Path) -> None:
    """Raises CourseError if only recorded runs may be used and this one's file is missing."""
    if switched_on("COURSE_RECORDED") and not file.exists():
        raise CourseError(
            f"{file.parent.name} is not recorded in full: train it and `python -m helpers record` it first, or unset "
            "COURSE_RECORDED."
        )


def tensorboard() -> bool:
    """Tell whether a log for TensorBoard is wanted. Raises CourseError if it is and TensorBoard is not installed."""
    wanted = switched_on("COURSE_TENSORBOARD")
    if wanted and find_spec("tensorboard") is None:
        raise CourseError(
            "COURSE_TENSORBOARD is set and TensorBoard is not installed: `pip install tensorboard`, or unset it."
        )
    return wanted
