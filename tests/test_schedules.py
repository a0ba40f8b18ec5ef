import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES, OneCycle, Plateau
from helpers.schedules import make_optimizer, make_schedule, momentum_of, one_cycle, plateau_lrs, replay, triangular


def optimizer_for(name="SGD", lr=0.1):
    options = {"momentum": 0.9} if name == "SGD" else {}
    return getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(1))], lr=lr, **options)


def values_over(scheduler, optimizer, steps):
    """(lr, momentum) at every step, the scheduler stepped between them."""
    values = []
    for step in range(steps):
        values.append((optimizer.param_groups[0]["lr"], momentum_of(optimizer)))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return np.array(values).T


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "peak"), [(24, 98, 5), (24, 1, 5), (10, 7, 2.5), (3, 12, 1)])
def test_one_cycle_follows_the_formula(epochs, steps_per_epoch, peak):
    low, high, total = 0.002, 0.4, epochs * steps_per_epoch
    optimizer = optimizer_for()
    scheduler = one_cycle(OneCycle(lr_max=high, lr_min=low, peak_epoch=peak), optimizer, epochs, steps_per_epoch)
    lr, momentum = values_over(scheduler, optimizer, total)
    top = peak * steps_per_epoch - 1
    k = np.arange(total)
    expected = np.where(k <= top, low + (high - low) * k / top, high - (high - low) * (k - top) / (total - 1 - top))
    np.testing.assert_allclose(lr, expected, rtol=1e-9)
    assert lr[0] == pytest.approx(low) and lr[-1] == pytest.approx(low)
    if top == int(top):
        assert lr[int(top)] == pytest.approx(high) and lr.argmax() == top
    assert (momentum == 0.9).all()


@pytest.mark.parametrize(
    ("recipe", "steps_per_epoch", "given"),
    [
        ("published_s8_onecycle_sgd", 98, {"max_lr": 0.18348291, "total_steps": 24, "pct_start": 5 / 24}),
        ("published_s9_onecycle_adam", 98, {"max_lr": 0.0026826958, "total_steps": 24 * 98, "pct_start": 0.2}),
    ],
)
def test_published_schedules_are_torchs_with_its_defaults(recipe, steps_per_epoch, given):
    recipe = RECIPES[recipe]
    ours, theirs = optimizer_for(recipe.optimizer), optimizer_for(recipe.optimizer)
    scheduler = make_schedule(recipe, ours, steps_per_epoch).scheduler
    reference = torch.optim.lr_scheduler.OneCycleLR(theirs, **given)
    steps = given["total_steps"]
    np.testing.assert_allclose(values_over(scheduler, ours, steps), values_over(reference, theirs, steps), rtol=1e-9)


def test_one_cycle_refuses_fewer_than_three_steps():
    with pytest.raises(CourseError, match="three steps"):
        one_cycle(OneCycle(lr_max=0.4, lr_min=0.002, peak_epoch=1), optimizer_for(), 2, 1)


@pytest.mark.parametrize(
    ("iteration", "expected"), [(0, 0.1), (50, 0.35), (100, 0.6), (150, 0.35), (200, 0.1), (300, 0.6), (425, 0.225)]
)
def test_triangular_by_hand(iteration, expected):
    assert triangular(np.array(iteration), 100, 0.1, 0.6) == pytest.approx(expected)


def plateau_for(steps_per_epoch=1, **values):
    recipe = RECIPES["published_s11_plateau_batchnorm"]
    schedule = Plateau(**{"lr": 1.0, "monitor": "test_acc", "factor": 0.1, "patience": 2} | values)
    optimizer = optimizer_for(lr=schedule.lr)
    return make_schedule(dataclasses.replace(recipe, schedule=schedule), optimizer, steps_per_epoch), optimizer


@pytest.mark.parametrize(
    ("monitor", "values", "expected"),
    [
        # Improves to 60; three epochs without improvement are one more than the patience of two.
        ("test_acc", [50, 60, 59, 60, 58, 70, 70, 70, 70], [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]),
        ("test_loss", [2.0, 1.0, 1.1, 1.0, 1.2, 0.5, 0.6, 0.4, 0.4], [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_plateau_reduces_after_the_patience_is_exceeded(monitor, values, expected):
    schedule, optimizer = plateau_for(monitor=monitor)
    lrs, lines = [], []
    for epoch, value in enumerate(values, start=1):
        schedule.after_batch()
        lines.append(schedule.after_epoch({"epoch": epoch, monitor: value}))
        lrs.append(optimizer.param_groups[0]["lr"])
    assert lrs == pytest.approx(expected)
    assert lines[4] == "Epoch 5: reducing learning rate of group 0 to 1.0000e-01"
    assert sum(line is not None for line in lines) == len(set(expected)) - 1


def test_warm_up_rises_linearly_to_the_learning_rate_and_stays():
    rows = [{"epoch": epoch, "test_acc": 50 + epoch} for epoch in (1, 2, 3)]
    lrs, _ = replay(*plateau_for(steps_per_epoch=4, warmup_epochs=1.5), rows, 4)
    np.testing.assert_allclose(lrs, np.minimum(np.arange(1, 13) / 6, 1))


def test_bad_epochs_of_the_warm_up_do_not_count():
    plateau = Plateau(lr=1.0, monitor="val_acc", factor=0.1, patience=0, warmup_epochs=4)
    lrs = plateau_lrs(plateau, [50, 40, 30, 20, 10, 5])  # the fourth is the first that counts, so the best so far
    assert lrs == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.1])


def test_schedule_state_survives_a_restart():
    schedule, optimizer = plateau_for(steps_per_epoch=2, warmup_epochs=2)
    other, restarted = plateau_for(steps_per_epoch=2, warmup_epochs=2)
    for epoch, value in enumerate([50, 60, 59, 60, 58, 57, 56, 55], start=1):
        row = {"epoch": epoch, "test_acc": value}
        lrs, momenta = replay(schedule, optimizer, [row], 2)
        assert replay(other, restarted, [row], 2) == [lrs, momenta]
        state, kept = other.state_dict(), restarted.state_dict()
        other, restarted = plateau_for(steps_per_epoch=2, warmup_epochs=2)
        restarted.load_state_dict(kept)
        other.load_state_dict(state)
    assert lrs == pytest.approx([0.1, 0.1])


def test_an_improvement_below_the_threshold_is_none():
    """A tenth of the best: 54 is not above 55, 56 is; neither 60 nor 61 nor 61.5 is above 61.6."""
    values = [50, 54, 56, 60, 61, 61.5, 61.5]
    plateau = Plateau(lr=1.0, monitor="val_acc", factor=0.1, patience=2, threshold=0.1)
    assert plateau_lrs(plateau, values) == pytest.approx([1, 1, 1, 1, 1, 1, 0.1])
    assert plateau_lrs(dataclasses.replace(plateau, threshold=1e-4), values) == pytest.approx([1] * 7)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_optimizer_has_the_recipes_values(recipe):
    optimizer = make_optimizer(recipe, nn.Linear(1, 1))
    group = optimizer.param_groups[0]
    assert (type(optimizer).__name__, group["lr"]) == (recipe.optimizer, recipe.schedule.lr_start)
    assert group["weight_decay"] == recipe.weight_decay
    if recipe.optimizer == "SGD":
        assert (group["momentum"], group["nesterov"]) == (recipe.momentum, recipe.nesterov)
