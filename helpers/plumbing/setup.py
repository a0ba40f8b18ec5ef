"""What a notebook's first cell does once it has found the course: install what is missing, say what will be used."""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from helpers import settings
from helpers.plumbing.errors import CourseError

FOR_MAKE = ("jupyter", "nbval")  # requirements that a notebook, once it runs, can do without


def set_up(*, install: bool) -> None:
    """Print device, precision and data. `install`: add missing packages first, as Colab and Kaggle need it."""
    if install:
        install_missing(settings.REPOSITORY / "requirements.txt")
    from helpers.plumbing.devices import describe_machine  # torch may only be there now

    print(f"{describe_machine()}\nData: {Path(settings.data_source()).name}" + ", in fast mode" * settings.fast())


def install_missing(requirements: Path) -> None:
    """Let pip install what is missing, with the version of every installed package fixed, so that none is replaced.

    Raises CourseError if that is not possible.
    """
    fixed = {}
    for package in distributions():
        try:
            fixed.setdefault(canonicalize_name(package.name), Version(package.version))
        except (InvalidVersion, TypeError):  # an operating system's own package: none of our requirements
            continue
    wanted = [line for line in requirements.read_text().splitlines() if not line.startswith(FOR_MAKE)]
    with TemporaryDirectory() as folder:
        lists = Path(folder, "wanted.txt"), Path(folder, "fixed.txt")
        lists[0].write_text("\n".join(wanted))
        lists[1].write_text("\n".join(f"{name}=={version}" for name, version in fixed.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-color", "--disable-pip-version-check"]
        command += ["-r", str(lists[0]), "-c", str(lists[1])]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr[-200:])
        raise CourseError(
            f"What the course needs could not be added without replacing an installed package ({reason}): check the "
            f"internet connection, or run `%pip install -r {requirements}`, which may replace some, and restart."
        )
