"""Measures how fast the course is on the machine at hand, beside a plain loop as tutorials write it.

What is compared takes turns, so that a machine that slows down slows both. Medians over rounds, half their range.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from helpers.data import SIZE, Data, Split, channel_statistics
from helpers.loaders import make_loader, make_loaders
from helpers.models import make_model
from helpers.plumbing.devices import keep_freed_memory, pick_device
from helpers.recipes import RECIPES, Plateau, Recipe
from helpers.schedules import make_optimizer
from helpers.settings import REPOSITORY
from helpers.training import Training


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
    """Single images through torchvision's transforms, from PIL: pad, crop, flip, CutOut."""
    crop = v2.Pad(4, padding_mode="reflect"), v2.RandomCrop(SIZE), v2.RandomHorizontalFlip()
    numbers = v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean.tolist(), data.std.tolist())
    hole = v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1))  # 8x8 of 32x32
    transform = v2.Compose([*crop, *numbers, hole])
    pairs = list(zip(map(Image.fromarray, data.train.images), data.train.labels.tolist(), strict=True))
    collate = lambda batch: default_collate([(transform(image), label) for image, label in batch])  # noqa: E731
    return DataLoader(pairs, batch_size, True, collate_fn=collate)


def plain_epoch(
    loader: DataLoader, model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    """An epoch as tutorials write it: float32, and the loss read after every step."""
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()


def step_flop(recipe: Recipe) -> int:
    """Floating point operations of forward and backward for one image, as torch counts them."""
    model = make_model(recipe, 10)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    return counter.get_total_flops() // 2


def training_epoch(recipe: Recipe, steps: int, rounds: int, products: dict) -> dict:
    """Images a second of a training epoch, loading included: ours, and the plain loop; our allocator helps both."""
    changes = {"validation_images": 0, "select": "last"}  # all images are trained on
    if isinstance(recipe.schedule, Plateau):
        changes["schedule"] = replace(recipe.schedule, monitor="test_acc")
    data, device = noise(steps * recipe.batch_size), pick_device()
    loader = make_loaders(replace(recipe, **changes), data, 0, device)["train"]
    ours, model = Training(recipe, 10, len(loader), device), make_model(recipe, 10).to(device.device).train()
    optimizer, batches = make_optimizer(recipe, model), plain_loader(data, recipe.batch_size)
    plain = partial(plain_epoch, batches, model, optimizer, device.device)
    tasks = {"ours": partial(ours.train_epoch, loader), "plain": plain}
    rates = {name: rate(len(data.train), seconds) for name, seconds in in_turns(tasks, rounds).items()}
    median = rates["ours"]["median"]
    share = median * step_flop(recipe) / products["median"]
    return rates | {"ratio": median / rates["plain"]["median"], "share_of_matrix_products": share}


def measure(quick: bool) -> dict:
    """Measure everything; `quick` with fewer rounds and steps. Returns JSON types."""
    keep_freed_memory()
    device, rounds, images = pick_device(), 2 if quick else 7, 512 if quick else 2048
    recipes, data = [recipe for recipe in RECIPES.values() if not recipe.published], noise(images)
    load = partial(make_loader, data.train, data.mean, data.std, 128, seed=0)
    loaders = {recipe.name: load(augmentation=recipe.augmentation) for recipe in recipes}
    loaders["torchvision"] = plain_loader(data, 128)
    loading = in_turns({name: partial(list, loader) for name, loader in loaders.items()}, rounds)
    words = {"--help": ["-m", "helpers", "--help"], "import": ["-c", "import helpers.figures.plots, helpers.training"]}
    command = partial(subprocess.run, cwd=REPOSITORY, capture_output=True)
    starts = in_turns({name: partial(command, [sys.executable, *line]) for name, line in words.items()}, 2)
    size, steps = (8192, 40) if device.device.type == "cuda" else (4096, 1 if quick else 3)
    a, b, out = (torch.randn(size, size, device=device.device, dtype=device.dtype) for _ in range(3))
    products = rate(2 * size**3, in_turns({"": partial(torch.mm, a, b, out=out)}, 3 * rounds)[""])
    training = {recipe.name: training_epoch(recipe, steps, rounds, products) for recipe in recipes}
    pipeline = {name: rate(images, seconds) for name, seconds in loading.items()}
    start_up = {name: float(np.median(seconds)) for name, seconds in starts.items()}
    measured = {"matrix_products": products, "input_pipeline": pipeline, "training": training, "start_up": start_up}
    return {"provenance": device.provenance} | measured


def table(result: dict) -> str:
    """The figures for people: a line each, ± half the range."""
    lines = [result["provenance"], f"matrix products: {result['matrix_products']['median'] / 1e12:.3f} TFLOP/s"]
    rows = {f"input pipeline, {name}": values for name, values in result["input_pipeline"].items()}
    for name, values in result["training"].items():
        share = f"{100 * values['share_of_matrix_products']:.0f} % of products"
        rows[f"training, {name}, {values['ratio']:.2f} times the plain loop, {share}"] = values["ours"]
        rows[f"training, {name}, plain loop"] = values["plain"]
    lines += [f"{name}: {speed['median']:,.0f} ± {speed['spread']:,.0f} images/s" for name, speed in rows.items()]
    return "\n".join(lines + [f"start-up, {name}: {seconds:.2f} s" for name, seconds in result["start_up"].items()])
