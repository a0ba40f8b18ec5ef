"""What makes the repository a template: pages, forms and pictures that keep up with the code."""

import re

import pytest
import yaml

from helpers import GITHUB, __version__
from helpers.settings import REPOSITORY

FORMS = sorted(REPOSITORY.glob(".github/ISSUE_TEMPLATE/[!c]*.yml"))
WORKFLOWS = sorted(REPOSITORY.glob(".github/workflows/*.yml"))


def test_pages_name_files_that_exist():
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (REPOSITORY / page).read_text()
        for path in re.findall(r"`((?:helpers|tests|notebooks)/[\w/.]*)`", text):
            assert (REPOSITORY / path).exists() or "05_weight_decay" in path
        for module in re.findall(r"^\| `\w+`.*?\| (.*?) \|", text, flags=re.MULTILINE):
            for name in re.findall(r"`(\w+)`", module):
                assert list(REPOSITORY.glob(f"helpers/**/{name}.py"))


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["version"] == __version__ and citation["repository-code"] == f"https://github.com/{GITHUB}"
    assert re.search(r"^## (\S+?),? ", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1] == __version__


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_what_github_reads(path):
    """https://docs.github.com/en/communities: syntax for issue forms and for GitHub's form schema."""
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "labels", "title"}
    ids = [element["id"] for element in form["body"]]
    assert len(set(ids)) == len(ids) >= 2
    for element in form["body"]:
        assert element["type"] in ("input", "textarea", "dropdown", "checkboxes") and element["attributes"]["label"]
        assert ("options" in element["attributes"]) == (element["type"] in ("dropdown", "checkboxes"))
        assert element.keys() <= {"type", "id", "attributes", "validations"}


def test_issue_chooser_leads_to_pages_of_this_repository():
    chooser = yaml.safe_load((REPOSITORY / ".github/ISSUE_TEMPLATE/config.yml").read_text())
    for link in chooser["contact_links"]:
        assert link.keys() == {"name", "url", "about"}
        page = link["url"].removeprefix(f"https://github.com/{GITHUB}/blob/main/")
        assert (REPOSITORY / page).exists()


def test_workflows_read_only_and_use_pinned_actions():
    assert WORKFLOWS
    for path in WORKFLOWS:
        text = path.read_text()
        assert re.findall(r"^ *permissions:.*\n(?: +.*\n)*", text, re.MULTILINE) == ["permissions:\n  contents: read\n"]
        uses = re.findall(r"uses: *(.*)", text)
        assert uses and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in uses)
        assert text.count("actions/checkout@") == text.count("persist-credentials: false") > 0
        assert "${{ github.event" not in text  # what others write never becomes a command
