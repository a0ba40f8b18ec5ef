"""How fast the course is on the machine at hand, beside the plain loop of published solutions.

What is compared is measured in turns, so that a machine that slows down slows both; each figure is the
median of several rounds after one that is thrown away, and its spread is half the range of the rounds.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from helpers.augmentation import make_loader, make_loaders
from helpers.data import SIZE, Data, Split, channel_statistics
from helpers.models import make_model
from helpers.plumbing.devices import Device, keep_freed_memory, pick_device
from helpers.recipes import RECIPES, Plateau, Recipe
from helpers.schedules import make_optimizer
from helpers.settings import REPOSITORY
from helpers.training import Training

START = {
    "--help": ["-m", "helpers", "--help"],
    "refused recipe": ["-m", "helpers", "train", "custom_resnt"],
    "import": ["-c", "import helpers.plots, helpers.training"],
}


def noise(count: int) -> Data:
    """Images of random pixels: what is timed here does not depend on what they show."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    split = Split(images, np.arange(count) % 10)
    return Data("noise", tuple(str(k) for k in range(10)), split, split[:1], *channel_statistics(images), "")


def in_turns(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round, the tasks taking turns; one more round before is not counted."""
    seconds = {name: [] for name in tasks}
    for round_ in range(rounds + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # the device may still be at it
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def rate(amount: float, seconds: list[float]) -> dict:
    """`amount` a second: the median over the rounds, and half of their range."""
    rates = amount / np.array(seconds)
    return {"median": float(np.median(rates)), "spread": float(np.ptp(rates) / 2), "rounds": len(rates)}


def plain_loader(data: Data, batch_size: int) -> DataLoader:
    """Single images through torchvision's transforms, from PIL, as course solutions do it."""
    shapes = [v2.Pad(4, padding_mode="reflect"), v2.RandomCrop(SIZE), v2.RandomHorizontalFlip(), v2.ToImage()]
    normalise = v2.Normalize(data.mean.tolist(), data.std.tolist())
    hole = v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1))  # 8x8 of 32x32
    transform = v2.Compose([v2.ToPILImage(), *shapes, v2.ToDtype(torch.float32, scale=True), normalise, hole])
    pairs = list(zip(data.train.images, data.train.labels.tolist(), strict=True))
    return DataLoader(pairs, batch_size, True, collate_fn=lambda batch: (
        torch.stack([transform(image) for image, _ in batch]), torch.tensor([label for _, label in batch])
    ))  # fmt: skip


def plain_epoch(recipe: Recipe, images: int, state: dict = {}) -> None:  # noqa: B006 (kept from call to call)
    """An epoch as the published solutions write it: float32, one process, and the loss read after every step."""
    if recipe.name not in state:
        device, data = pick_device().device, noise(images)
        model = make_model(recipe, 10).to(device).train()
        state[recipe.name] = plain_loader(data, recipe.batch_size), model, make_optimizer(recipe, model), device
    loader, model, optimizer, device = state[recipe.name]
    total = 0.0
    for inputs, labels in loader:
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()


def step_flop(recipe: Recipe) -> int:
    """Floating point operations of forward and backward for one image, as torch counts them."""
    model = make_model(recipe, 10)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    return counter.get_total_flops() // 2


def matrix_products(device: Device, rounds: int) -> dict:
    """Floating point operations a second of square matrix products in the device's precision."""
    size = 8192 if device.device.type == "cuda" else 4096
    a, b, out = (torch.randn(size, size, device=device.device, dtype=device.dtype) for _ in range(3))
    return rate(2 * size**3, in_turns({"product": lambda: torch.mm(a, b, out=out)}, 3 * rounds)["product"])


def input_pipeline(recipes: list[Recipe], images: int, rounds: int) -> dict:
    """Images a second of one process each: every recipe's with albumentations, and torchvision's from PIL."""
    data, batch = noise(images), 128
    loaders = {r.name: make_loader(data.train, data.mean, data.std, batch, augmentation=r.augmentation, seed=0)
               for r in recipes}  # fmt: skip
    loaders["torchvision"] = plain_loader(data, batch)
    seconds = in_turns({name: lambda loader=loader: list(loader) for name, loader in loaders.items()}, rounds)
    return {name: rate(images, values) for name, values in seconds.items()}


def training_epoch(recipe: Recipe, steps: int, rounds: int, products: dict) -> dict:
    """Images a second of a training epoch, loading included: ours, and the plain loop on the same model and batch."""
    whole = replace(recipe, validation_images=0, select="last", schedule=replace(recipe.schedule, monitor="test_acc")
                    if isinstance(recipe.schedule, Plateau) else recipe.schedule)  # fmt: skip
    images, device = steps * recipe.batch_size, pick_device()
    loader = make_loaders(whole, noise(images), 0, device)["train"]
    ours = Training(whole, 10, len(loader), device)
    # A process of its own, as a student's: our settings of the allocator would help it too.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        plain = lambda: pool.submit(plain_epoch, recipe, images).result()  # noqa: E731
        seconds = in_turns({"ours": lambda: ours.train_epoch(loader), "plain": plain}, rounds)
    rates = {name: rate(images, values) for name, values in seconds.items()}
    share = rates["ours"]["median"] * step_flop(recipe) / products["median"]
    ratio = rates["ours"]["median"] / rates["plain"]["median"]
    return rates | {"ratio": ratio, "share_of_matrix_products": share}


def measure(quick: bool) -> dict:
    """Measure everything; `quick` with fewer rounds and steps. Returns JSON types."""
    keep_freed_memory()
    device, rounds = pick_device(), 2 if quick else 7
    recipes = [recipe for recipe in RECIPES.values() if not recipe.published]
    result = {"provenance": device.provenance, "quick": quick, "matrix_products": matrix_products(device, rounds)}
    result["input_pipeline"] = input_pipeline(recipes, 512 if quick else 2048, rounds)
    steps = 40 if device.device.type == "cuda" else 1 if quick else 3
    for recipe in recipes:
        print(f"Training {recipe.name} ...")
        result[recipe.name] = training_epoch(recipe, steps, rounds, result["matrix_products"])
    run = {name: lambda words=words: subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True)
           for name, words in START.items()}  # fmt: skip
    result["start_up"] = {name: float(np.median(values)) for name, values in in_turns(run, 1 if quick else 3).items()}
    return result
