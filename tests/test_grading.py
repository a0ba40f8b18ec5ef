"""`check` passes what keeps to the assignment, and tells what does not, or was edited afterwards."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import random_images, write_folder
from test_checklist import CIFAR10, CUSTOM, make_run

from helpers.assignment.checklist import ASSIGNMENTS, assignment
from helpers.assignment.grading import MEASURED, RECORDED, WEIGHTS, grade
from helpers.cli import main
from helpers.data import load_data
from helpers.models import make_model
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import load_checkpoint, save_checkpoint
from helpers.recipes import RECIPES, changed, with_epochs
from helpers.runs import HISTORY_COLUMNS, STEP_COLUMNS, configuration, to_csv
from helpers.training import train

COMPLETE = CIFAR10 | {"train_images": 50_000, "test_images": 10_000}


def write_run(folder, recipe=CUSTOM, accuracy=93.0, **how):
    """The files of a finished run of 24 epochs, as `train` would have left them but for the training itself."""
    run = make_run(folder, recipe, data=COMPLETE, accuracy=accuracy, **how)
    folder.mkdir()
    row = {key: 0.5 for key in HISTORY_COLUMNS if not key.startswith("val_")} | {"test_acc": accuracy}
    history = [row | {"epoch": k} for k in range(1, recipe.epochs + 1)]
    columns = zip(*(run.steps[key] for key in STEP_COLUMNS), strict=True)
    steps = [dict(zip(STEP_COLUMNS, map(float, row), strict=True)) for row in columns]
    confusion = np.diag([round(10 * accuracy)] * 10)
    confusion[0, 1] = 10_000 - confusion.sum()
    machine = {"device": "a test", "precision": "float32", "torch": "2", "seconds": 1.0}
    reported = run.summary["reported"] | {"test_loss": 0.5}
    summary = machine | {"reported": reported, "confusion_matrix": confusion.tolist()}
    (folder / "config.json").write_text(json.dumps(run.config))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "history.csv").write_text(to_csv(HISTORY_COLUMNS, history))
    (folder / "steps.csv").write_text(to_csv(STEP_COLUMNS, steps))
    (folder / "train.log").write_text("EPOCH: 1\nReported: epoch 24\n")
    both = {"model": make_model(recipe, 10).state_dict(), "epoch": recipe.epochs, "config": run.config}
    save_checkpoint(folder / "best.pt", both)
    save_checkpoint(folder / "last.pt", both | {"history": history, "steps": steps, "log": ["EPOCH: 1"]})
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("class") / "kept")


def test_class_of_three_of_whom_one_violates_the_assignment(kept, tmp_path, capsys):
    second = write_run(tmp_path / "second", accuracy=90.5)
    recipe = changed(CUSTOM, {"loss": "cross_entropy_of_softmax", "lr_end": 1e-6})
    violating = write_run(tmp_path / "violating", recipe, found=recipe)
    assert main(["check", str(kept), str(second)]) == 0
    out = capsys.readouterr().out
    assert "❌" not in out and out.count("✅") == 2 * (4 + len(ASSIGNMENTS["custom_resnet"]))
    assert "      6,573,130 for 10 classes [fits the saved weights]\n" in out and "512 [recorded only]\n" in out
    assert out.splitlines()[-2:] == [
        f"pass     15 of 15 demands, custom_resnet, 93.00 %: {kept}",
        f"pass     15 of 15 demands, custom_resnet, 90.50 %: {second}",
    ]
    assert main(["check", str(second), str(violating)]) == 1
    out = capsys.readouterr().out
    failed = [line for line in out.splitlines() if line.startswith("❌")]
    assert [line[2:10] for line in failed] == ["Softmax ", "No annih"]
    assert out.splitlines()[-1] == f"FAIL     13 of 15 demands, custom_resnet, 93.00 %: {violating}"

    assert main(["check", *map(str, sorted(kept.parent.iterdir()))]) == 0  # its range test beside it
    assert capsys.readouterr().out.splitlines()[-1].startswith("pass")
    assert main(["check", f"{kept}-lr-find"]) == 2 and "is a range test: name" in capsys.readouterr().err

    (second / "summary.json").unlink()
    assert main(["check", str(second), str(violating), str(tmp_path / "nowhere"), str(kept)]) == 2
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split()[0] for line in lines] == ["unusable", "FAIL", "unusable", "pass"]
    assert "is not finished" in lines[0] and "holds no run" in lines[2]


def edit(name, change):
    def edited(folder):
        text = (folder / name).read_text()
        assert change(text) != text
        (folder / name).write_text(change(text))

    return edited


def resave(name, **values):
    return lambda folder: save_checkpoint(folder / name, load_checkpoint(folder / name) | values)


@pytest.mark.parametrize(
    ("edited", "failing", "evidence"),
    [
        (edit("config.json", lambda t: t.replace('"label_smoothing": 0.1', '"label_smoothing": 0.2')),
         ["best.pt", "history", "LRMIN"], "label_smoothing: 0.1 there, 0.2 asked for"),
        (edit("history.csv", lambda t: t.replace("93", "96", 5)), ["history"], "history.csv differ"),
        (edit("steps.csv", lambda t: t.replace("0.9\n", "0.95\n", 1)), ["history"], "steps.csv differ"),
        (edit("train.log", lambda t: "EPOCH: 2"), ["history"], "train.log differ"),
        (edit("summary.json", lambda t: t.replace("93.0", "96.0")), ["The reported"], "summary 96.00 %, con"),
        (edit("summary.json", lambda t: t.replace("930", "960").replace("93.0", "96.0")), ["The"], "history 93"),
        (lambda folder: (folder / "last.pt").unlink(), ["history"], "last.pt is missing"),
        (lambda folder: (folder / "best.pt").write_text("none"), ["best.pt"], "is damaged or no checkpoint"),
        (resave("best.pt", model=make_model(RECIPES["resnet18_layernorm"], 10).state_dict()), ["best.pt"], "another n"),
        (resave("best.pt", epoch=20), ["best.pt"], "saved after epoch 20"),
    ],
)  # fmt: skip
def test_what_was_edited_afterwards_is_told(edited, failing, evidence, kept, tmp_path):
    shutil.copytree(kept.parent, tmp_path / "class")
    folder = tmp_path / "class" / "kept"
    edited(folder)
    graded = grade(folder)
    told = [demand for demand, _ in graded.demands if not demand.met]
    assert [
        demand.text.split(" holds")[0][: len(start)] for demand, start in zip(told, failing, strict=True)
    ] == failing
    assert evidence in told[0].evidence
    network = WEIGHTS if "best.pt" not in failing else RECORDED
    assert {seen for demand, seen in graded.demands if "parameters" in demand.text} == {network}


@pytest.mark.parametrize("text", ["{}", '{"reported": {}, "confusion_matrix": [], "device": ""}', "[]", "null", "1"])
def test_damaged_folder_is_unusable(text, kept, tmp_path):
    shutil.copytree(kept, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(text)
    with pytest.raises(CourseError, match=r"damaged|not finished"):
        grade(tmp_path / "run")


def test_run_as_train_leaves_it_and_its_accuracy_measured_again(tmp_path, capsys):
    images = random_images(120)
    parts = {"train": {"a": images[:10], "b": images[10:20]}, "test": {"a": images[20:70], "b": images[70:]}}
    source = write_folder(tmp_path / "noise", parts)
    recipe = changed(with_epochs(CUSTOM, 2), {"batch_size": 8})
    run = train(recipe, load_data(str(source), limit=100), tmp_path, report=lambda line: None)  # as are measured again
    assert main(["check", str(run.folder), "--data", str(source)]) == 1  # noise is no CIFAR-10
    graded = grade(run.folder, str(source))
    assert str(graded) in capsys.readouterr().out
    assert [demand.met for demand, _ in graded.demands[:4]] == [True] * 4
    demand, seen = graded.demands[-1]
    assert (
        demand.met
        and seen == MEASURED
        and f"the run reports {run.summary['reported']['test_acc']:.2f} %" in demand.evidence
    )

    # Someone who forges every record, checkpoint included, still has no better network.
    state, confusion = load_checkpoint(run.folder / "last.pt"), [[50, 0], [1, 49]]
    state["history"][-1]["test_acc"] = 99.0
    save_checkpoint(run.folder / "last.pt", state)
    (run.folder / "history.csv").write_text(to_csv(HISTORY_COLUMNS, state["history"]))
    run.summary["reported"]["test_acc"] = 99.0
    (run.folder / "summary.json").write_text(json.dumps(run.summary | {"confusion_matrix": confusion}))
    graded = grade(run.folder, str(source))
    assert [demand.met for demand, _ in graded.demands[:4]] == [True] * 4 and not graded.demands[-1][0].met


@pytest.mark.parametrize(
    ("recipe", "judged_by"),
    [
        *((RECIPES[name], name) for name in ASSIGNMENTS),
        (changed(RECIPES["resnet18_layernorm"], {"norm": "batch"}), "resnet18_layernorm"),
        (RECIPES["published_s8_onecycle_sgd"], "custom_resnet"),
        (RECIPES["published_s10_plateau_sgd"], "resnet18_batchnorm"),
        (RECIPES["published_s11_plateau_batchnorm"], "resnet18_layernorm"),
        (dataclasses.replace(RECIPES["resnet18_layernorm"], name="my_own"), "resnet18_layernorm"),
        (dataclasses.replace(CUSTOM, name="my_own"), "custom_resnet"),
    ],
)
def test_assignment_goes_by_the_name_and_else_by_the_network(recipe, judged_by):
    assert assignment(recipe) == judged_by
    assert configuration(recipe, COMPLETE, 0)["recipe"]["name"] == recipe.name
