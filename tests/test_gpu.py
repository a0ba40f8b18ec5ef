"""What only a GPU can show; elsewhere, and without COURSE_TEST_GPU=1, it is skipped."""

import numpy as np
import pytest
import torch
from conftest import random_images

from helpers import lr_finder, training
from helpers.data import Split, load_data
from helpers.gradcam import heatmaps
from helpers.loaders import make_loaders, resident_batches
from helpers.models import make_model
from helpers.plumbing.devices import Device
from helpers.plumbing.gpu_batches import ResidentBatches, can_augment
from helpers.recipes import RECIPES, changed, with_epochs
from helpers.runs import load_run

CPU, GPU = torch.device("cpu"), torch.device("cuda")
OURS = ("custom_resnet", "resnet18_batchnorm", "resnet18_layernorm")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and COURSE_TEST_GPU=1")


@pytest.fixture(scope="module")
def data():
    return load_data("synthetic", limit=500)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OURS)
def test_a_training_learns_and_goes_on_after_an_interruption(name, precision, data, tmp_path, monkeypatch):
    device = Device(GPU, precision, "a GPU")
    monkeypatch.setattr(training, "pick_device", lambda: device)
    recipe = changed(with_epochs(RECIPES[name], 4), {"batch_size": 32, "ema_decay": 0.9})
    recipe = changed(recipe, {"validation_images": min(100, recipe.validation_images)})
    if recipe.model == "resnet18":
        recipe = changed(recipe, {"lr": 0.01})  # the recipe's is too high for these few steps

    def interrupt(line):
        if line == "EPOCH: 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, data, tmp_path, report=interrupt)
    (folder,) = tmp_path.iterdir()
    before = load_run(folder).history
    run = training.train(recipe, data, tmp_path, report=lambda line: None)
    assert isinstance(make_loaders(recipe, data, 0, device)["train"], ResidentBatches)
    for key, column in run.history.items():
        assert len(column) == 4 and np.array_equal(column[:2], before[key], equal_nan=True)
    assert run.summary["precision"] == device.precision
    assert run.history["train_loss"][-1] < run.history["train_loss"][0]


def batches(split, data, device, **options):
    return resident_batches(split, data.mean, data.std, 64, device, seed=3, **options)


def test_batches_are_those_of_the_cpu(data):
    for ours, theirs in zip(batches(data.train, data, GPU), batches(data.train, data, CPU), strict=True):
        torch.testing.assert_close([tensor.cpu() for tensor in ours], list(theirs))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if can_augment(recipe.augmentation)])
def test_augmented_pixels_are_distributed_as_on_the_cpu(name, data):
    """Two samples of one image: the random numbers differ, so means and deviations have to do."""
    count, augmentation = 3000, RECIPES[name].augmentation
    split = Split(np.repeat(random_images(1), count, axis=0), np.zeros(count, dtype=np.int64))
    ours, theirs = (
        torch.cat([images.cpu() for images, _ in batches(split, data, device, augmentation=augmentation)])
        for device in (GPU, CPU)
    )
    deviation = theirs.std(dim=0)
    assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() - 5 * deviation * (2 / count) ** 0.5).max() < 0.01
    assert (ours.std(dim=0) - deviation).abs().max() < 0.15 * deviation.max()


def test_range_test_finds_bounds(data, tmp_path, monkeypatch):
    monkeypatch.setattr(lr_finder, "pick_device", lambda: Device(GPU, torch.bfloat16, "a GPU"))
    found = lr_finder.find_lr(changed(RECIPES["custom_resnet"], {"batch_size": 64}), data, tmp_path)
    assert 1e-4 < found.lr_min < found.lr_max < 10 and found.provenance.startswith("a GPU, bfloat16")


@pytest.mark.parametrize("name", OURS)
def test_heatmaps_are_those_of_the_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # float32 as on the CPU
    torch.manual_seed(0)
    model, images, labels = make_model(RECIPES[name], 10), torch.randn(6, 3, 32, 32), [0, 1, 2, 3, 4, 5]
    theirs = heatmaps(model, images, labels)
    np.testing.assert_allclose(heatmaps(model.to(GPU), images.to(GPU), labels), theirs, atol=0.05)
