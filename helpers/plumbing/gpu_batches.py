"""Spares a GPU its waiting: the recipes' augmentations for a whole batch at once, where the images lie.

albumentations, image by image on the CPU (`helpers.augmentation`), is the definition. It takes a core 90 to 390
microseconds an image, and an H200 trains the custom ResNet on one in 12 to 15 (results/BENCH.md). Here the same
transforms draw from the same distributions, in a few operations of torch for all images of a batch. Pixels stay
floats in 0..255 between them, where albumentations rounds.
"""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.plumbing import distributed

Draw = Callable[[], Tensor]  # a number within [0, 1) for each image, (N,)


def pad_if_needed(images: Tensor, draw: Draw, *, min_height: int, min_width: int, border_mode: str) -> Tensor:
    height, width = max(0, min_height - images.shape[2]), max(0, min_width - images.shape[3])
    sides = (width // 2, width - width // 2, height // 2, height - height // 2)
    if border_mode != "BORDER_REFLECT_101":
        raise ValueError(border_mode)
    return F.pad(images, sides, mode="reflect")


def random_crop(images: Tensor, draw: Draw, *, height: int, width: int) -> Tensor:
    count, _, rows, columns = images.shape
    device = images.device
    row = _whole(draw(), 0, rows - height)[:, None, None] + torch.arange(height, device=device)[:, None]
    column = _whole(draw(), 0, columns - width)[:, None, None] + torch.arange(width, device=device)
    image = torch.arange(count, device=device)[:, None, None]
    return images.permute(0, 2, 3, 1)[image, row, column].permute(0, 3, 1, 2)


def horizontal_flip(images: Tensor, draw: Draw) -> Tensor:
    return images.flip(3)


def coarse_dropout(
    images: Tensor, draw: Draw, *, num_holes_range: tuple, hole_height_range: tuple, hole_width_range: tuple, fill=0
) -> Tensor:
    if tuple(num_holes_range) != (1, 1):
        raise ValueError(num_holes_range)
    rows = _span(draw, images.shape[2], *hole_height_range)
    columns = _span(draw, images.shape[3], *hole_width_range)
    fill = _colour(fill, images.device)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], fill, images)


def _span(draw: Draw, size: int, shortest: int, longest: int) -> Tensor:
    """A mask (N, size) of a span drawn for each image, which lies wholly inside."""
    if not all(type(end) is int and 1 <= end <= size for end in (shortest, longest)):
        raise ValueError((shortest, longest))  # a float is a share of the image, in albumentations
    length = _whole(draw(), shortest, longest)
    start = (draw() * (size - length + 1)).long()
    position = torch.arange(size, device=start.device)
    return (position >= start[:, None]) & (position < (start + length)[:, None])


def rotate(images: Tensor, draw: Draw, *, limit: tuple, border_mode: str) -> Tensor:
    if border_mode != "BORDER_REFLECT_101" or images.shape[2] != images.shape[3]:
        raise ValueError(border_mode)
    angle = _uniform(draw(), limit) * math.pi / 180
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack((cosine, -sine, zero, sine, cosine, zero), dim=1).view(-1, 2, 3)
    # align_corners: the ends of the grid are the centres of the border pixels, about which is reflected, too.
    grid = F.affine_grid(matrix, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def hue_saturation_value(
    images: Tensor, draw: Draw, *, hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20
) -> Tensor:
    """In OpenCV's units for bytes: hue 0..180, saturation and value 0..255."""
    value, lowest = images.amax(dim=1), images.amin(dim=1)
    spread = value - lowest
    saturation = torch.where(value > 0, 255 * spread / value.clamp(min=1e-6), 0)
    red, green, blue = images.unbind(dim=1)
    safe = spread.clamp(min=1e-6)
    hue = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    shifts = [_uniform(draw(), limit)[:, None, None] for limit in (hue_shift_limit, sat_shift_limit, val_shift_limit)]
    hue = (hue + shifts[0] / 30) % 6
    saturation = torch.where(saturation > 0, (saturation + shifts[1]).clamp(0, 255), 0) / 255  # grey stays grey
    value = (value + shifts[2]).clamp(0, 255)
    corners = torch.stack([(offset + hue) % 6 for offset in (5, 3, 1)], dim=1)  # red, green, blue
    ramp = torch.minimum(corners, 4 - corners).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * ramp)


