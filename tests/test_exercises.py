"""Every exercise of the notebooks: its solution passes its check, the empty and the typical wrong answers do not."""

import ast
import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

from helpers import lr_finder
from helpers.assignment import exercises
from helpers.authoring.students import NOTEBOOKS, make_student_copies
from helpers.plumbing.errors import CourseError
from helpers.recipes import Plateau
from helpers.schedules import plateau_lrs

# Typical wrong answers to each exercise, as a student may write them, and what the sentence has to speak of.
WRONG = {
    "largest_lr": (
        ("(0.4, 0.2)", "order"),
        ("(0.5, 1)", "k = 2"),
        ("(0.1, 0.2)", "not 2 k w"),
        ("0.4", "a list of numbers is asked for; yours, of shape ()"),
        ("(0.2, 0.41)", "1 of 2 values are not right. The first is at index 1"),
        ("None", "this is None"),
    ),
    "triangular": (
        ("lr_min + (lr_max - lr_min) * np.abs(t / step_size - 2 * np.floor(1 + t / (2 * step_size)) + 1)", "1 - x"),
        ("lr_min + (lr_max - lr_min) * t / step_size", "climbs on"),
        ("[0, 0.0025, 0.005, 0.0025, 0, 0.005]", "add LRMIN"),
        ("[0.001, 0.004, 0.007, 0.004, 0.001, 0.007]", "a share of LRMAX - LRMIN"),
        ("lr_min + (lr_max - lr_min) * np.maximum(0, 1 - np.abs(t / step_size - 2 * (1 + t / (2 * step_size)) + 1))",
         "np.floor"),
        ("np.interp(t % 2000, (0, 1000, 2000), (lr_min, lr_max, lr_min))", "two step sizes"),
    ),
    "sweep": (
        ("np.linspace(1e-6, 1, 61)", "multiply"),
        ("1e-6 * 1e6 ** (np.arange(61) / 61)", "falls short"),
        ("np.logspace(1e-6, 1, 61)", "power"),
        ("np.round(np.geomspace(1e-6, 1, 61), 5)", "not right"),
    ),
    "smoothed": (
        ("[2.3, 2.14, 2.428, 2.0056]", "exchanged"),
        ("[0.46, 0.788, 1.1304, 1.28432]", "begins at 0"),
        ("[2.3, 2.26, 2.18, 2.38]", "smoothed"),
    ),
    "bounds": (
        ("(3e-3, sweep_lrs[int(np.nanargmin(sweep_losses))])", "second fall"),
        ("(3e-3, sweep_lrs[int(np.argmin(sweep_losses))])", "NaN"),
        ("(1e-3, 0.05)", "a tenth of the descent"),
        ("(3e-3, 0.1)", "the middle of the floor"),
        ("(3e-3, (0.03 + 0.1) / 2)", "the square root"),
        ("(3e-3, (0.03 * 0.1) ** 0.5)", "rounds it to one digit"),
        ("(0.05, 3e-3)", "order"),
    ),
    "cutout": (
        ("image.copy(); holed[:6, 16:24] = 0", "black"),
        ("image.copy(); holed[row - half : row + half, 16:24] = mean_colour", "NumPy counts from the end"),
        ("image.copy(); holed[:8, 16:24] = mean_colour", "pushed"),
        ("image.copy(); holed[:6, 16:25] = mean_colour", "18 of 3072 values are not right. The first is at index (0"),
        ("image[:, :, 0]", "an array of 3 dimensions is asked for"),
    ),
    "layer_parameters": (
        ("9 * 32 * 64 + 2 * 9 * 64 * 64", "two numbers for each channel"),
        ("9 * 32 * 64 + 2 * 9 * 64 * 64 + 3 * 64", "*and* a shift"),
        ("9 * 32 * 64 + 2 * 9 * 64 * 64 + 9 * 64", "bias"),
        ("9 * 32 * 64 + 9 * 64 * 64 + 4 * 64", "two convolutions"),
        ("2 * (9 * 64 * 64 + 2 * 64)", "R alone"),
        ("92_545", "1 of 1 values are not right"),
    ),
    "residual_output": (
        ("block(relu(norm(pool(conv(x)))))", "R(X) alone"),
        ("relu(norm(pool(conv(x))))", "X alone"),
        ("block(block(relu(norm(pool(conv(x))))))", "twice"),
        ("block", "this Sequential cannot be read as one"),
    ),
    "peak_epoch": (
        ("np.interp(np.arange(1200), (0, 300, 1199), (0.02, 0.4, 0.02))", "one step late"),
        ("np.interp(np.arange(1200), (0, 2 * 100, 1199), (0.02, 0.4, 0.02))", "an epoch early"),
        ("np.interp(np.arange(1200), (0, 2 * 100 - 1, 1199), (0.02, 0.4, 0.02))", "an epoch early"),
        ("np.interp(np.arange(1200), (0, 299, 1200), (0.02, 0.4, 0.02))", "1,199, not 1,200"),
        ("np.interp(np.arange(1200), (0, 299, 1199), (0.02, 0.4, 0))", "annihilation"),
        ("np.interp(np.arange(1200), (0, 299, 1199), (0, 0.4, 0.02))", "the first step has LRMIN"),
    ),
    "smoothing_floor": (
        ("0", "without smoothing"),
        ("-np.log(0.91)", "correct class alone"),
        ("-(0.9 * np.log(0.9) + 9 * 0.1 / 9 * np.log(0.1 / 9))", "0.91, not 0.9"),
        ("0.91 * np.log(0.91) + 0.09 * np.log(0.01)", "a minus is missing"),
        ("[0.5]", "a single number is asked for"),
        ("0.502", "nearly: write four digits"),
    ),
    "group_norm_means": (("2", "each of the 4 images"), ("6", "BatchNorm"), ("4", "one group"), ("4 * 6", "share one")),
    "group_norm": (
        ("nn.GroupNorm(1, 6)(values)", "one group"),
        ("(values - values.mean((0, 2, 3), keepdim=True)) / values.std((0, 2, 3), correction=0, keepdim=True)",
         "BatchNorm"),
        ("((values.view(4, 2, -1) - values.view(4, 2, -1).mean(2, keepdim=True)) / values.view(4, 2, -1)"
         ".std(2, keepdim=True)).view(4, 6, 8, 8)", "correction by 1"),
        ("nn.functional.group_norm(values.view(4, 3, 2, 8, 8).transpose(1, 2).reshape(4, 6, 8, 8), 2)"
         ".view(4, 2, 3, 8, 8).transpose(1, 2).reshape(4, 6, 8, 8)", "every other one"),
    ),
    "swapped_norms": (
        ("network(images)", "still has its BatchNorms"),
        ("network.eval()(images)", "evaluation mode"),
        ("ResNet18(width=4, norm='layer')(images)", "gives way to nn.GroupNorm"),
    ),
    "plateau_epochs": (
        ("[6, 11]", "one epoch early"),
        ("[8, 13]", "first epochs with the smaller rate"),
        ("[5, 9, 13]", "mode"),
        ("[]", "an equal value is no improvement"),
    ),
    "most_reductions": (
        ("[39 // patience for patience in (10, 3, 2)]", "patience + 1"),
        ("[40 // (patience + 1) for patience in (10, 3, 2)]", "nothing before it"),
        ("[39 / (patience + 1) for patience in (10, 3, 2)]", "round down"),
        ("[13, 9, 3]", "order"),
        ("[None, 9, 13]", "1 of 3 values"),
    ),
    "class_accuracy": (
        ("small_confusion.diagonal() / small_confusion.sum(axis=0)", "rows"),
        ("small_confusion.diagonal().sum() / small_confusion.sum()", "one for each"),
        ("small_confusion.diagonal() / small_confusion.sum()", "own number of images"),
        ("[80, 80, 66.7]", "0.8 for 80 %"),
    ),
    "precision": (
        ("small_confusion.diagonal() / small_confusion.sum(axis=1)", "rows again"),
        ("[53.3, 72.7, 87]", "0.8 for 80 %"),
        ("small_confusion.diagonal() / small_confusion.sum()", "its own number of times"),
    ),
    "gradcam_weights": (
        ("small_gradient.sum(axis=(1, 2))", "sum over the positions"),
        ("[1, 0, 2]", "negative weights are kept"),
    ),
    "gradcam_by_hand": (
        ("(small_gradient.mean((1, 2), keepdims=True) * small_maps).sum(0)", "ReLU is missing"),
        ("np.maximum((small_gradient * small_maps).sum(0), 0)", "averages the gradient first"),
        ("np.maximum((small_gradient.sum((1, 2), keepdims=True) * small_maps).sum(0), 0)", "not the sum"),
        ("np.maximum(small_gradient.mean((1, 2), keepdims=True) * small_maps, 0).sum(0)", "comes last"),
        ("np.maximum(small_gradient.mean((1, 2), keepdims=True) * small_maps, 0)", "still apart"),
    ),
    "heatmap_reading": (
        ("[True, True, False, True]", "stretched"),
        ("[True, False, True, True]", "cut that off"),
        ("[True, False, False, False]", "by trying"),
    ),
}  # fmt: skip


