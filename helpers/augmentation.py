"""Augmented, normalised batches: albumentations transforms with randomness that can be repeated.

albumentations 2 draws from random states of its own, which every DataLoader worker inherits as a copy:
all workers then draw the same "random" crops, in every epoch again. Here each batch carries a seed
made from (run seed, epoch, batch), and its transforms are drawn from that. So batches differ from each
other, and a rerun or a resumed run draws the same whatever the number of workers.
"""

import os
import random

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the package index at import

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.core.transforms_interface import BaseTransformInitSchema
from pydantic import Field

from helpers.data import Data
from helpers.plumbing.errors import CourseError

cv2.setNumThreads(0)  # OpenCV's threads would fight the workers and torch for the cores


class CutOut(A.ImageOnlyTransform):
    """`holes` squares of size x size pixels, filled; their centres lie anywhere in the image, and what sticks out of it
    is lost (DeVries & Taylor 2017, arXiv:1708.04552). The holes of albumentations' CoarseDropout lie wholly inside."""

    class InitSchema(BaseTransformInitSchema):
        size: int = Field(gt=0)
        holes: int = Field(gt=0)
        fill: float | tuple[float, ...]

    def __init__(self, size: int, holes: int = 1, fill: float | tuple[float, ...] = 0, p: float = 0.5):
        super().__init__(p=p)
        self.size, self.holes, self.fill = size, holes, fill

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        return {"centres": self.random_generator.integers(params["shape"][:2], size=(self.holes, 2))}

    def apply(self, img: np.ndarray, centres: np.ndarray, **params) -> np.ndarray:
        img = img.copy()
        for top, left in centres - self.size // 2:
            img[max(0, top) : top + self.size, max(0, left) : left + self.size] = self.fill
        return img


class ThreePointAffine(A.ImageOnlyTransform):
    """The affine map that moves three points, each a third of the image from its centre in x and y, by `most` at most.

    Borders are reflected. So did ElasticTransform of albumentations 1.3 first, with `alpha_affine` for `most`.
    """

    class InitSchema(BaseTransformInitSchema):
        most: float = Field(gt=0)

    def __init__(self, most: float, p: float = 0.5):
        super().__init__(p=p)
        self.most = most

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        return {"moves": self.random_generator.uniform(-self.most, self.most, (3, 2))}

    def apply(self, img: np.ndarray, moves: np.ndarray, **params) -> np.ndarray:
        height, width = img.shape[:2]
        third = min(height, width) // 3
        corners = np.array([[third, third], [third, -third], [-third, -third]])
        points = np.array([height // 2, width // 2]) + corners
        matrix = cv2.getAffineTransform(points.astype(np.float32), (points + moves).astype(np.float32))
        return cv2.warpAffine(img, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)


OWN_TRANSFORMS = {transform.__name__: transform for transform in (CutOut, ThreePointAffine)}


def compose(augmentation: tuple, mean: np.ndarray) -> A.Compose:
    """The albumentations pipeline of a recipe's (name, arguments) list, for uint8 RGB images.

    Names are those of albumentations, and of the two transforms above, which it lacks.
    In the arguments "mean" stands for the channel means, `mean` * 255 rounded, and a word that begins
    with "BORDER_" for OpenCV's constant. Raises CourseError for an unknown name or argument, or a bad value.
    """
    words = {"mean": tuple(int(value) for value in np.round(mean * 255))}
    words |= {name: getattr(cv2, name) for name in dir(cv2) if name.startswith("BORDER_")}
    transforms = []
    for name, arguments in augmentation:
        transform = OWN_TRANSFORMS.get(name) or getattr(A, name, None)
        if not isinstance(transform, type):
            raise CourseError(f"albumentations has no transform {name!r}: see https://albumentations.ai/docs.")
        given = {key: words.get(value, value) if type(value) is str else value for key, value in arguments.items()}
        try:
            transforms.append(transform(**given, strict=True))
        except (TypeError, ValueError) as error:
            problem = " ".join(str(error).split()).partition(" For further information")[0]
            raise CourseError(f"The transform {name} cannot be built with {dict(arguments)}: {problem}") from error
    return A.Compose(transforms, strict=True)


def augment(images: np.ndarray, pipeline: A.Compose, seed: int | tuple[int, ...]) -> np.ndarray:
    """Images (N, H, W, 3) uint8, each transformed on its own; the same seed draws the same."""
    state = np.random.SeedSequence(seed)
    pipeline.set_random_state(np.random.default_rng(state), random.Random(int(state.generate_state(1)[0])))
    return np.stack([pipeline(image=image)["image"] for image in images])


def normalise(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), zero mean and unit variance a channel, channels last."""
    scale, shift = scale_and_shift(mean, std)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().mul_(scale).sub_(shift)


def scale_and_shift(mean: np.ndarray, std: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The factor (3, 1, 1) for pixels in 0..255, and the values (3, 1, 1) that are then subtracted."""
    return tuple(torch.from_numpy(values).float().view(3, 1, 1) for values in (1 / (255 * std), mean / std))


def denormalise(images: torch.Tensor, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The uint8 (N, H, W, 3) images that `normalise` was given."""
    scale, shift = (torch.from_numpy(values).float().view(3, 1, 1) for values in (std, mean))
    pixels = (images.cpu().float() * scale + shift) * 255
    return pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def check_augmentation(augmentation: tuple, data: Data) -> None:
    """Raises CourseError unless the pipeline makes of a training image another one of the same size and type."""
    image = data.train.images[0]
    always = tuple((name, {**arguments, "p": 1.0}) for name, arguments in augmentation)
    try:
        made = compose(always, data.mean)(image=image)["image"]
        problem = "" if isinstance(made, np.ndarray) else f"a {type(made).__name__}"
        if not problem and (made.shape, made.dtype) != (image.shape, image.dtype):
            problem = f"{made.dtype} of shape {made.shape}"
    except CourseError:
        raise
    except Exception as error:  # a transform may raise anything
        problem = f"an error ({' '.join(str(error).split())[:200]})"
    if problem:
        raise CourseError(
            f"The augmentation makes of an image, {image.dtype} of shape {image.shape}, {problem}: it has to give "
            "images of the same size and type, and to leave the normalisation to the course."
        )
