"""Whole batches on the device: the same in distribution as albumentations, transform by transform and together."""

import cv2
import numpy as np
import pytest
import torch
from conftest import random_images

from helpers.augmentation import augment, compose
from helpers.data import Split
from helpers.loaders import make_loader, resident_batches
from helpers.plumbing.gpu_batches import augment_batch, can_augment
from helpers.recipes import RECIPES

MEAN = np.array([0.49, 0.48, 0.45])
AUGMENTED = {name: recipe.augmentation for name, recipe in RECIPES.items() if can_augment(recipe.augmentation)}


def both(image, augmentation, count, seed=0):
    """`count` draws of one image: (ours, albumentations), float (count, H, W, 3)."""
    repeated = np.repeat(image[None], count, axis=0)
    theirs = augment(repeated, compose(augmentation, MEAN), seed).astype(float)
    tensor = torch.from_numpy(repeated).permute(0, 3, 1, 2).float()
    ours = augment_batch(tensor, augmentation, MEAN, torch.Generator().manual_seed(seed))
    return ours.permute(0, 2, 3, 1).double().numpy(), theirs


def assert_uniform(values, possible):
    """Each possible value as often as the others, within five standard deviations of a binomial count."""
    counts = np.array([np.sum(values == value) for value in possible])
    assert counts.sum() == len(values)
    expected = len(values) / len(possible)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def assert_independent(*draws):
    """No two of them are correlated, within five standard deviations."""
    assert np.abs(np.corrcoef(draws) - np.eye(len(draws))).max() < 5 / np.sqrt(len(draws[0]))


def test_crop_offsets_and_flips_are_as_frequent_as_theirs():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0], image[..., 1] = 7 * np.arange(32)[:, None], 7 * np.arange(32)  # a pixel says where it came from
    augmentation = AUGMENTED["custom_resnet"][:3]  # pad, crop, flip
    for drawn in both(image, augmentation, 4000):
        row, left, right = drawn[:, 16, 16, 0] / 7 - 16, drawn[:, 16, 15, 1] / 7, drawn[:, 16, 16, 1] / 7
        flipped = right < left
        column = np.where(flipped, left - 16, right - 16)
        assert_uniform(row, range(-4, 5))
        assert_uniform(column, range(-4, 5))
        assert_uniform(flipped, (False, True))
        assert_independent(row, column, flipped)


def test_border_is_mirrored_as_theirs():
    np.testing.assert_allclose(*both(random_images(1)[0], AUGMENTED["custom_resnet"][:1], 1), atol=1e-3)


def test_holes_have_the_size_and_fill_of_the_recipe_and_lie_inside():
    hole, size = tuple(t for t in AUGMENTED["custom_resnet"] if t[0] == "CoarseDropout"), 8
    image = np.full((32, 32, 3), 255, np.uint8)
    for drawn in both(image, hole, 4000):
        inside = (drawn == np.round(MEAN * 255)).all(axis=-1)
        assert (inside | (drawn == 255).all(axis=-1)).all()
        assert (inside.sum(axis=(1, 2)) == size**2).all()
        tops, lefts = inside.any(axis=2).argmax(axis=1), inside.any(axis=1).argmax(axis=1)
        for start, other in ((tops, 2), (lefts, 1)):
            assert (inside.any(axis=other).sum(axis=1) == size).all()
            assert_uniform(start, range(32 - size + 1))
        assert_independent(tops, lefts)


@pytest.mark.parametrize("angle", [-5, 3, 15])
def test_rotation_is_opencvs(angle):
    image = cv2.GaussianBlur(random_images(1)[0], (5, 5), 0)
    turned = (("Rotate", {"limit": (angle, angle), "border_mode": "BORDER_REFLECT_101", "p": 1.0}),)
    matrix = [cv2.getRotationMatrix2D((15.5, 15.5), sign * angle, 1) for sign in (1, -1)]
    expected = [cv2.warpAffine(image, m, (32, 32), borderMode=cv2.BORDER_REFLECT_101) for m in matrix]
    ours, theirs = (drawn[0] for drawn in both(image, turned, 1))
    for drawn in (ours, theirs):  # either may turn clockwise: the limits are symmetric
        assert min(np.abs(drawn - picture).mean() for picture in expected) < 1  # levels of 255


