"""What makes the repository a template: pages and forms that keep up with the code."""

import re

import pytest
import yaml

from helpers import GITHUB, __version__
from helpers.settings import REPOSITORY

WORKFLOWS = sorted(REPOSITORY.glob(".github/workflows/*.yml"))
WRITING = {"rename": {"contents": "write"}, "pages": {"contents": "read", "pages": "write", "id-token": "write"}}
PAGES = sorted({*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("results/*.md")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_that_exist(page):
    for path in re.findall(r"`((?:helpers|tests|notebooks|docs)/[\w/.]*)`", page.read_text()):
        assert (REPOSITORY / path).exists() or "05_weight_decay" in path


def test_the_picture_of_the_layers_names_what_is_there():
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    picture = re.search(r"```text\n(.*?)```", text, re.S)[1]
    course = {name for line in picture.splitlines() if "→" in line or "lr_finder" in line for name in
              re.findall(r"[a-z_]{4,}", line)}  # fmt: skip
    assert len(course) >= 12 and all((REPOSITORY / "helpers" / f"{name}.py").exists() for name in course)
    for layer in re.findall(r"─ ([a-z]+)/ ─", picture):
        assert (REPOSITORY / ("" if layer == "helpers" else "helpers") / layer).is_dir()
    for name in re.findall(r"\b([a-z]{4,}) ·", picture.split("authoring/")[1]):
        assert (REPOSITORY / "helpers" / "authoring" / f"{name}.py").exists()


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


def test_issue_chooser_leads_to_pages_of_this_repository():
    chooser = yaml.safe_load((REPOSITORY / ".github/ISSUE_TEMPLATE/config.yml").read_text())
    for link in chooser["contact_links"]:
        assert link.keys() == {"name", "url", "about"}
        page = link["url"].removeprefix(f"https://github.com/{GITHUB}/blob/main/")
        assert (REPOSITORY / page).exists()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_use_pinned_actions_and_only_two_write(path):
    workflow, text = yaml.safe_load(path.read_text()), path.read_text()
    assert workflow["permissions"] == WRITING.get(path.stem, {"contents": "read"})
    assert text.count("permissions:") == 1
    uses = re.findall(r"uses: *(.*)", text)
    assert uses and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in uses)
    kept = 0 if path.stem != "rename" else 1  # it pushes
    assert text.count("actions/checkout@") == text.count("persist-credentials: false") + kept > 0
