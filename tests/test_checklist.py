"""Every demand is met by a run that keeps to the assignment, and fails for one that breaks it."""

import dataclasses
import json

import numpy as np
import pytest
from torch import nn

from helpers.assignment.checklist import ASSIGNMENTS, CUSTOM_RESNET, checklist
from helpers.data import CIFAR10_FINGERPRINT
from helpers.models import make_model
from helpers.plumbing.files import save_checkpoint
from helpers.plumbing.run_files import configuration
from helpers.recipes import RECIPES, as_dict, changed, with_epochs
from helpers.runs import RangeTest, Run, swept_values
from helpers.settings import REPOSITORY

CUSTOM = RECIPES["custom_resnet"]
FOUND = "LRMIN and LRMAX found by a range test"
CURVE = REPOSITORY / "results" / "custom_resnet-cifar10-seed0-lr-find" / "lr_find.json"  # gives the recipe's bounds
BOUNDS = f"found {CUSTOM.schedule.lr_min:g} and {CUSTOM.schedule.lr_max:g}"
CIFAR10 = {
    "name": "cifar10",
    "classes": [str(k) for k in range(10)],
    **{"train_images": 50_000, "test_images": 10_000, "fingerprint": CIFAR10_FINGERPRINT},
    "notes": [],
}


def make_run(
    folder, recipe=CUSTOM, data=CIFAR10, accuracy=93.0, steps_per_epoch=98, found=CUSTOM, curve=None, beside=None
):
    """A finished run as its folder would tell it, its learning rates by the formula, its range test beside it."""
    schedule, total = recipe.schedule, recipe.epochs * steps_per_epoch
    peak = schedule.peak_epoch * steps_per_epoch - 1
    end = schedule.lr_min if schedule.lr_end is None else schedule.lr_end
    lr = np.interp(np.arange(total), [0, peak, total - 1], [schedule.lr_min, schedule.lr_max, end])
    if found:
        beside = folder.parent / (beside or f"{recipe.name}-cifar10-seed0-lr-find")
        beside.mkdir(parents=True, exist_ok=True)
        settings = {"recipe": swept_values(as_dict(found)), "data": CIFAR10, "seed": 0, "steps": 100}
        bounds = found.schedule.lr_min, found.schedule.lr_max
        curve_found = json.loads(CURVE.read_text())
        result = RangeTest("", [], curve_found["lrs"], curve_found["losses"], *bounds, None, "", settings, "")
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
    assert all(str(demand).startswith("✅") and demand.evidence in str(demand) for demand in checklist(run))


def test_a_range_test_of_another_seed_will_do(tmp_path):
    run = make_run(tmp_path / "custom_resnet-cifar10-seed3", beside="custom_resnet-cifar10-seed0-lr-find")
    assert failing(run) == []
    make_run(tmp_path / "x", found=changed(CUSTOM, {"lr_max": 0.1}), beside="custom_resnet-cifar10-seed1-lr-find")
    (tmp_path / "custom_resnet-cifar10-seed2-lr-find").mkdir()
    (tmp_path / "custom_resnet-cifar10-seed2-lr-find" / "lr_find.json").write_text("{}")  # damaged, beside a good one
    assert failing(run) == []
    assert failing(dataclasses.replace(run, folder=tmp_path / "custom_resnet-cifar10-seed3 (1)")) == []
    assert f"this recipe and data, seed 0, {BOUNDS}" in {d.text: d.evidence for d in checklist(run)}[FOUND]


def test_the_peak_of_a_schedule_that_is_stepped_once_an_epoch_is_that_epoch(tmp_path):
    low, high = CUSTOM.schedule.lr_min, CUSTOM.schedule.lr_max
    staircase = np.repeat(np.interp(np.arange(24), [0, 4, 23], [low, high, low]), 98)
    run = make_run(tmp_path / "run", curve=lambda lr: staircase)
    assert failing(run) == []


def with_values(recipe, transform, **values):
    pipeline = ((name, arguments | (values if name == transform else {})) for name, arguments in recipe.augmentation)
    return dataclasses.replace(recipe, augmentation=tuple(pipeline))


