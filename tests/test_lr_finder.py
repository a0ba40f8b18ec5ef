import copy
import dataclasses
import itertools
import json
import random
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from helpers import lr_finder
from helpers.data import Data, Split, channel_statistics
from helpers.loaders import make_loader
from helpers.plumbing import synthetic
from helpers.plumbing.devices import Device
from helpers.plumbing.errors import CourseError
from helpers.recipes import Recipe, changed, get_recipe
from helpers.runs import load_lr
from helpers.settings import REPOSITORY

SINGLE = changed(get_recipe("custom_resnet"), {"batch_size": 1000})  # single batches suffice for a point
FLOAT32 = Device(torch.device("cpu"), torch.float32, "test")
BFLOAT16 = Device(torch.device("cpu"), torch.bfloat16, "test")
FLOAT16 = Device(torch.device("cpu"), torch.float16, "test")  # with scaled losses


@pytest.fixture(scope="module")
def data():
    train, test = Split(*synthetic.draw(120, seed=0)), Split(*synthetic.draw(40, seed=1))
    return Data("synthetic", synthetic.CLASSES, train, test, *channel_statistics(train.images), "none")


@pytest.fixture
def loader(data):
    return make_loader(data.train, data.mean, data.std, batch_size=20, seed=0)


class Linear(nn.Module):
    """Small enough to sweep in no time; notes the autocast it runs under, and can be made to fail."""

    def __init__(self, nan_after=None):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)
        self.norm = nn.BatchNorm1d(10)
        self.nan_after, self.calls, self.dtypes = nan_after, 0, set()

    def forward(self, x):
        self.calls += 1
        logits = self.norm(self.fc(x.flatten(1)))
        self.dtypes.add(self.fc(x.flatten(1)).dtype)
        return logits * (float("nan") if self.nan_after is not None and self.calls > self.nan_after else 1)


def everything(model, optimizer):
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()]
    return copy.deepcopy((model.state_dict(), optimizer.state_dict(), model.training, *states))


@pytest.mark.parametrize("name", ["custom_resnet", "published_s9_onecycle_adam"])
def test_leaves_model_optimizer_and_random_states_as_they_were(name, loader):
    recipe = changed(get_recipe(name), {"batch_size": 1000})
    model = Linear().eval()
    optimizer = getattr(torch.optim, recipe.optimizer)(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(2):  # so that the optimizer has a state to lose
        model(torch.randn(4, 3, 32, 32)).sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    before = everything(model, optimizer)
    lr_finder.range_test(model, optimizer, loader, FLOAT32, recipe, steps=20)
    torch.testing.assert_close(everything(model, optimizer), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())


def test_sweeps_the_range_exponentially_and_suggests_as_the_library_does(loader):
    recipe, model = SINGLE, Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    lrs, losses, suggestion, ended = lr_finder.range_test(model, optimizer, loader, FLOAT32, recipe, steps=30)
    assert ended == "the range was swept"
    np.testing.assert_allclose(lrs, np.geomspace(1e-4, 10, 30), rtol=1e-6)
    assert suggestion == lrs[10:-5][np.gradient(losses[10:-5]).argmin()]


def test_a_point_of_small_batches_is_their_mean_at_one_learning_rate(loader):
    recipe = changed(get_recipe("custom_resnet"), {"batch_size": 20, "label_smoothing": 0.0})
    torch.manual_seed(0)
    model = Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    by_hand, copied = [], copy.deepcopy(model)
    twin = torch.optim.SGD(copied.parameters(), lr=1e-4)
    for images, labels in itertools.islice(itertools.chain(loader, loader, loader), 13):  # 13 x 20 are 256 at least
        loss = nn.functional.cross_entropy(copied(images), labels)
        twin.zero_grad()
        loss.backward()
        twin.step()
        by_hand.append(loss.item())
    loader.sampler.epoch = 0
    _, losses, *_ = lr_finder.range_test(model, optimizer, loader, FLOAT32, recipe, steps=100)
    assert losses[0] == pytest.approx(np.mean(by_hand), rel=1e-5) and model.calls == 13 * len(losses)


@pytest.mark.parametrize("device", [FLOAT32, BFLOAT16, FLOAT16], ids=lambda device: device.precision)
def test_runs_in_the_precision_of_the_device_and_finds_the_same_curve(loader, device):
    def curve(device):
        torch.manual_seed(0)
        model = Linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=1)
        loader.sampler.epoch = 0
        _, losses, *_ = lr_finder.range_test(model, optimizer, loader, device, SINGLE, steps=20)
        assert model.dtypes == {device.dtype}
        return losses

    np.testing.assert_allclose(curve(device), curve(FLOAT32), rtol=0.01)