@functools.cache  # a copy from the host waits for all that the GPU still has to do, and every step would make one
def _colour(fill: float | tuple, device: torch.device) -> Tensor:
    return torch.tensor(fill, dtype=torch.float32, device=device).expand(3).view(3, 1, 1)


def _whole(drawn: Tensor, least: int, most: int) -> Tensor:
    return least + (drawn * (most - least + 1)).long()


def _uniform(drawn: Tensor, limit: float | tuple) -> Tensor:
    low, high = limit if isinstance(limit, tuple | list) else (-limit, limit)
    return low + drawn * (high - low)


# albumentations' name: (transform, its default probability there)
TRANSFORMS = {
    "PadIfNeeded": (pad_if_needed, 1.0),
    "RandomCrop": (random_crop, 1.0),
    "HorizontalFlip": (horizontal_flip, 0.5),
    "CoarseDropout": (coarse_dropout, 0.5),
    "Rotate": (rotate, 0.5),
    "HueSaturationValue": (hue_saturation_value, 0.5),
}


def augment_batch(
    images: Tensor, augmentation: tuple, mean: np.ndarray, generator: torch.Generator, share_of: int = 0
) -> Tensor:
    """Images (N, 3, H, W) float in 0..255, each transformed by draws of its own from `generator`.

    Images that are this process's share of a batch of `share_of` are transformed as they would be among it.
    Raises KeyError, TypeError or ValueError for what only albumentations can do.
    """

    def draw() -> Tensor:
        drawn = torch.rand(share_of or len(images), generator=generator, device=images.device)
        return drawn[distributed.share(share_of)] if share_of else drawn

    words = {"mean": tuple(np.round(mean * 255).tolist())}
    for name, arguments in augmentation:
        transform, p = TRANSFORMS[name]
        given = {key: words.get(value, value) if isinstance(value, str) else value for key, value in arguments.items()}
        p = given.pop("p", p)
        changed = transform(images, draw, **given)
        images = changed if p >= 1 else torch.where((draw() < p)[:, None, None, None], changed, images)
    return images


def can_augment(augmentation: tuple) -> bool:
    """Tell whether `augment_batch` knows every transform with its arguments."""
    try:
        augment_batch(torch.zeros(1, 3, 32, 32), augmentation, np.zeros(3), torch.Generator())
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    return True


class ResidentBatches:
    """Normalised batches of a data set that lies on the device as bytes, augmented there; iterated like a DataLoader.

    Batches are images float32 (B, 3, H, W), channels last, and labels int64 (B,). `order` yields the indices and the
    seed of each batch, from which its draws follow; `normalisation` is what pixels are multiplied by, and what is then
    subtracted. Each of several processes gets its share of a batch.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order,
        normalisation: tuple[Tensor, Tensor],
        augmentation: tuple,
        mean: np.ndarray,
        device: torch.device,
    ):
        self.images, self.labels = (torch.from_numpy(values).to(device) for values in (images, labels))
        self.scale, self.shift = (values.to(device) for values in normalisation)
        self.sampler, self.augmentation, self.mean = order, augmentation, mean

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = list(self.sampler)
        order = torch.from_numpy(np.concatenate([indices for indices, _ in batches])).to(self.images.device)
        generator = torch.Generator(self.images.device)
        for batch, (_, seed) in zip(order.split(self.sampler.batch_size), batches, strict=True):
            chosen = batch[distributed.share(len(batch))]
            images = self.images[chosen].permute(0, 3, 1, 2).float()
            if self.augmentation and len(images):
                generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1)
                images = augment_batch(images, self.augmentation, self.mean, generator, share_of=len(batch))
            images = images.mul(self.scale).sub_(self.shift).contiguous(memory_format=torch.channels_last)
            yield images, self.labels[chosen]
