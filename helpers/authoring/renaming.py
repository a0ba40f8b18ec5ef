"""Puts the name of one's own GitHub repository wherever the template's stands: badges, set-up cells, addresses."""

import re
from pathlib import Path

from helpers import GITHUB
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_atomically
from helpers.settings import REPOSITORY

# The package comes last: it tells the old name, so that a renaming that was interrupted can be repeated.
FILES = ("*.md", "*.cff", ".github/**/*.yml", "notebooks/*.ipynb", "helpers/__init__.py")
# What GitHub allows: https://docs.github.com/en/repositories and its sign-up form
NAME = re.compile(r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}(?<!\.git)")


def rename(new: str, folder: Path = REPOSITORY, old: str = GITHUB) -> list[tuple[Path, int]]:
    """Replace the name `old` by `new`, both OWNER/REPO, in the files of the course in `folder`.

    Returns the files that changed, each with how often the name stood there. Raises CourseError for a name that
    GitHub would not allow, and changes nothing then.
    """
    if not NAME.fullmatch(new):
        raise CourseError(
            f"{new[:150]!r} cannot be a repository on GitHub: give its name as OWNER/REPO, for instance {old}."
        )
    standing = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w-])".encode())
    changed = []
    for path in (path for pattern in FILES for path in sorted(folder.glob(pattern))):
        content, count = standing.subn(new.encode(), path.read_bytes())
        if count and new != old:
            write_atomically(path, lambda file, content=content: file.write(content))
            changed.append((path.relative_to(folder), count))
    return changed