@pytest.mark.parametrize(
    ("broken", "demand"),
    [
        ({"recipe": changed(CUSTOM, {"loss": "cross_entropy_of_softmax"})}, "Softmax once"),
        ({"recipe": changed(CUSTOM, {"width": 32})}, "PrepLayer 64"),
        ({"recipe": changed(CUSTOM, {"fc_bias": False})}, "6,573,130 parameters"),
        ({"recipe": with_values(CUSTOM, "CoarseDropout", hole_height_range=(16, 16))}, "RandomCrop 32"),
        ({"recipe": changed(CUSTOM, {"batch_size": 256})}, "Batch size 512"),
        ({"recipe": with_epochs(CUSTOM, 48)}, "24 epochs"),
        ({"found": None}, "LRMIN and LRMAX found"),
        ({"found": changed(CUSTOM, {"lr_max": 0.1})}, "LRMIN and LRMAX found"),
        ({"found": changed(CUSTOM, {"batch_size": 256})}, "LRMIN and LRMAX found"),
        ({"recipe": changed(CUSTOM, {"peak_epoch": 6})}, "OneCycle: maximum at epoch 5"),
        ({"curve": lambda lr: lr * 0.9}, "OneCycle: maximum at epoch 5"),
        ({"recipe": changed(CUSTOM, {"lr_end": 1e-6})}, "No annihilation"),
        ({"accuracy": 89.99}, "Test accuracy of 90 %"),
        ({"recipe": dataclasses.replace(CUSTOM, select="test_acc")}, "The test set decides nothing"),
        ({"data": CIFAR10 | {"fingerprint": "of other images"}}, "Test accuracy of 90 %"),
    ],
)
def test_each_demand_fails_for_a_run_that_breaks_it(tmp_path, broken, demand):
    assert any(text.startswith(demand) for text in failing(make_run(tmp_path / "run", **broken)))


def test_bounds_that_the_curve_does_not_give_were_typed_in(tmp_path):
    run = make_run(tmp_path / "run")
    path = tmp_path / "custom_resnet-cifar10-seed0-lr-find" / "lr_find.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"losses": [2.3] * len(found["lrs"])}))
    assert failing(run) == [FOUND]
    assert f"{BOUNDS}, which its curve does not give" in {d.text: d.evidence for d in checklist(run)}[FOUND]


PLATEAU = {norm: RECIPES[f"resnet18_{norm}norm"] for norm in ("batch", "layer")}


def make_plateau_run(folder, recipe, data=CIFAR10, accuracy=92.0, curve=None, saved=None):
    """A finished run whose validation accuracy rises, stalls for six epochs, and rises again."""
    epochs = np.arange(1, recipe.epochs + 1)
    values = 80 + 0.5 * np.where(epochs <= 10, epochs, np.maximum(10, epochs - 6))
    steps_per_epoch, lr = 10, np.full(recipe.epochs, getattr(recipe.schedule, "lr", 0.1))
    lr[:3] *= [1 / 3, 2 / 3, 1]  # three epochs of warm-up
    lr[13:] *= 0.2  # no better than epoch 10: 11, 12 and 13, then again 14, 15 and 16
    lr[16:] *= 0.2
    column = getattr(recipe.schedule, "monitor", "val_acc")
    history = {"epoch": epochs, column: values, "val_acc": values, "test_acc": values}
    history["lr"] = lr if curve is None else curve(lr)
    folder.mkdir()
    config = json.loads(json.dumps(configuration(recipe, data, 0)))
    if saved != 0:
        save_checkpoint(folder / "best.pt", {"model": {}, "epoch": saved or recipe.epochs, "config": config})
    reported = {"test_acc": accuracy, "epoch": recipe.epochs, "chosen_by": recipe.select}
    steps = {"step": np.arange(steps_per_epoch * recipe.epochs), "lr": np.repeat(lr, steps_per_epoch)}
    return Run(folder, config, history, steps, "", {"reported": reported})


@pytest.mark.parametrize("norm", PLATEAU)
def test_plateau_assignment_kept_meets_every_demand(tmp_path, norm):
    run = make_plateau_run(tmp_path / "run", PLATEAU[norm])
    assert failing(run) == []
    assert any("reduced after epochs 13, 16" in demand.evidence for demand in checklist(run))


