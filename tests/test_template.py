"""What makes the repository a template: pages and forms that keep up with the code."""

import re

import pytest
import yaml

from helpers import GITHUB, __version__
from helpers.settings import REPOSITORY

WORKFLOWS = sorted(REPOSITORY.glob(".github/workflows/*.yml"))
WRITING = {"rename": {"contents": "write"}, "pages": {"contents": "read", "pages": "write", "id-token": "write"}}
SITE = yaml.safe_load((REPOSITORY / "myst.yml").read_text())


def shown(entries):
    """The files of the site's table of contents, in its order."""
    for entry in entries:
        if "file" in entry:
            yield REPOSITORY / entry["file"]
        if "pattern" in entry:
            yield from sorted(REPOSITORY.glob(entry["pattern"]))
        yield from shown(entry.get("children", []))


def test_every_page_and_notebook_has_its_place_in_the_site_once():
    files = list(shown(SITE["project"]["toc"]))
    patterns = ("*.md", "docs/*.md", "results/*.md", "notebooks/*.ipynb")
    assert sorted(files) == sorted(path for pattern in patterns for path in REPOSITORY.glob(pattern))
    assert files[0] == REPOSITORY / "README.md"


def test_what_the_site_is_made_with_is_there():
    options = SITE["site"]["options"]
    for name in (*SITE["project"]["plugins"], options["favicon"], options["style"]):
        assert (REPOSITORY / name).is_file()
    for name in ("site.css", "site.mjs"):
        text = (REPOSITORY / "docs" / name).read_text()
        assert all(f"for-{kind}" in text for kind in ("light", "dark", "wide", "phone"))


def test_front_page_is_short():
    """At most 900 words of prose: without tables, code, logs, addresses and what the report writes."""
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.encode()) <= 60_000
    text = re.sub(r"<!-- report:(\w+) -->.*?<!-- /report:\1 -->|<!--.*?-->|\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert len(re.sub(r"^(\||    ).*$", "", text, flags=re.MULTILINE).split()) <= 900


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["version"] == __version__ and citation["repository-code"] == f"https://github.com/{GITHUB}"
    assert re.search(r"^## (\S+?),? ", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1] == __version__


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_use_pinned_actions_and_only_two_write(path):
    workflow, text = yaml.safe_load(path.read_text()), path.read_text()
    assert workflow["permissions"] == WRITING.get(path.stem, {"contents": "read"})
    assert text.count("permissions:") == 1
    uses = re.findall(r"uses: *(.*)", text)
    assert uses and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in uses)
    kept = 0 if path.stem != "rename" else 1  # it pushes
    assert text.count("actions/checkout@") == text.count("persist-credentials: false") + kept > 0
