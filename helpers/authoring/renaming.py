"""Puts one's own repository, title and name wherever the template's stand: badges, set-up cells, licence, citation."""

import json
import re
from pathlib import Path

from helpers import GITHUB
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_atomically
from helpers.settings import REPOSITORY

# The package, which holds the old name, comes last: interrupted, it can be repeated. Actions may change no workflow.
FILES = ("*.md", "*/*.md", "*.cff", "*.yml", ".github/ISSUE_TEMPLATE/*.yml", "LICENSE", "notebooks/*.ipynb",
         "helpers/__init__.py")  # fmt: skip
# What GitHub allows: https://docs.github.com/en/repositories and its sign-up form
NAME = re.compile(r"[A-Za-z0-9]([-_]?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}(?<!\.git)")
ADDRESS = re.compile(r"^(https?://)?(www\.)?github\.com/|(?<!^)(\.git)?/?$")


def rename(
    new: str, folder: Path = REPOSITORY, old: str = GITHUB, title: str | None = None, holder: str | None = None
) -> list[Path]:
    """Replace the name `old`, OWNER/REPO, by `new`, which may be pasted as the repository's address on GitHub.

    `title`: of the course. `holder`: who is cited, and holds the rights to what is added; the template's own notice
    stays in LICENSE, as its licence wants. Returns the files that changed. Raises CourseError for a name that GitHub
    would not allow and for a text that is no line, and changes nothing then.
    """
    new = ADDRESS.sub("", new)
    if not NAME.fullmatch(new):
        raise CourseError(
            f"{new[:150]!r} cannot be a repository on GitHub: give its name as OWNER/REPO, for instance {old}."
        )
    for option, text in (("--title", title), ("--holder", holder)):
        if text is not None and not (text.strip() and text.isprintable() and len(text) <= 100):
            raise CourseError(f"{option} has to be a line of 1 to 100 characters, not {text[:100]!r}.")
    changes = [  # for a file, or for all: a pattern, and the text in its place
        (None, rf"(?<![\w.-]){re.escape(old)}(?![\w-])", new),
        ("README.md", r"(?s)<!-- until renamed -->.*?<!-- /until renamed -->\n*", ""),
    ]
    if title:
        changes.append(("README.md", r"\A# .*", f"# {title}"))
        changes.append(("CITATION.cff", r"(?<=\ntitle: ).*", json.dumps(title)))
        changes.append(("myst.yml", r"(?<=\n  title: ).*|(?<=logo_text: ).*", json.dumps(title)))
    if holder:
        licence = folder / "LICENSE"  # another one than the template's has no such place
        year = re.search(r"\d{4}", licence.read_text(encoding="utf-8")) if licence.exists() else None
        notice = f"Copyright (c) {year[0] if year else ''} {holder}\n\n"
        changes.append(("CITATION.cff", r"(?<=- name: ).*", json.dumps(holder)))
        changes.append(("LICENSE", rf"(?<=\n)\n(?=Permission)(?<!{re.escape(holder)}\n\n)", notice))
    changed = []
    for path in (path for pattern in FILES for path in sorted(folder.glob(pattern))):
        name, old_text = path.relative_to(folder), path.read_bytes().decode(errors="surrogateescape")
        text = old_text
        for place, pattern, put in changes:
            if place in (None, name.as_posix()) and put not in re.findall(pattern, text):
                text = re.sub(pattern, lambda _, put=put: put, text)
        if text != old_text:
            write_atomically(path, lambda file, text=text: file.write(text.encode(errors="surrogateescape")))
            changed.append(name)
    return changed
