"""What a reader meets on GitHub: notebooks executed in order, links that lead somewhere, figures that were recorded."""

import ast
import re
import statistics
from functools import cache
from urllib.parse import urlsplit

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from helpers import GITHUB
from helpers.authoring.render import METADATA
from helpers.authoring.results import demanded_accuracy
from helpers.recipes import RECIPES
from helpers.runs import load_run
from helpers.settings import REPOSITORY

NOTEBOOKS = sorted(REPOSITORY.glob("notebooks/*.ipynb"))
PAGES = sorted({*REPOSITORY.glob("*.md"), *REPOSITORY.glob("results/*.md"), *REPOSITORY.glob("docs/*.md"), *NOTEBOOKS})
MACHINE_PATH = re.compile(r"(?<![\w.~>-])(?:/(?:root|home|Users|work|tmp|mnt|private|var)/|[A-Z]:\\\w)")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=[path for path in NOTEBOOKS if path.stem < "05"], ids=lambda path: path.stem)
def ours(request):
    """The course's own: another may be shorter and belong to no assignment."""
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    """What a cell printed or would show as text."""
    data = [output.get("data", {}) for output in cell.outputs]
    texts = [output.get("text", "") for output in cell.outputs]
    return "\n".join(texts + [value for d in data for kind, value in d.items() if kind.startswith("text/")])


def test_executed_once_in_order_without_an_error(notebook):
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output.ename for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not [cell.id for cell in cells if "\r" in text_of(cell)]  # what is left of progress bars: TQDM_DISABLE=1


def test_github_shows_it_and_colab_opens_it_with_a_gpu(notebook):
    kinds = {kind for cell in code_cells(notebook) for output in cell.outputs for kind in output.get("data", {})}
    assert "widgets" not in notebook.metadata and not [kind for kind in kinds if "widget" in kind]
    assert {notebook.metadata["accelerator"], METADATA["accelerator"]} == {"GPU"}


def test_light_and_in_small_cells_that_define_nothing(notebook, request):
    sizes = []
    for cell in code_cells(notebook):
        sizes.append(len(cell.source.splitlines()))
        tree = ast.parse(TransformerManager().transform_cell(cell.source))  # magics are no Python
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node.name for node in ast.walk(tree) if isinstance(node, kinds)]
    assert max(sizes) <= 25 and statistics.median(sizes) <= 8
    assert (REPOSITORY / "notebooks" / f"{request.node.callspec.id}.ipynb").stat().st_size < 1_000_000


def test_every_picture_has_an_alternative_text(notebook):
    for cell in code_cells(notebook):
        pictures = [(o, kind) for o in cell.outputs for kind in o.get("data", {}) if kind.startswith("image/")]
        assert all(output.metadata.get(kind, {}).get("alt") for output, kind in pictures), cell.id
        assert len(pictures) <= len(cell.metadata.get("alt", [])), cell.id


def words(markdown):
    text = re.sub(r"\]\([^)]*\)|\$[^$]*\$", "", markdown).replace("|", " ")
    return sum(bool(re.search("[A-Za-z]", word)) for word in text.split())


def test_short_enough_to_be_read(ours):
    counts = {cell.id: words(cell.source) for cell in ours.cells if cell.cell_type == "markdown"}
    assert not [name for name, count in counts.items() if count > 150]
    assert 2000 <= sum(counts.values()) <= 2800


def test_the_first_page_leads_from_demands_to_sections_that_exist(ours):
    heading = "| demand | section |"
    [demands] = (cell.source.partition(heading)[2] for cell in ours.cells[:2] if heading in cell.source)
    named = set(re.findall(r"\d+", " ".join(re.findall(r"\| ([^|]*) \|$", demands, flags=re.MULTILINE))))
    headings = {match[1] for cell in ours.cells if (match := re.match(r"## (\d+) · ", cell.source))}
    assert named - {"04"} <= headings


def test_what_tests_need_is_in_the_metadata(ours):
    assert not [cell.id for cell in ours.cells if "NBVAL" in cell.source]
    assert [cell for cell in code_cells(ours) if "nbval-check-output" in cell.metadata.get("tags", [])]


def test_badge_opens_this_notebook(notebook, request):
    address = f"https://colab.research.google.com/github/{GITHUB}/blob/main/notebooks/{request.node.callspec.id}.ipynb"
    badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    assert notebook.cells[0].source.startswith(f"{badge}({address})\n")


def test_no_path_of_somebodys_machine(notebook):
    texts = [cell.source for cell in notebook.cells] + [text_of(cell) for cell in code_cells(notebook)]
    assert not [line for text in texts for line in text.splitlines() if MACHINE_PATH.search(line)]


def markdown_of(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def broken_links(markdown, path):
    """Targets of links and images that lead nowhere: files that are missing, malformed addresses, unknown headings."""
    text = re.sub(r"^(```|~~~).*?^\1|`[^`\n]*`", "", markdown, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(\s*([^)]*?)\s*\)", text) + re.findall(r"(?:src|href)=[\"']([^\"']*)", text)
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    }
    broken = []
    for target in targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            host = re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc)
            fine = host and parts.scheme == "https" and " " not in target
        elif parts.path:
            place = (path.parent / parts.path).resolve()
            fine = place.exists() and place.is_relative_to(REPOSITORY)
        else:
            fine = parts.fragment in headings
        broken += [] if fine else [target]
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_and_images_resolve_and_files_that_are_named_exist(path):
    text = markdown_of(path)
    assert broken_links(text, path) == []
    named = re.findall(r"`((?:helpers|tests|notebooks|docs)/[\w/.]*)`", text)
    assert [name for name in named if not (REPOSITORY / name).exists() and "05_weight_decay" not in name] == []


@cache
def recorded_figures():
    """The figures of each epoch of the recorded runs, as notebooks print them, and those that stand alone."""
    alone, epochs = set(), set()
    for recipe in RECIPES.values():
        alone |= {recipe.about.others, recipe.about.others_train, demanded_accuracy(recipe)}
    for path in REPOSITORY.glob("results/*/summary.json"):
        run = load_run(path.parent)
        reported, table = run.summary["reported"], run.history
        alone |= {reported["test_acc"], reported.get("test_acc_flip_averaging"), *table["val_acc"]}
        splits = ("train", "val", "test") if run.recipe.validation_images else ("train", "test")
        pairs = [zip(table[f"{split}_acc"], table[f"{split}_loss"], strict=True) for split in splits]
        epochs |= {tuple(f"{a:.2f} %, loss {b:.4f}" for a, b in epoch) for epoch in zip(*pairs, strict=True)}
    return epochs, {f"{accuracy:.2f} %" for accuracy in alone if accuracy}


def test_figures_are_those_of_recorded_runs(notebook):
    epochs, alone = recorded_figures()
    for line in "\n".join(text_of(cell) for cell in code_cells(notebook)).splitlines():
        line = re.sub(r".* predictions are correct;", "", line)  # measured anew, where a device may differ by an image
        epoch = tuple(re.findall(r"\d+\.\d\d %, loss \d\.\d{4}", line))
        assert epoch in epochs if epoch else set(re.findall(r"\d+\.\d\d %", line)) <= alone, line