def code_cells(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def names_of(cell):
    return re.findall(r"^check\(\"(\w+)\", \w+\)$", cell, flags=re.MULTILINE)


EXERCISE_CELLS = [  # (notebook, cell) of every code cell that holds a solution or a check
    pytest.param(path, cell, id="-".join(names_of(cell)))
    for path in sorted(NOTEBOOKS.glob("*.ipynb"))
    for cell in code_cells(path)
    if "SOLUTION" in cell or "check(" in cell
]


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
    counts = Counter(p.values[0].name for p in EXERCISE_CELLS for _ in names_of(p.values[1]))
    assert min(counts.values()) >= 5  # a user's own notebook may have none


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
    with pytest.raises(CourseError, match="no exercise 'triangel': choose one of largest_lr, triangular"):
        exercises.check("triangel", 1)


def test_typed_numbers_are_accepted_to_a_thousandth_and_whole_numbers_exactly(capsys):
    answers = {"smoothing_floor": 0.5, "class_accuracy": [0.8, 0.8, 0.667], "layer_parameters": 92_544}
    for name, answer in answers.items():
        exercises.check(name, answer)
        assert capsys.readouterr().out == f"✅ {name}: right\n"


def test_how_many_are_solved_is_counted(capsys, monkeypatch):
    monkeypatch.setattr(exercises, "SOLVED", {})
    answers = ("sweep", ...), ("smoothing_floor", 0.5), ("precision", 1), ("sweep", np.geomspace(1e-6, 1, 61))
    for name, answer in answers:
        exercises.check(name, answer)
    capsys.readouterr()
    exercises.print_solved()
    assert capsys.readouterr().out == "2 of 3 solved; to do: precision\n"


def test_a_check_leaves_the_random_numbers_as_they_were():
    state = torch.random.get_rng_state()
    exercises.check("residual_output", 1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_truths_agree_with_the_course_itself():
    """The checks compare with truths of their own; where the course computes the same, both have to agree."""
    bounds, most_reductions = (np.array(next(exercises.EXERCISES[name]())) for name in ("bounds", "most_reductions"))
    lrs = [1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0]
    losses = [2.30, 2.30, 2.28, 2.20, 2.00, 1.80, 1.78, 2.40, 1.50]
    assert np.allclose(bounds, lr_finder.read_curve(np.array(lrs), np.array(losses)))
    for patience, reductions in zip((10, 3, 2), most_reductions, strict=True):
        plateau = Plateau(lr=1.0, monitor="val_acc", factor=0.5, patience=patience)
        lrs = plateau_lrs(plateau, [50] * 41)  # the 41st shows what was decided after the 40th
        assert -np.log2(lrs[-1]) == reductions
