"""Every demand is met by a run that keeps to the assignment, and fails for one that breaks it."""

import dataclasses
import json

import numpy as np
import pytest

from helpers import checklist as module
from helpers.checklist import checklist
from helpers.data import CIFAR10_FINGERPRINT
from helpers.errors import CourseError
from helpers.lr_finder import RangeTest, swept_values
from helpers.recipes import RECIPES, as_dict, changed, with_epochs
from helpers.runs import Run, configuration

CUSTOM = RECIPES["custom_resnet"]
DEMANDS = [text for text, _ in module.DEMANDS["custom_resnet"]]
CIFAR10 = {
    "name": "cifar10",
    "classes": [str(k) for k in range(10)],
    "fingerprint": CIFAR10_FINGERPRINT,
    "notes": [],
}


def make_run(folder, recipe=CUSTOM, data=CIFAR10, accuracy=93.0, steps_per_epoch=98, found=CUSTOM, curve=None):
    """A finished run as its folder would tell it, its learning rates by the formula, its range test beside it."""
    schedule, total = recipe.schedule, recipe.epochs * steps_per_epoch
    peak = schedule.peak_epoch * steps_per_epoch - 1
    end = schedule.lr_min if schedule.lr_end is None else schedule.lr_end
    lr = np.interp(np.arange(total), [0, peak, total - 1], [schedule.lr_min, schedule.lr_max, end])
    if found:
        beside = folder.parent / f"{folder.name}-lr-find"
        beside.mkdir(parents=True)
        settings = {"recipe": swept_values(as_dict(found)), "data": CIFAR10, "seed": 0, "steps": 100}
        bounds = found.schedule.lr_min, found.schedule.lr_max
        result = RangeTest("", [], [], [], *bounds, None, "", settings, "")
        (beside / "lr_find.json").write_text(json.dumps(dataclasses.asdict(result)))
    config = json.loads(json.dumps(configuration(recipe, data, 0)))
    steps = {"step": np.arange(total), "lr": lr if curve is None else curve(lr), "momentum": np.full(total, 0.9)}
    reported = {"test_acc": accuracy, "epoch": recipe.epochs, "chosen_by": "last epoch"}
    history = {"epoch": np.arange(1, recipe.epochs + 1)}
    return Run(folder, config, history, steps, "", {"reported": reported})


def failing(run):
    return [demand.text for demand in checklist(run) if not demand.met]


def test_assignment_kept_meets_every_demand(tmp_path):
    run = make_run(tmp_path / "run")
    assert failing(run) == []
    assert [demand.text for demand in checklist(run)] == DEMANDS
    assert all(str(demand).startswith("✅") and demand.evidence in str(demand) for demand in checklist(run))


def without(name):
    return dataclasses.replace(CUSTOM, augmentation=tuple(t for t in CUSTOM.augmentation if t[0] != name))


def with_hole(**values):
    *rest, (name, arguments) = CUSTOM.augmentation
    return dataclasses.replace(CUSTOM, augmentation=(*rest, (name, arguments | values)))


@pytest.mark.parametrize(
    ("broken", "demand"),
    [
        ({"recipe": changed(CUSTOM, {"loss": "cross_entropy_of_softmax"})}, "Softmax once"),
        ({"recipe": changed(CUSTOM, {"fc_bias": False})}, "6,573,130 parameters"),
        ({"recipe": without("PadIfNeeded")}, "RandomCrop 32"),
        ({"recipe": without("HorizontalFlip")}, "RandomCrop 32"),
        ({"recipe": with_hole(p=0.5)}, "RandomCrop 32"),
        ({"recipe": with_hole(hole_height_range=(16, 16))}, "RandomCrop 32"),
        ({"recipe": changed(CUSTOM, {"batch_size": 256})}, "Batch size 512"),
        ({"recipe": with_epochs(CUSTOM, 48)}, "24 epochs"),
        ({"found": None}, "LRMIN and LRMAX found"),
        ({"found": changed(CUSTOM, {"lr_max": 0.1})}, "LRMIN and LRMAX found"),
        ({"found": changed(CUSTOM, {"batch_size": 256})}, "LRMIN and LRMAX found"),
        ({"recipe": changed(CUSTOM, {"peak_epoch": 6})}, "OneCycle: maximum at epoch 5"),
        ({"curve": lambda lr: lr * 0.9}, "OneCycle: maximum at epoch 5"),
        ({"recipe": changed(CUSTOM, {"lr_end": 1e-6})}, "No annihilation"),
        ({"accuracy": 89.99}, "Test accuracy of 90 %"),
        ({"data": CIFAR10 | {"fingerprint": "of other images"}}, "Test accuracy of 90 %"),
    ],
)
def test_each_demand_fails_for_a_run_that_breaks_it(tmp_path, broken, demand):
    assert any(text.startswith(demand) for text in failing(make_run(tmp_path / "run", **broken)))


def test_network_without_a_list_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    config = run.config | {"recipe": as_dict(RECIPES["resnet18_layernorm"])}
    with pytest.raises(CourseError, match="no checklist for resnet18"):
        checklist(dataclasses.replace(run, config=config))


def test_unfinished_run_is_refused(tmp_path):
    with pytest.raises(CourseError, match="is not finished"):
        checklist(dataclasses.replace(make_run(tmp_path / "run"), summary=None))