_pad, _crop, *_rest = PLATEAU["layer"].augmentation
CROP_FIRST, HOLE_TWICE = (_crop, _pad, *_rest), (_pad, _crop, _rest[0], *_rest)
NO_SHIFT = {"hue_shift_limit": 0, "sat_shift_limit": (0, 0), "val_shift_limit": 0}


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (PLATEAU["layer"], (True, "20 layers of layer normalisation, filters standardized")),
        (changed(PLATEAU["layer"], {"weight_standardization": False}), (True, "20 layers of layer normalisation")),
        (RECIPES["published_s11_plateau_batchnorm"], (False, "20 layers of BatchNorm")),  # the brief demanded LayerNorm
    ],
)
def test_evidence_names_the_norms_and_standardized_filters(tmp_path, recipe, expected):
    run = make_plateau_run(tmp_path / "run", recipe, accuracy=84.5)
    model = make_model(run.recipe, 10)
    check = dict(ASSIGNMENTS["resnet18_layernorm"])["layer normalisation only, after every convolution"]
    assert check(run, model) == expected


@pytest.mark.parametrize(
    ("broken", "demand"),
    [
        ({"recipe": with_values(PLATEAU["layer"], "Rotate", limit=(-15, 15))}, "RandomCrop 32"),
        ({"recipe": with_values(PLATEAU["batch"], "HueSaturationValue", **NO_SHIFT)}, "Albumentations"),
        ({"recipe": with_values(PLATEAU["batch"], "Rotate", p=0.0)}, "Albumentations"),
        ({"recipe": with_values(PLATEAU["layer"], "RandomCrop", p=0.9)}, "RandomCrop 32"),
        ({"recipe": dataclasses.replace(PLATEAU["layer"], augmentation=CROP_FIRST)}, "RandomCrop 32"),
        ({"recipe": dataclasses.replace(PLATEAU["layer"], augmentation=HOLE_TWICE)}, "RandomCrop 32"),
        ({"curve": lambda lr: np.full_like(lr, lr.max())}, "ReduceLROnPlateau"),
        ({"recipe": dataclasses.replace(PLATEAU["layer"], schedule=CUSTOM.schedule)}, "ReduceLROnPlateau"),
        ({"recipe": changed(PLATEAU["layer"], {"monitor": "test_acc"})}, "The test set"),
        ({"saved": 0}, "Best model saved"),
        ({"saved": 39}, "Best model saved"),
        ({"recipe": changed(PLATEAU["layer"], {"select": "last"})}, "Best model saved"),
        ({"accuracy": 84.4}, "At least 84.50 %"),
    ],
)
def test_each_plateau_demand_fails_for_a_run_that_breaks_it(tmp_path, broken, demand):
    run = make_plateau_run(tmp_path / "run", **{"recipe": PLATEAU["layer"]} | broken)
    assert any(text.startswith(demand) for text in failing(run))


@pytest.mark.parametrize(
    ("hole", "pad", "met"),
    [({"size": 8}, 4, True), ({"size": 8, "holes": 2}, 4, False), ({"size": 16}, 4, False), ({"size": 8}, 2, False)],
)
def test_the_courses_own_cutout_and_padding_by_its_sides_count_too(tmp_path, hole, pad, met):
    pad = ("Pad", {"padding": pad, "border_mode": "BORDER_REFLECT_101"})
    pipeline = (pad, *CUSTOM.augmentation[1:-1], ("CutOut", hole | {"fill": "mean", "p": 1.0}))
    run = make_run(tmp_path / "run", dataclasses.replace(CUSTOM, augmentation=pipeline))
    assert ("RandomCrop 32 after padding 4, flip left-right, CutOut 8x8" not in failing(run)) == met


def test_a_network_in_another_order_is_told():
    model = make_model(RECIPES["custom_resnet"], 10)
    model.prep[1], model.prep[2] = model.prep[2], model.prep[1]  # ReLU before BatchNorm
    check = dict(CUSTOM_RESNET)["conv 3x3, (MaxPool), BatchNorm, ReLU in this order; MaxPool kernel 4; FC"]
    assert check(None, make_model(RECIPES["custom_resnet"], 10))[0] and not check(None, model)[0]
    logits = dict(CUSTOM_RESNET)["Softmax once: the network returns logits, the loss holds the softmax"]
    run = type("Run", (), {"recipe": RECIPES["custom_resnet"]})
    assert logits(run, model)[0] and not logits(run, nn.Sequential(model, nn.Softmax(dim=1)))[0]
