"""The synthetic pictures: reproducible, balanced, too hard for a linear model, learnable by the network."""

import itertools

import cv2
import numpy as np
import pytest

from helpers.plumbing.synthetic import SHAPES, draw


@pytest.mark.parametrize("count", [0, 1, 7, 10, 203])
def test_shapes_types_and_balance(count):
    images, labels = draw(count, seed=0)
    assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.int64
    per_class = np.bincount(labels, minlength=10)
    assert len(per_class) == 10 and per_class.max() - per_class.min() <= 1


def test_fewer_pictures_are_the_first_of_more():
    images, labels = draw(300, seed=5)
    for count in (1, 64, 133):
        fewer, fewer_labels = draw(count, seed=5)
        assert np.array_equal(fewer, images[:count]) and np.array_equal(fewer_labels, labels[:count])


def test_no_picture_twice_within_or_across_seeds():
    images = np.concatenate([draw(200, seed)[0] for seed in (0, 1)])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def raster(outlines, turn=0.0, mirror=1):
    """Where a shape lies, 20 pixels to its unit: bool (64, 64)."""
    rotation = 20 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = [np.rint(16 * (outline * (mirror, 1) @ rotation + 32)).astype(np.int32) for outline in outlines]
    return cv2.fillPoly(np.zeros((64, 64), np.uint8), points, 1, cv2.LINE_8, 4) > 0


def test_no_class_is_another_one_mirrored():
    """However one of them is mirrored and turned, at least a tenth of their common area differs."""
    for a, b in itertools.combinations(SHAPES, 2):
        for turn in np.linspace(-0.8, 0.8, 9):
            for mirror in (-1, 1):
                one, other = raster(SHAPES[a], turn, mirror), raster(SHAPES[b])
                assert (one & other).sum() / (one | other).sum() < 0.9, f"{a} and {b} look alike"


def test_a_linear_model_fails():
    """Ridge regression of the one-hot labels on the pixels, whatever its strength."""
    (x, y), (x_test, y_test) = (draw(count, seed) for count, seed in ((3000, 0), (1000, 1)))
    x, x_test = (images.reshape(len(images), -1).astype(np.float32) / 255 for images in (x, x_test))
    x, x_test = x - x.mean(axis=0), x_test - x.mean(axis=0)
    kernel, targets = x @ x.T, np.eye(10, dtype=np.float32)[y] - 0.1
    for strength in (10, 100, 1000):
        weights = x.T @ np.linalg.solve(kernel + strength * np.eye(len(x), dtype=np.float32), targets)
        accuracy = ((x_test @ weights).argmax(axis=1) == y_test).mean()
        assert accuracy < 0.18  # 0.1 by chance; 0.22 if shapes were always lighter than what is behind them
