"""Batches of a data set: in which order, from which loader, and what of it each process gets."""

import os
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from helpers.augmentation import augment, check_augmentation, compose, normalise, scale_and_shift
from helpers.data import Data, Split, missing_classes, stratified_split
from helpers.plumbing import distributed
from helpers.plumbing.devices import Device
from helpers.plumbing.errors import CourseError
from helpers.plumbing.gpu_batches import ResidentBatches, can_augment
from helpers.recipes import Recipe

EVALUATION_BATCH = 500
CHANGE = "by --set, or in a notebook by recipes.changed"  # how a user lowers what is too large


class BatchOrder(Sampler):
    """Yields (indices, seed) of each batch of an epoch: shuffled by (seed, epoch), or in order without a seed.

    Every epoch holds every image once; its last batch is the smaller rest. `epoch` counts up by itself;
    set it to draw an epoch again.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None):
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
        order, seed = np.arange(self.count), ()
        if self.seed is not None:
            seed = (self.seed, self.epoch)
            order = np.random.default_rng(seed).permutation(self.count)
        self.epoch += 1
        for batch in range(len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size], (*seed, batch + 1)


class Batches(Dataset):
    """A data set whose items are whole batches: (images float32 (B, 3, H, W), labels int64 (B,)).

    Each of several processes gets its share of a batch, as it is in the batch of one process.
    """

    def __init__(self, split: Split, mean: np.ndarray, std: np.ndarray, augmentation: tuple = ()):
        self.split, self.mean, self.std = split, mean, std
        self.pipeline = compose(augmentation, mean) if augmentation else None

    def __getitem__(self, key: tuple[np.ndarray, tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        indices, seed = key
        images, labels = self.split.images[indices], self.split.labels[indices]
        if self.pipeline:
            images = augment(images, self.pipeline, seed)  # all: each image's draws depend on those before
        share = distributed.share(len(labels))
        return normalise(images[share], self.mean, self.std), torch.from_numpy(labels[share])


def make_loader(
    split: Split,
    mean: np.ndarray,
    std: np.ndarray,
    batch_size: int,
    *,
    augmentation: tuple = (),
    seed: int | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches of `split`, shuffled and augmented anew in every epoch if there is a `seed`."""
    return DataLoader(
        Batches(split, mean, std, augmentation),
        sampler=BatchOrder(len(split), batch_size, seed),
        batch_size=None,  # the items are batches already
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )


def make_loaders(recipe: Recipe, data: Data, seed: int, device: Device) -> dict[str, DataLoader | ResidentBatches]:
    """Loaders of "train" (augmented, shuffled), "val" if the recipe holds images out, and "test".

    Raises CourseError if too few images are left to train on, or for an augmentation that gives other images.
    """
    val, train = stratified_split(data.train.labels, recipe.validation_images, seed=seed)
    if recipe.batch_size > len(train):
        raise CourseError(
            f"batch_size={recipe.batch_size} is larger than the training set ({len(train)} images): use more, or "
            f"lower batch_size{' or validation_images' if len(val) else ''}, {CHANGE}."
        )
    if gone := missing_classes(data.train.labels[train], data.classes):
        raise CourseError(
            f"validation_images={recipe.validation_images} takes every training image of {gone[0]}: lower it, {CHANGE}."
        )
    last = len(train) % recipe.batch_size or recipe.batch_size
    if recipe.sync_batchnorm and last < distributed.WORLD_SIZE:  # torch would gather values of several types
        raise CourseError(
            f"sync_batchnorm=True needs an image of every batch for each process, and the last batch has {last} for "
            f"{distributed.WORLD_SIZE}: start fewer, or change validation_images."
        )
    check_augmentation(recipe.augmentation, data)
    make = _loader_maker(recipe, device)
    options = {"mean": data.mean, "std": data.std, "batch_size": EVALUATION_BATCH}
    drawn = {"batch_size": recipe.batch_size, "augmentation": recipe.augmentation, "seed": seed}
    loaders = {"train": make(data.train[train], **options | drawn)}
    if len(val):
        loaders["val"] = make(data.train[val], **options)
    return loaders | {"test": make(data.test, **options)}


def held_out_notes(recipe: Recipe, data: Data, seed: int) -> list[str]:
    """A note if some classes have no held-out image, so that the held-out figures say nothing about them."""
    val, _ = stratified_split(data.train.labels, recipe.validation_images, seed=seed)
    gone = missing_classes(data.train.labels[val], data.classes) if len(val) else []
    return [f"no image of {', '.join(gone[:5])} is held out: raise validation_images"] if gone else []


def _loader_maker(recipe: Recipe, device: Device) -> Callable:
    """A GPU holds the images and augments them itself where it can; otherwise albumentations does, on the CPU."""
    if device.device.type != "cuda":
        return make_loader  # no workers: the cores are busy anyway
    if can_augment(recipe.augmentation):
        return partial(resident_batches, device=device.device)
    return partial(make_loader, workers=min(8, os.cpu_count() or 1), pin_memory=True)


def resident_batches(
    split: Split,
    mean: np.ndarray,
    std: np.ndarray,
    batch_size: int,
    device: torch.device,
    *,
    augmentation: tuple = (),
    seed: int | None = None,
) -> ResidentBatches:
    """The same batches as `make_loader` gives, but for the draws, from images that lie on the device."""
    order, normalisation = BatchOrder(len(split), batch_size, seed), scale_and_shift(mean, std)
    return ResidentBatches(split.images, split.labels, order, normalisation, augmentation, mean, device)
