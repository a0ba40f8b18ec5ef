import os
import shutil
import subprocess
import sys
from pathlib import Path

if not os.environ.get("COURSE_TEST_GPU"):  # much is compared bit for bit, which GPUs do not promise; before torch looks
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pytest
from PIL import Image

from helpers.settings import REPOSITORY

for setting in {name for name in os.environ if name.startswith("COURSE_")} - {"COURSE_TEST_GPU"}:
    del os.environ[setting]  # a Codespace has some


def helpers(*words, cwd=REPOSITORY, **environment) -> subprocess.CompletedProcess:
    """`python -m helpers ...` in a process of its own, of the package in `cwd`."""
    command = [sys.executable, "-m", "helpers", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": "", **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write_folder(folder: Path, splits: dict[str, dict[str, list[np.ndarray]]], prefix: str = "image") -> Path:
    for part, classes in splits.items():
        for name, images in classes.items():
            (folder / part / name).mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image).save(folder / part / name / f"{prefix}-{i}.png")
    return folder


def random_folder(folder: Path, train: int, test: int) -> Path:
    """A folder of cats and dogs, so many of each in train/ and in test/, all of random pixels."""
    images = iter(random_images(2 * (train + test)))
    splits = {
        part: {name: [next(images) for _ in range(count)] for name in ("cat", "dog")}
        for part, count in (("train", train), ("test", test))
    }
    return write_folder(folder, splits)


@pytest.fixture
def pictures() -> dict[str, dict[str, list[np.ndarray]]]:
    """Two classes, five training and two test images each; the test images are other ones."""
    images = random_images(14)
    return {
        "train": {"cat": list(images[:5]), "dog": list(images[5:10])},
        "test": {"cat": list(images[10:12]), "dog": list(images[12:])},
    }


@pytest.fixture
def image_folder(tmp_path, pictures) -> Path:
    return write_folder(tmp_path / "pets", pictures)


@pytest.fixture
def closed_figures():
    """Closes the figures that a test leaves open."""
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture
def course(tmp_path) -> Path:
    """A copy of the course as a user of the template has it, to be changed."""
    made = ".git", ".venv", "__pycache__", ".*_cache", ".ipynb_*"
    unwanted = shutil.ignore_patterns("data", "runs", "build", "student", *made)
    return Path(shutil.copytree(REPOSITORY, tmp_path / "course", ignore=unwanted))
