"""Every exercise of the notebooks: its solution passes its check, the empty and the typical wrong answers do not."""

import ast
import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

from helpers import lr_finder
from helpers.assignment import exercises
from helpers.assignment.students import NOTEBOOKS, make_student_copies
from helpers.plumbing.errors import CourseError
from helpers.schedules import triangular

# Typical wrong answers to each exercise, as a student may write them, and what the sentence has to speak of.
WRONG = {
    "triangular": (
        ("lr_min + (lr_max - lr_min) * np.abs(t / step_size - 2 * np.floor(1 + t / (2 * step_size)) + 1)", "1 - x"),
        ("lr_min + (lr_max - lr_min) * t / step_size", "climbs on"),
        ("np.interp(t % 2000, (0, 1000, 2000), (lr_min, lr_max, lr_min))", "two step sizes"),
        ("[0.001, 0.0035, 0.006, 0.0035, 0.001, 0.001]", "1 of 6 values are not right. The first is at index 5"),
    ),
    "sweep": (
        ("np.linspace(1e-6, 1, 61)", "multiply"),
        ("1e-6 * 1e6 ** (np.arange(61) / 61)", "falls short"),
        ("np.logspace(1e-6, 1, 61)", "power"),
        ("1e-6 + 1e-6 * 1e6 ** (np.arange(61) / 60)", "51 of 61 values are not right. The first is at index 0."),
        ("np.round(np.geomspace(1e-6, 1, 61), 5)", "not right"),
        ("np.geomspace(1e-6, 1, 60)", "shape (61,) is asked for, yours is an array of shape (60,)"),
    ),
    "bounds": (
        ("(3e-3, sweep_lrs[int(np.nanargmin(sweep_losses))])", "second fall"),
        ("(3e-3, sweep_lrs[int(np.argmin(sweep_losses))])", "NaN"),
        ("(1e-3, 0.1)", "a tenth of the descent"),
        ("(0.1, 3e-3)", "order"),
        ("(3e-3, 0.3)", "not right"),
        ("(..., ...)", "cannot be read"),
    ),
    "cutout": (
        ("image.copy(); holed[:6, 16:24] = 0", "black"),
        ("image.copy(); holed[row - half : row + half, 16:24] = mean_colour", "NumPy counts from the end"),
        ("image.copy(); holed[:8, 16:24] = mean_colour", "pushed"),
        ("image.copy(); holed[:6, 16:25] = mean_colour", "18 of 3072 values are not right. The first is at index (0"),
        ("image[:, :, 0]", "shape (32, 32, 3) is asked for"),
    ),
    "peak_epoch": (
        ("np.interp(np.arange(1200), (0, 300, 1199), (0.02, 0.4, 0.02))", "one step late"),
        ("np.interp(np.arange(1200), (0, 2 * 100, 1199), (0.02, 0.4, 0.02))", "an epoch early"),
        ("np.interp(np.arange(1200), (0, 2 * 100 - 1, 1199), (0.02, 0.4, 0.02))", "an epoch early"),
        ("np.interp(np.arange(1200), (0, 299, 1200), (0.02, 0.4, 0.02))", "1,199, not 1,200"),
        ("np.interp(np.arange(1200), (0, 299, 1199), (0.02, 0.4, 0))", "annihilation"),
        ("np.interp(np.arange(1201), (0, 299, 1199), (0.02, 0.4, 0.02))", "shape (1201,)"),
        ("np.full(1200, 0.4)", "1199 of 1200 values are not right"),
    ),
    "smoothing_floor": (
        ("0", "without smoothing"),
        ("-np.log(0.91)", "correct class alone"),
        ("-(0.9 * np.log(0.9) + 9 * 0.1 / 9 * np.log(0.1 / 9))", "0.91, not 0.9"),
        ("[0.5]", "a single number is asked for"),
        ("1.461", "1 of 1 values are not right"),
    ),
    "group_norm_means": (("2", "each of the 4 images"), ("6", "BatchNorm"), ("4", "one group"), ("4 * 6", "share one")),
    "group_norm": (
        ("nn.GroupNorm(1, 6)(values)", "one group"),
        ("nn.GroupNorm(2, 6)", "cannot be read"),
        ("(values - values.mean((0, 2, 3), keepdim=True)) / values.std((0, 2, 3), correction=0, keepdim=True)",
         "BatchNorm"),
        ("((values.view(4, 2, -1) - values.view(4, 2, -1).mean(2, keepdim=True)) / values.view(4, 2, -1)"
         ".std(2, keepdim=True)).view(4, 6, 8, 8)", "correction by 1"),
        ("nn.functional.group_norm(values.view(4, 3, 2, 8, 8).transpose(1, 2).reshape(4, 6, 8, 8), 2)"
         ".view(4, 2, 3, 8, 8).transpose(1, 2).reshape(4, 6, 8, 8)", "every other one"),
        ("values", "are not right"),
    ),
    "plateau_epochs": (
        ("[6, 11]", "one epoch early"),
        ("[8, 13]", "first epochs with the smaller rate"),
        ("[5, 9, 13]", "mode"),
        ("[]", "an equal value is no improvement"),
        ("7", "shape (2,)"),
        ("{7, 12}", "cannot be read"),
    ),
    "class_accuracy": (
        ("small_confusion.diagonal() / small_confusion.sum(axis=0)", "rows"),
        ("small_confusion.diagonal().sum() / small_confusion.sum()", "one for each"),
        ("small_confusion.diagonal() / small_confusion.sum()", "own number of images"),
        ("[80, 80, 66.66666667]", "0.8 for 80 %"),
    ),
    "gradcam_by_hand": (
        ("(small_gradient.mean((1, 2), keepdims=True) * small_maps).sum(0)", "ReLU is missing"),
        ("np.maximum((small_gradient * small_maps).sum(0), 0)", "averages the gradient first"),
        ("np.maximum((small_gradient.sum((1, 2), keepdims=True) * small_maps).sum(0), 0)", "not the sum"),
        ("np.maximum(small_gradient.mean((1, 2), keepdims=True) * small_maps, 0).sum(0)", "comes last"),
        ("np.maximum(small_gradient.mean((1, 2), keepdims=True) * small_maps, 0)", "still apart"),
        ("np.zeros((2, 2))", "2 of 4 values are not right. The first is at index (0, 1)"),
    ),
    "heatmap_reading": (
        ("[True, True, False, True]", "stretched"),
        ("[True, False, True, True]", "cut that off"),
        ("[True, False, False, False]", "by trying"),
        ("[True] * 4", "2 of 4"),
        ("True", "shape (4,)"),
        ("'1 and 4'", "cannot be read"),
    ),
}  # fmt: skip


