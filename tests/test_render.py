import nbformat
import pytest

from helpers.authoring.render import render
from helpers.data import load_data
from helpers.lr_finder import find_lr
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES
from helpers.training import train


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_rendering_executes_with_the_recorded_runs_and_keeps_only_what_readers_want(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # as `python -m helpers` sets it: pictures are kept all the same
    (tmp_path / "results" / "a-run").mkdir(parents=True)
    path = notebook(
        tmp_path / "n.ipynb",
        "import os, sys\nfrom pathlib import Path\nprint(os.environ['COURSE_DATA'], os.environ['COURSE_RECORDED'])\n"
        "print('noise', file=sys.stderr)\nprint(*(p.name for p in Path(os.environ['COURSE_RUNS']).iterdir()))",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    render(path, "synthetic", root=tmp_path)
    cell, drawn = nbformat.read(path, as_version=4).cells
    assert (cell.execution_count, drawn.execution_count) == (1, 2)
    assert [(output.name, output.text) for output in cell.outputs] == [("stdout", "synthetic 1\na-run\n")]
    assert [kind for output in drawn.outputs for kind in output.data if "image/" in kind] == ["image/png"]


def test_a_notebook_that_stops_stays_as_it_was(tmp_path):
    (tmp_path / "results").mkdir()
    path = notebook(tmp_path / "n.ipynb", "print(1)", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CourseError, match=r"n\.ipynb stopped: ZeroDivisionError"):
        render(path, "synthetic", root=tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, "no JSON", "{}", "[]", '{"cells": 1, "nbformat": 4, "nbformat_minor": 5}'])
def test_what_is_no_notebook_gets_a_sentence(content, tmp_path):
    path = tmp_path / "n.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CourseError, match=r"n\.ipynb cannot be read as a notebook"):
        render(path, "synthetic", root=tmp_path)


@pytest.mark.parametrize(("work", "kind"), [(train, ""), (find_lr, "-lr-find")])
def test_what_is_not_recorded_is_refused_instead_of_computed(tmp_path, monkeypatch, work, kind):
    monkeypatch.setenv("COURSE_RECORDED", "1")
    with pytest.raises(CourseError, match=f"custom_resnet-synthetic-seed0{kind} is not recorded in full"):
        work(RECIPES["custom_resnet"], load_data("synthetic"), tmp_path)
