"""The site shows every page and notebook, and only files that are there."""

from pathlib import Path

import yaml

from helpers.settings import REPOSITORY

SITE = yaml.safe_load((REPOSITORY / "myst.yml").read_text())


def shown(entries):
    """The files of the table of contents, in its order."""
    for entry in entries:
        if "file" in entry:
            yield REPOSITORY / entry["file"]
        if "pattern" in entry:
            yield from sorted(REPOSITORY.glob(entry["pattern"]))
        yield from shown(entry.get("children", []))


def test_every_page_and_notebook_has_its_place_once():
    files = list(shown(SITE["project"]["toc"]))
    patterns = ("*.md", "docs/*.md", "results/*.md", "notebooks/*.ipynb")
    assert sorted(files) == sorted(path for pattern in patterns for path in REPOSITORY.glob(pattern))
    assert files[0] == REPOSITORY / "README.md"


def test_what_the_site_is_made_with_is_there():
    options = SITE["site"]["options"]
    for name in (*SITE["project"]["plugins"], options["favicon"], options["style"]):
        assert (REPOSITORY / name).is_file()
    classes = {f"for-{kind}" for kind in ("light", "dark", "wide", "phone")}
    for name in ("site.css", "site.mjs"):
        text = Path(REPOSITORY / "docs" / name).read_text()
        assert all(kind in text for kind in classes)