@pytest.mark.parametrize("shifts", [(5, 0, 0), (-5, 0, 0), (0, 15, 0), (0, -15, 0), (0, 0, 10), (0, 0, -10)])
def test_colours_are_shifted_as_opencv_shifts_them(shifts):
    limits = dict(zip(("hue_shift_limit", "sat_shift_limit", "val_shift_limit"), ((s, s) for s in shifts), strict=True))
    image = random_images(1)[0]
    image[:4] = image[:4, :, :1]  # some grey, which stays grey
    ours, theirs = both(image, (("HueSaturationValue", {**limits, "p": 1.0}),), 1)
    assert np.abs(ours - theirs).mean() < 2  # OpenCV's hue has steps of two degrees
    assert np.ptp(ours[0, :4], axis=-1).max() < 1e-3


@pytest.mark.parametrize("name", AUGMENTED)
def test_pixels_of_every_recipe_have_the_means_and_deviations_of_theirs(name):
    image = cv2.GaussianBlur(random_images(1)[0], (7, 7), 0)  # smooth, as photographs are
    ours, theirs = both(image, AUGMENTED[name], 3000)
    deviation = theirs.std(axis=0)
    error = np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) - 5 * deviation * np.sqrt(2 / 3000)
    assert error.max() < 1.5  # levels of 255: what albumentations rounds between its steps
    assert np.abs(ours.std() - theirs.std()) < 0.5
    assert np.abs(ours.std(axis=0) - deviation).max() < 0.15 * deviation.max() + 1.5


ONE = {"num_holes_range": (1, 1)}


def test_every_recipe_of_ours_can_be_augmented_and_the_unknown_is_told():
    assert all(can_augment(recipe.augmentation) for recipe in RECIPES.values() if not recipe.published)
    for name, arguments in (
        ("Blur", {}),
        ("RandomCrop", {"height": 32}),
        ("RandomCrop", {"height": 40, "width": 40}),  # of images of 32x32
        ("PadIfNeeded", {"min_height": 128, "min_width": 128, "border_mode": "BORDER_REFLECT_101"}),
        ("CoarseDropout", {"num_holes_range": (1, 3), "hole_height_range": (8, 8), "hole_width_range": (8, 8)}),
        ("CoarseDropout", {**ONE, "hole_height_range": (0.25, 0.25), "hole_width_range": (8, 8)}),  # a share of 32
        ("CoarseDropout", {**ONE, "hole_height_range": (8, 8), "hole_width_range": (8, 40)}),
        ("Rotate", {"limit": (-5, 5), "border_mode": "BORDER_CONSTANT"}),
    ):
        assert not can_augment(((name, arguments),))


def batches(epochs=2, **options):
    split = Split(random_images(50), np.arange(50) % 10)
    loader = resident_batches(split, MEAN, np.array([0.2, 0.3, 0.4]), 16, torch.device("cpu"), **options)
    assert len(loader) == 4
    return [list(loader) for _ in range(epochs)]


def test_without_augmentation_batches_are_those_of_the_loader():
    split = Split(random_images(50), np.arange(50) % 10)
    loader = make_loader(split, MEAN, np.array([0.2, 0.3, 0.4]), 16, seed=3)
    loader.sampler.epoch = 0
    for (ours, our_labels), (theirs, their_labels) in zip(batches(1, seed=3)[0], loader, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert torch.equal(our_labels, their_labels)
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_seed_epoch_and_batch_decide_the_draws():
    options = {"augmentation": AUGMENTED["resnet18_layernorm"], "seed": 1}
    first, second = batches(**options)
    again, _ = batches(**options)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    other, _ = batches(**options | {"seed": 2})
    for epoch_ in (second, other):
        sums = [torch.cat([x.flatten(1).sum(dim=1) for x, _ in epoch]).sort()[0] for epoch in (first, epoch_)]
        assert not torch.allclose(*sums)