def test_cuts_the_curve_where_the_loss_is_no_longer_finite(loader):
    model = Linear(nan_after=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    lrs, losses, suggestion, ended = lr_finder.range_test(model, optimizer, loader, FLOAT32, SINGLE, steps=20)
    assert len(lrs) == len(losses) == 8 and np.isfinite(losses).all()
    assert suggestion is None  # too few points
    assert "not finite at LR 0.013" in ended  # 1e-4 * 10 ** (5 * 8 / 19)


LRS = np.geomspace(1e-4, 10, 101)  # twenty points a decade


def curve(*points):
    """Losses at LRS, linear in log LR between (lr, loss) points."""
    at, losses = zip(*points, strict=True)
    return np.interp(np.log10(LRS), np.log10(at), losses)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        # Falls by 1 between 1e-3 and 1e-1: a tenth at 10^-2.8 = 0.0016. Then the floor, 0.9 of the descent or more, is
        # from 10^-1.2 = 0.063 to 10^-0.95 = 0.112, the last point of twenty a decade before it has climbed by a tenth:
        # its middle is 0.084.
        (((1e-4, 2.0), (1e-3, 2.0), (1e-1, 1.0), (1, 2.0), (10, 5.0)), (0.002, 0.08)),
        # The same, then a second and deeper fall, which must not count.
        (((1e-4, 2.0), (1e-3, 2.0), (1e-1, 1.0), (1, 2.0), (10, 0.1)), (0.002, 0.08)),
        # Small wiggles before the descent are no climb, nor is one by less than a tenth on the way.
        (((1e-4, 2.0), (2e-4, 1.99), (4e-4, 2.0), (1e-3, 2.0), (0.1, 1.0), (1, 2.0), (10, 9.0)), (0.002, 0.09)),
        (((1e-4, 2.0), (1e-3, 2.0), (1e-2, 1.2), (2e-2, 1.25), (1, 0.9), (10, 9.0)), (0.001, 0.6)),
        # A wide floor: from 0.09 to 1.3, wherever its lowest point is.
        (((1e-4, 2.0), (1e-3, 2.0), (1e-1, 1.0), (0.2, 0.99), (1, 1.0), (10, 9.0)), (0.002, 0.3)),
        # No climb at all: the range ends before the network is thrown off.
        (((1e-4, 2.0), (1e-2, 2.0), (10, 1.0)), (0.02, 7.0)),
    ],
)
def test_rule_on_curves_made_by_hand(points, expected):
    assert lr_finder.read_curve(LRS, curve(*points)) == expected


DESCENT = curve((1e-4, 1.1), (1e-3, 1.1), (3e-2, 0.8), (0.5, 0.8), (10, 1.3))  # as of three classes of 200 images


def measured(losses, scatter, seed):
    """The running mean of losses as batches scatter them."""
    raw = losses + np.random.default_rng(seed).normal(0, scatter, len(losses))
    return np.array(list(itertools.accumulate(raw, lambda mean, loss: 0.2 * loss + 0.8 * mean)))


def test_running_mean_can_be_undone():
    np.testing.assert_allclose(lr_finder.unsmoothed(measured(DESCENT, 0, 0)), DESCENT)


@pytest.mark.parametrize("scatter", [0.0, 0.01, 0.02])
def test_scattered_losses_give_about_the_same_bounds(scatter):
    found = np.array([lr_finder.read_curve(LRS, measured(DESCENT, scatter, seed)) for seed in range(20)])
    assert (found[:, 0] >= 0.0007).all() and (found[:, 0] <= 0.006).all()  # a tenth: at 0.0014, and the lag
    assert (found[:, 1] >= 0.06).all() and (found[:, 1] <= 0.4).all()  # the floor: from 0.021 to 0.7


