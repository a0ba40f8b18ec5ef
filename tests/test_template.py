"""What makes the repository a template: pages, forms and pictures that keep up with the code."""

import re

import pytest
import yaml

from helpers import GITHUB, __version__
from helpers.authoring import dataflow
from helpers.settings import REPOSITORY

FORMS = sorted(REPOSITORY.glob(".github/ISSUE_TEMPLATE/[!c]*.yml"))


def test_picture_of_the_data_flow_is_that_of_the_code():
    assert f"```mermaid\n{dataflow.draw()}```\n" in dataflow.PAGE.read_text(), "python -m helpers.authoring.dataflow"


def test_picture_is_put_in_the_place_of_the_old_one(tmp_path, monkeypatch):
    page = tmp_path / "ARCHITECTURE.md"
    page.write_text("before\n```mermaid\nflowchart LR\n    old --> one\n```\nbehind\n```sh\nls\n```\n")
    monkeypatch.setattr(dataflow, "PAGE", page)
    dataflow.main()
    assert page.read_text() == f"before\n```mermaid\n{dataflow.draw()}```\nbehind\n```sh\nls\n```\n"


def test_arrows_follow_the_annotations(tmp_path):
    """Not those of private functions, of things that nobody returns, or back to the module that makes them."""
    (tmp_path / "bakery.py").write_text(
        "@dataclass(frozen=True)\nclass Bread: pass\n@dataclass\nclass Crumb: pass\nclass Oven: pass\n"
        "def bake(flour: int) -> Bread: ...\ndef slice(bread: Bread) -> list[Bread]: ...\n"
        "def heat(oven: Oven) -> Oven: ..."
    )
    (tmp_path / "kitchen.py").write_text(
        "def eat(bread: bakery.Bread | None, *, crumbs: dict[str, Crumb]) -> None: ...\n"
        "def _hide(bread: Bread) -> Crumb: ..."
    )
    (tmp_path / "shelf.py").write_text("def _keep(bread: Bread) -> None: ...")
    drawn = "flowchart LR\n    Bread([Bread])\n    Bread --> kitchen\n    bakery --> Bread\n"
    assert dataflow.draw(tmp_path) == drawn


def test_pages_name_files_that_exist():
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (REPOSITORY / page).read_text()
        for path in re.findall(r"`((?:helpers|tests|notebooks)/[\w/.]*)`", text):
            assert (REPOSITORY / path).exists() or "05_weight_decay" in path
        for module in re.findall(r"^\| `\w+`.*?\| (.*?) \|", text, flags=re.MULTILINE):
            for name in re.findall(r"`(\w+)`", module):
                assert (REPOSITORY / "helpers" / f"{name}.py").exists()


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
