"""Spares the notebooks' first cell the check of its environment, and the installation of what Colab and Kaggle lack."""

import os
import re
import subprocess
import sys
from importlib import import_module, invalidate_caches, metadata
from pathlib import Path

from helpers import GITHUB, __version__
from helpers.plumbing.errors import CourseError

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"  # not there in an installed package
# A requirement's name and all of it, but those that a notebook, once it runs, can do without
REQUIREMENT = re.compile(r"^(?!jupyter|nbval)([\w.-]+)[^#\n]*[^#\s]", re.MULTILINE)


def set_up(version: str, *, install: bool) -> None:
    """Print device, precision and data. `version`: the notebook's; `install`: add missing packages first.

    Raises CourseError if packages cannot be added or, without `install`, if some are missing or Python is too old.
    """
    text = REQUIREMENTS.read_text(encoding="utf-8") if REQUIREMENTS.exists() else ""
    wanted = {found[1]: found[0] for found in REQUIREMENT.finditer(text)}
    missing = {name: line for name, line in wanted.items() if not installed_version(name)}
    if install:
        install_missing(missing)
    elif missing or sys.version_info < (3, 11):
        venv = REQUIREMENTS.with_name(".venv")
        made = f", here {venv}," if venv.exists() and Path(sys.prefix) != venv else ""
        raise CourseError(
            f"This kernel is {sys.executable}, Python {sys.version.split()[0]}; the course needs 3.11 or newer, and it "
            f"lacks {', '.join(missing) or 'nothing else'}: choose the kernel of an environment that has all{made} (VS "
            "Code: Select Kernel; JupyterLab: Kernel > Change Kernel, or start it there), or run "
            f"`%pip install -r {REQUIREMENTS}` and restart the kernel."
        )
    from packaging.requirements import Requirement

    for name, line in wanted.items():
        if not Requirement(line).specifier.contains(installed_version(name), prereleases=True):
            print(f"{line} is asked for, {installed_version(name)} installed: `%pip install '{line}'`, then restart.")
    if version != __version__:
        print(f"This notebook is of version {version}, its package of {__version__}: see https://github.com/{GITHUB}.")
    from helpers.plumbing.devices import describe_machine  # torch may only be there now

    data = Path(os.environ.get("COURSE_DATA") or "cifar10").name
    print(f"{describe_machine()}\nData: {data}{', in fast mode' if switched_on('COURSE_FAST') else ''}")


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "no", "off")


def installed_version(name: str) -> "str | None":  # quoted, as an older Python gets a sentence too
    return next((found.version for found in metadata.distributions(name=name)), None)


def install_missing(missing: dict) -> None:
    """Install {name: requirement} and what they need and is missing too; pip's solver would judge all the rest.

    Raises CourseError if pip fails, or if one of them cannot be imported then.
    """
    added = missing
    while added:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--no-input", *added.values()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = re.search(r"ERROR.*|.{0,200}$", done.stderr.strip())[0]
            raise CourseError(f"{', '.join(added)} could not be installed ({reason}): is the internet on?")
        invalidate_caches()
        from packaging.requirements import Requirement  # Jupyter brings it along

        needs = [Requirement(need) for name in added for need in metadata.requires(name) or ()]
        needs = [need for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
        added = {need.name: f"{need.name}{need.specifier}" for need in needs if not installed_version(need.name)}
    for name in missing:
        try:
            import_module((metadata.distribution(name).read_text("top_level.txt") or name).split()[0])
        except Exception as error:  # a package can fail in any way
            raise CourseError(f"{name} was added and cannot be imported ({error}): restart and try again.") from error