@pytest.mark.parametrize("losses", [np.full(101, 2.3), np.linspace(2.3, 9, 101), np.array([2.3]), np.array([])])
def test_rule_refuses_a_loss_that_never_fell(losses):
    with pytest.raises(CourseError, match="fell no further" if len(losses) else "not finite at the first point"):
        lr_finder.read_curve(LRS[: len(losses)], losses)


def test_rule_refuses_what_chance_alone_explains():
    refused = 0
    for seed in range(20):
        try:
            lr_finder.read_curve(LRS, measured(np.full(101, 2.3), 0.1, seed))
        except CourseError:
            refused += 1
    assert refused >= 18


def test_the_recorded_curve_gives_the_recipes_bounds():
    recorded = load_lr(REPOSITORY / "results/custom_resnet-cifar10-seed0-lr-find/lr_find.json")  # it has no raw losses
    bounds = lr_finder.read_curve(np.array(recorded.lrs), np.array(recorded.losses))
    schedule = get_recipe("custom_resnet").schedule
    assert bounds == (recorded.lr_min, recorded.lr_max) == (schedule.lr_min, schedule.lr_max)


@pytest.fixture
def linear_models(monkeypatch):
    monkeypatch.setattr(lr_finder, "make_model", lambda recipe, classes: Linear())


def test_find_lr_uses_training_data_only_and_is_recorded(data, linear_models, tmp_path, monkeypatch):
    recipe = dataclasses.replace(get_recipe("custom_resnet"), batch_size=60, augmentation=())
    found = lr_finder.find_lr(recipe, data, tmp_path / "a", steps=20)
    other = dataclasses.replace(data, test=Split(255 - data.test.images, data.test.labels))
    assert lr_finder.find_lr(recipe, other, tmp_path / "b", steps=20).losses == found.losses
    assert 0 < found.lr_min < found.lr_max
    path = lr_finder.lr_find_folder(tmp_path / "a", recipe, data, 0) / "lr_find.json"
    assert load_lr(path) == found
    monkeypatch.setattr(lr_finder, "range_test", None)  # recorded: not swept again, whatever the schedule
    assert lr_finder.find_lr(changed(recipe, {"lr_max": 0.25}), data, tmp_path / "a", steps=20) == found


def test_a_changed_recipe_and_fewer_steps_are_told(data, linear_models, tmp_path):
    usual = get_recipe("custom_resnet")
    recipe = changed(usual, {"batch_size": 120, "lr_max": 0.25})  # its bounds do not matter
    with pytest.raises(CourseError, match=r"from 20 to 10,000, not 2\.5"):
        lr_finder.find_lr(recipe, data, tmp_path, steps=2.5)
    found = lr_finder.find_lr(recipe, data, tmp_path, steps=20)
    assert found.notes == [f"changed: batch_size=120 (recipe: {usual.batch_size})", "20 steps instead of 100"]
    assert lr_finder.find_lr(recipe, data, tmp_path / "longer", steps=101).notes[1:] == ["101 steps instead of 100"]


def test_load_lr_names_the_damaged_or_missing_file(tmp_path):
    with pytest.raises(CourseError, match=r"lr_find\.json is missing"):
        load_lr(tmp_path / "lr_find.json")
    (tmp_path / "lr_find.json").write_text(json.dumps({"lr_min": 1})[:-3])
    with pytest.raises(CourseError, match=r"lr_find\.json is damaged"):
        load_lr(tmp_path / "lr_find.json")


def test_every_optimizer_of_the_recipes_has_a_range():
    assert set(lr_finder.START_LR) == set(lr_finder.END_LR) == set(get_args(Recipe.__annotations__["optimizer"]))


def test_the_range_test_sees_images_as_the_recipe_normalises_them(data, linear_models, tmp_path):
    recipe = changed(get_recipe("custom_resnet"), {"batch_size": 70})
    own = dataclasses.replace(recipe, normalisation=((0.1,) * 3, (2.0,) * 3))
    other = dataclasses.replace(data, mean=np.full(3, 0.1), std=np.full(3, 2.0))
    losses = [lr_finder.find_lr(r, d, tmp_path / r.name[:k], steps=20).losses for k, (r, d) in
              enumerate(((own, data), (recipe, other)), start=1)]  # fmt: skip
    assert losses[0] == losses[1]
