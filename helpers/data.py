"""Image data as uint8 arrays: the official CIFAR-10, other collections, a folder of images, or synthetic pictures.

Images are decoded once and cached, in an order that does not depend on where they came from: the official archive and
a folder of the same pictures give the same training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from helpers import settings
from helpers.plumbing import distributed, image_folder, image_sources
from helpers.plumbing.errors import CourseError
from helpers.plumbing.image_sources import SIZE as SIZE
from helpers.plumbing.image_sources import Source
from helpers.recipes import Recipe

SYNTHETIC_COUNTS = {"train": 10_000, "test": 2_000}
CIFAR10_FINGERPRINT = "f84c547c8f0c1dac"  # of the complete set, wherever its pictures come from
NAMES = ("synthetic", *image_sources.HOSTS)  # all else is the path of a folder


@dataclass(frozen=True)
class Split:
    """Images (N, 32, 32, 3) uint8 RGB, and their labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: np.ndarray) -> "Split":
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Data:
    """A data set, and the mean and deviation (3,) that it is normalised by: those of all training pixels / 255."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray
    fingerprint: str  # the same for the same labelled pictures, wherever they came from
    notes: tuple[str, ...] = ()  # what a reader has to know: synthetic, resized, left out, shortened

    @property
    def mark(self) -> str:
        return demo_mark(self.name, self.notes)

    def normalised_by(self, recipe: Recipe) -> "Data":
        """The data with the mean and deviation that a recipe normalises by, if it has its own."""
        if recipe.normalisation is None:
            return self
        mean, std = map(np.array, recipe.normalisation)
        return replace(self, mean=mean, std=std)

    def describe(self) -> dict:
        """The record of the data that a run keeps, as JSON types."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "train_images": len(self.train),
            "test_images": len(self.test),
            "mean": [round(float(value), 6) for value in self.mean],
            "std": [round(float(value), 6) for value in self.std],
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


def demo_mark(data: str, notes: Sequence[str], short: bool = False) -> str:
    """Mark what is no result: drawn pictures, a part of the images, a short training; "" for all else."""
    if data == "synthetic":
        return "DEMO · synthetic"
    if any(note.startswith("limited to ") for note in notes):
        return "DEMO · limited images"
    return "DEMO · short" if short else ""


@distributed.first_of_each_machine()  # decodes; the others read what it cached
def load_data(source: str = "cifar10", *, limit: int | None = None) -> Data:
    """Load one of NAMES, in capitals or not, or the folder at the path `source`.

    `limit` keeps that many training images at most, and that many test images, each class in proportion;
    the normalisation is then that of the kept images. Raises CourseError.
    """
    if limit is not None and limit < 1:
        raise CourseError(f"limit has to be 1 or more, not {limit}.")
    source = str(source)
    named = source.lower() in NAMES
    place = _named_source(source.lower()) if named else _folder_source(settings.without_tilde(source))
    pictures = image_sources.load(place)
    train, test = Split(*pictures.train), Split(*pictures.test)
    statistics = channel_statistics(train.images)
    data = Data(place.name, pictures.classes, train, test, *statistics, pictures.fingerprint, pictures.notes)
    if data.name in NAMES and not named and data.fingerprint != CIFAR10_FINGERPRINT:
        note = f"a folder called {data.name}, which is not known to be the course's {data.name}"
        data = replace(data, notes=(note, *data.notes))
    whole = limit is None or limit >= max(len(data.train), len(data.test))
    return data if whole else _limited(data, limit)


def stratified_split(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `count` images, drawn from each class in proportion, and of the rest; both sorted.

    Shares are rounded so that they add up to `count`; a rare class may get none, see `missing_classes`. The same seed
    draws the same.
    """
    rng = np.random.default_rng(seed)
    by_class = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    bounds = np.round(np.cumsum([0] + [len(indices) for indices in by_class]) * count / len(labels)).astype(int)
    shares = np.diff(bounds)
    drawn = np.sort(np.concatenate([indices[:share] for indices, share in zip(by_class, shares, strict=True)]))
    return drawn, np.setdiff1d(np.arange(len(labels)), drawn)


def missing_classes(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The classes that none of the labels (N,) belongs to."""
    return [classes[label] for label in np.setdiff1d(np.arange(len(classes)), labels)]


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (3,) over all pixels / 255.

    The deviation of a constant channel is given as 1, so that it can be divided by.
    """
    mean, std = cv2.meanStdDev(images.reshape(-1, 1, 3))
    return mean[:, 0] / 255, np.where(std[:, 0] > 1e-4, std[:, 0] / 255, 1.0)


def _named_source(name: str) -> Source:
    if name == "synthetic":
        return image_sources.synthetic_pictures(settings.data_folder(), SYNTHETIC_COUNTS)
    address = settings.cifar10_url() if name == "cifar10" else ""
    return image_sources.collection(name, settings.data_folder(), address)


def _folder_source(folder: Path) -> Source:
    in_repository = settings.REPOSITORY / folder  # notebooks run in notebooks/
    return image_folder.folder_source(in_repository if in_repository.exists() and not folder.exists() else folder)


def _limited(data: Data, limit: int) -> Data:
    train = data.train[stratified_split(data.train.labels, min(limit, len(data.train)), seed=0)[0]]
    test = data.test[stratified_split(data.test.labels, min(limit, len(data.test)), seed=0)[0]]
    if missing_classes(train.labels, data.classes) or missing_classes(test.labels, data.classes):
        raise CourseError(f"A limit of {limit} images leaves classes without any: raise it.")
    mean, std = channel_statistics(train.images)
    splits = ((split.images, split.labels) for split in (train, test))
    fingerprint = image_sources.fingerprint(data.classes, *splits)
    notes = (*data.notes, f"limited to {len(train):,} training and {len(test):,} test images")
    return replace(data, train=train, test=test, mean=mean, std=std, fingerprint=fingerprint, notes=notes)
