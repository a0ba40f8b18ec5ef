import base64
import io
import textwrap

import nbformat
import numpy as np
import pytest
from PIL import Image

from helpers.authoring.render import render
from helpers.authoring.reproduce import multiply_adds, time_left
from helpers.data import load_data
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES
from helpers.runs import HISTORY_COLUMNS, to_csv
from helpers.settings import REPOSITORY
from helpers.training import run_folder


def test_multiply_adds_are_those_of_the_published_network():
    # by hand: every convolution's outputs x 9 x input channels, and the classifier
    convolutions = 32 * 32 * 64 * 27 + 32 * 32 * 128 * 64 * 9 + 2 * 16 * 16 * 128 * 128 * 9 + 16 * 16 * 256 * 128 * 9
    convolutions += 8 * 8 * 512 * 256 * 9 + 2 * 4 * 4 * 512 * 512 * 9
    assert multiply_adds("custom_resnet") == pytest.approx(convolutions + 512 * 10 + 10, rel=0.001)


def test_the_time_left_is_the_work_left_at_the_speed_so_far(tmp_path, monkeypatch):
    data = load_data("synthetic", limit=200)
    recipe = RECIPES["custom_resnet"]
    plan = [(recipe, 0), (recipe, 1)]
    assert "after the first epoch" in time_left(plan, data, tmp_path)
    folder = run_folder(tmp_path, recipe, data, 0)
    folder.mkdir(parents=True)
    rows = [dict.fromkeys(HISTORY_COLUMNS, 1.0) | {"epoch": epoch, "seconds": 600.0} for epoch in range(1, 7)]
    (folder / "history.csv").write_text(to_csv(HISTORY_COLUMNS, rows))
    assert time_left(plan, data, tmp_path) == "about 7 h 00 min left"  # 24 + 24 - 6 epochs of 10 minutes
    rows = [row | {"seconds": 599.9} for row in rows]
    (folder / "history.csv").write_text(to_csv(HISTORY_COLUMNS, rows))
    assert time_left(plan, data, tmp_path) == "about 7 h 00 min left"  # 6 h 59.9 min, rounded


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_rendering_executes_with_the_recorded_runs_and_keeps_only_what_readers_want(tmp_path):
    (tmp_path / "results" / "a-run").mkdir(parents=True)
    path = notebook(
        tmp_path / "n.ipynb",
        "import os, sys\nfrom pathlib import Path\nprint(os.environ['COURSE_DATA'])\n"
        "print('noise', file=sys.stderr)\nprint(*(p.name for p in Path(os.environ['COURSE_RUNS']).iterdir()))",
    )
    render(path, "synthetic", root=tmp_path)
    (cell,) = nbformat.read(path, as_version=4).cells
    assert cell.execution_count == 1
    assert [(output.name, output.text) for output in cell.outputs] == [("stdout", "synthetic\na-run\n")]


def test_rendered_charts_get_fewer_colours_and_photographs_keep_theirs(tmp_path):
    (tmp_path / "results").mkdir()
    common = "import numpy as np\nfrom PIL import Image\nx, y = np.indices((64, 64)).astype(np.uint8)\n"
    show = "Image.fromarray(np.stack(({}, {}, {}), axis=2))"
    many, few = ("4 * x", "4 * y", "2 * (x + y)"), ("x // 32 * 255", "y // 32 * 200", "0 * x")
    path = notebook(tmp_path / "n.ipynb", common + show.format(*many), show.format(*few))
    render(path, "synthetic", root=tmp_path)
    x, y = np.indices((64, 64)).astype(np.uint8)
    made = {"RGB": (4 * x, 4 * y, 2 * (x + y)), "P": (x // 32 * 255, y // 32 * 200, 0 * x)}
    for cell, (mode, channels) in zip(nbformat.read(path, as_version=4).cells, made.items(), strict=True):
        (output,) = cell.outputs
        image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.stack(channels, axis=2))


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


def test_a_notebook_whose_run_or_range_test_is_not_recorded_is_refused_instead_of_trained(tmp_path):
    (tmp_path / "results").mkdir()
    common = f"""
        import sys
        sys.path.insert(0, {str(REPOSITORY)!r})
        from helpers import lr_finder, recipes, settings, training
        from helpers.data import load_data
        data = load_data(settings.data_source())
        recipe = recipes.RECIPES["custom_resnet"]
    """
    for call, folder in (
        ("training.train(recipe, data, settings.runs_folder())", "custom_resnet-synthetic-seed0"),
        ("lr_finder.find_lr(recipe, data, settings.runs_folder())", "custom_resnet-synthetic-seed0-lr-find"),
    ):
        path = notebook(tmp_path / "n.ipynb", textwrap.dedent(common), call)
        with pytest.raises(CourseError, match=f"{folder} is not recorded in full"):
            render(path, "synthetic", root=tmp_path)