def code_cells(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def names_of(cell):
    return re.findall(r"^check\(\"(\w+)\", \w+\)$", cell, flags=re.MULTILINE)


def exercise_cells():
    """(notebook, cell) of every code cell that holds a solution or a check."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in code_cells(path):
            if "SOLUTION" in cell or "check(" in cell:
                yield pytest.param(path, cell, id="-".join(names_of(cell)))


EXERCISE_CELLS = list(exercise_cells())


@pytest.fixture(scope="module")
def student_copies(tmp_path_factory):
    return {path.name: path for path in make_student_copies(tmp_path_factory.mktemp("course") / "student")}


@pytest.fixture
def student_cell(student_copies, notebook, cell):
    """The same cell in the student's copy."""
    return code_cells(student_copies[notebook.name])[code_cells(notebook).index(cell)]


def run(notebook, cell, capsys):
    """What the cell prints after the notebook's imports, and no other cell: exercises hold what they need."""
    lines = [line for code in code_cells(notebook) for line in code.splitlines()]
    imports = "\n".join(line for line in lines if re.match(r"(from \S+ )?import ", line))
    exec(compile(imports + "\n" + cell, notebook.name, "exec"), {})
    return capsys.readouterr().out


def names(code, context):
    tree = ast.parse(TransformerManager().transform_cell(code))  # a magic is no Python
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def test_every_exercise_is_in_the_notebooks_once_and_has_wrong_answers_here():
    in_notebooks = [name for parameters in EXERCISE_CELLS for name in names_of(parameters.values[1])]
    assert sorted(in_notebooks) == sorted(exercises.EXERCISES) == sorted(WRONG)
    per_notebook = Counter(parameters.values[0].name for parameters in EXERCISE_CELLS)
    assert len(per_notebook) >= 4 and min(per_notebook.values()) >= 2  # a user's own notebook may have none


@pytest.mark.parametrize(("notebook", "cell"), EXERCISE_CELLS)
def test_the_solution_passes(notebook, cell, capsys):
    printed = run(notebook, cell, capsys)
    assert names_of(cell) and all(f"✅ {name}: right\n" in printed for name in names_of(cell))
    assert "❌" not in printed and "☐" not in printed


@pytest.mark.parametrize(("notebook", "cell"), EXERCISE_CELLS)
def test_the_empty_answer_is_still_to_do_and_stops_nothing(notebook, cell, student_cell, capsys):
    printed = run(notebook, student_cell, capsys)
    assert printed.splitlines() == [
        f"☐ {name}: still to do. Put your answer in the place of the three dots and run the cell again."
        for name in names_of(cell)
    ]


@pytest.mark.parametrize(("notebook", "cell"), EXERCISE_CELLS)
def test_wrong_answers_get_the_sentence_that_helps(notebook, cell, student_cell, capsys):
    for name in names_of(cell):
        variable = re.search(rf'^check\("{name}", (\w+)\)$', student_cell, flags=re.MULTILINE)[1]
        [placeholder] = re.findall(rf"^{variable} = \.\.\.  # your answer.*$", student_cell, flags=re.MULTILINE)
        for answer, helps in WRONG[name]:
            answered = student_cell.replace(placeholder, f"{variable} = {answer}")
            printed = run(notebook, answered, capsys)
            verdict = next(line for line in printed.splitlines() if line.startswith((f"❌ {name}: ", f"✅ {name}")))
            assert verdict.startswith("❌") and helps in verdict, answer


@pytest.mark.parametrize(("notebook", "cell"), EXERCISE_CELLS)
def test_nothing_else_needs_an_answer(notebook, cell, student_cell):
    """So a student's copy runs to its end with every exercise open."""
    open_answers = set(re.findall(r"^(\w+) = \.\.\.", student_cell, flags=re.MULTILINE))
    answers = open_answers | names(cell, ast.Store) - names(student_cell, ast.Store)
    known = set()
    for other in code_cells(notebook):
        if other == cell:
            continue
        assert not (names(other, ast.Load) & answers) - known - names(other, ast.Store)
        known |= names(other, ast.Store)


@pytest.mark.parametrize(
    "answer",
    [None, "0.5", "text", b"", object(), [[1], [1, 2]], {}, {1: 2}, len, float("nan"), np.inf, 1j, [], True, ([...]),
     np.full((32, 32, 3), np.nan), torch.ones(6, requires_grad=True), np.array(["a"]), 10**400, range(5)],
)  # fmt: skip
def test_whatever_is_answered_gets_a_sentence(answer, capsys):
    for name in exercises.EXERCISES:
        exercises.check(name, answer)
        printed = capsys.readouterr().out
        assert printed.startswith((f"❌ {name}: ", f"✅ {name}: ")) and printed.count("\n") == 1
        assert printed.startswith("❌") or (name, answer) == ("smoothing_floor", "0.5")


def test_an_unknown_exercise_is_named():
    with pytest.raises(CourseError, match="no exercise 'triangel': choose one of triangular, sweep"):
        exercises.check("triangel", 1)


def test_truths_agree_with_the_course_itself():
    """The checks compare with truths of their own; where the course computes the same, both have to agree."""
    truth = {name: make().truth for name, make in exercises.EXERCISES.items()}
    t = np.array([0, 1000, 2000, 3000, 4000, 6000])
    assert np.allclose(truth["triangular"], triangular(t, 2000, 0.001, 0.006))
    lrs = [1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0]
    losses = [2.30, 2.30, 2.28, 2.20, 2.00, 1.80, 1.78, 2.40, 1.50]
    assert np.allclose(truth["bounds"], lr_finder.read_curve(np.array(lrs), np.array(losses)))
    ratios = [b / a for a, b in pairwise(truth["sweep"])]
    assert np.allclose(ratios, ratios[0]) and truth["sweep"][0] == 1e-6 and truth["sweep"][-1] == 1
    image = np.full((32, 32, 3), 255)
    image[0:6, 16:24] = (125, 123, 114)
    assert np.array_equal(truth["cutout"], image)
