"""How fast the course is on the machine at hand, beside the plain loops of published solutions.

What is compared is measured in turns, so that a machine that slows down slows both; each figure is the
median of several rounds after one that is thrown away, and its spread is half the range of the rounds.
"""

import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from helpers.data import SIZE, Data, Split, channel_statistics, load_data
from helpers.loaders import make_loader, make_loaders
from helpers.models import make_model
from helpers.plumbing.devices import Device, keep_freed_memory, pick_device
from helpers.recipes import RECIPES, Plateau, Recipe
from helpers.schedules import make_optimizer
from helpers.settings import REPOSITORY
from helpers.training import Training

OWN = ("custom_resnet", "resnet18_batchnorm", "resnet18_layernorm")


def noise(count: int) -> Data:
    """Images of random pixels: what is timed here does not depend on what they show."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    split = Split(images, np.arange(count) % 10)
    return Data("noise", tuple(str(k) for k in range(10)), split, split[:1], *channel_statistics(images), "")


def in_turns(tasks: dict[str, Callable[[], object]], rounds: int, device: Device) -> dict[str, list[float]]:
    """Seconds of each task in each round, the tasks taking turns; one more round before is not counted."""
    seconds = {name: [] for name in tasks}
    for round_ in range(rounds + 1):
        for name, task in tasks.items():
            measured = _seconds(task, device)
            if round_:
                seconds[name].append(measured)
    return seconds


def _seconds(task: Callable[[], object], device: Device) -> float:
    if device.device.type != "cuda":
        started = time.perf_counter()
        task()
        return time.perf_counter() - started
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    task()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def rate(amount: float, seconds: list[float]) -> dict:
    """`amount` a second: the median over the rounds, and half of their range."""
    rates = amount / np.array(seconds)
    return {"median": float(np.median(rates)), "spread": float(np.ptp(rates) / 2), "rounds": len(rates)}


def ratio(ours: dict, theirs: dict) -> float:
    return ours["median"] / theirs["median"]


class PlainImages(Dataset):
    """Single images through torchvision's transforms, from PIL, as course solutions do it."""

    def __init__(self, split: Split, mean: np.ndarray, std: np.ndarray):
        self.images = [Image.fromarray(image) for image in split.images]
        self.labels = split.labels.tolist()
        self.transform = v2.Compose(
            [
                v2.Pad(4, padding_mode="reflect"),
                v2.RandomCrop(SIZE),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean.tolist(), std.tolist()),
                v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1)),  # 8x8 of 32x32
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain_epoch(loader: DataLoader, model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: Device) -> None:
    """An epoch as the published solutions write it: float32, and the loss read after every step."""
    model.train()
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(device.device), labels.to(device.device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()


def matrix_products(device: Device, rounds: int) -> dict:
    """Floating point operations a second of square matrix products in the device's precision."""
    size = 8192 if device.device.type == "cuda" else 4096
    a, b, out = (torch.randn(size, size, device=device.device, dtype=device.dtype) for _ in range(3))
    return rate(2 * size**3, in_turns({"product": lambda: torch.mm(a, b, out=out)}, 3 * rounds, device)["product"])


def step_flop(recipe: Recipe) -> int:
    """Floating point operations of forward and backward for one image, as torch counts them."""
    model = make_model(recipe, 10)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    return counter.get_total_flops() // 2


def input_pipeline(rounds: int, images: int, device: Device) -> dict:
    """Images a second of one process each: ours with albumentations, and torchvision's from PIL."""
    data, batch = noise(images), 128
    statistics = {"mean": data.mean, "std": data.std}
    recipes = [RECIPES[name] for name in OWN]
    ours = {
        r.name: make_loader(data.train, batch_size=batch, augmentation=r.augmentation, seed=0, **statistics)
        for r in recipes
    }
    loaders = ours | {"torchvision": DataLoader(PlainImages(data.train, **statistics), batch, shuffle=True)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tasks = {name: lambda loader=loader: [None for _ in loader] for name, loader in loaders.items()}
    rates = {name: rate(images, seconds) for name, seconds in in_turns(tasks, rounds, device).items()}
    torch.set_num_threads(threads)
    return rates | {"ratio": ratio(rates["custom_resnet"], rates["torchvision"])}


_plain = {}  # in the plain loop's process: the arguments of plain_epoch


def _prepare_plain(recipe: Recipe, images: int) -> None:
    device, data = pick_device(), noise(images)
    model = make_model(recipe, 10).to(device.device)
    dataset = PlainImages(data.train, data.mean, data.std)
    # Two workers, started anew for each epoch, are the custom. On a CPU they would take the cores from the training,
    # and in an epoch of a few steps their start would make the plain loop look slower than it is.
    workers = 2 if device.device.type == "cuda" else 0
    loader = DataLoader(dataset, recipe.batch_size, True, num_workers=workers)
    _plain.update(loader=loader, model=model, optimizer=make_optimizer(recipe, model), device=device)


def _plain_epoch() -> None:
    plain_epoch(**_plain)


def training_epoch(recipe: Recipe, rounds: int, steps: int, device: Device, products: dict) -> dict:
    """Images a second of a training epoch, loading included: ours, and the plain loop on the same model and batch."""
    images = steps * recipe.batch_size
    loader, ours = _ours(recipe, noise(images), device)
    # A process of its own, as a student's: our settings of the allocator would help it too.
    with ProcessPoolExecutor(1, get_context("spawn"), _prepare_plain, (recipe, images)) as plain:
        tasks = {"ours": lambda: ours.train_epoch(loader), "plain": lambda: plain.submit(_plain_epoch).result()}
        rates = {name: rate(images, seconds) for name, seconds in in_turns(tasks, rounds, device).items()}
    share = rates["ours"]["median"] * step_flop(recipe) / products["median"]
    return rates | {"ratio": ratio(rates["ours"], rates["plain"]), "share_of_matrix_products": share}


def _ours(recipe: Recipe, data: Data, device: Device) -> tuple[Iterable, Training]:
    """The recipe's own loader and training, over all images of `data`: none are held out here."""
    held_out = {"validation_images": 0, "select": "last"}
    if isinstance(recipe.schedule, Plateau):
        held_out["schedule"] = replace(recipe.schedule, monitor="test_acc")
    recipe = replace(recipe, **held_out)
    loader = make_loaders(recipe, data, 0, device)["train"]
    return loader, Training(recipe, 10, len(loader), device)


def _in_a_fresh_process(function: Callable, *arguments) -> dict:
    """So that nothing is loaded before, and no memory is left from others."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(name: str) -> dict:
    """Bytes at most, of the process and on the device, after two training steps: for a process of its own."""
    keep_freed_memory()
    device, recipe = pick_device(), RECIPES[name]
    loader, training = _ours(recipe, noise(2 * recipe.batch_size), device)
    training.train_epoch(loader)
    host, status = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Path("/proc/self/status")
    if status.exists():  # Linux; its ru_maxrss would begin with the memory of the process that started this one
        host = 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return {"host": host, "device": torch.cuda.max_memory_allocated() if device.device.type == "cuda" else 0}


def first_step() -> dict:
    """Seconds until data lie ready, drawn before, and until a first step is done: for a process of its own."""
    started = time.perf_counter()
    load_data("synthetic")
    ready = time.perf_counter()
    recipe = RECIPES["custom_resnet"]
    loader, training = _ours(recipe, noise(recipe.batch_size), pick_device())
    training.train_epoch(loader)
    return {"data ready": ready - started, "first step": time.perf_counter() - ready}


def start_up(rounds: int) -> dict:
    """Seconds of the command line's answers, and of what comes before the first step is done."""
    commands = {
        "--help": ["-m", "helpers", "--help"],
        "refused recipe": ["-m", "helpers", "train", "custom_resnt"],
        "refused run": ["-m", "helpers", "gallery", "nowhere"],
        "import": ["-c", "import helpers.plots, helpers.training"],
    }
    tasks = {name: lambda words=words: _python(*words) for name, words in commands.items()}
    clock = Device(torch.device("cpu"), torch.float32, "")  # processes are timed by the clock, not by device events
    measured = {name: float(np.median(seconds)) for name, seconds in in_turns(tasks, rounds, clock).items()}
    load_data("synthetic")  # drawn and cached, if it was not yet
    return measured | _in_a_fresh_process(first_step)


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True)


def measure(quick: bool) -> dict:
    """Measure everything; `quick` with fewer rounds and steps. Returns JSON types."""
    device, rounds = pick_device(), 3 if quick else 7
    keep_freed_memory()
    on_cuda = device.device.type == "cuda"
    steps = (
        {"custom_resnet": 20, "resnet18_batchnorm": 80, "resnet18_layernorm": 80}
        if on_cuda
        else dict.fromkeys(OWN, 1 if quick else 3)
    )
    result = {"provenance": device.provenance, "quick": quick}
    print("Matrix products ...")
    result["matrix_products"] = matrix_products(device, rounds)
    print("Input pipeline ...")
    result["input_pipeline"] = input_pipeline(rounds, 512 if quick else 2048, device)
    for name in OWN:
        print(f"Training {name} ...")
        result[name] = training_epoch(
            RECIPES[name], 2 if quick else rounds, steps[name], device, result["matrix_products"]
        )
    print("Start-up and memory ...")
    result["start_up"] = start_up(1 if quick else 3)
    return result | {"peak_memory": {name: _in_a_fresh_process(peak_memory, name) for name in OWN}}


def table(result: dict) -> str:
    """The figures for people."""

    def speed(values: dict) -> str:
        return f"{values['median']:,.0f} ± {values['spread']:,.0f}"

    lines = [result["provenance"], ""]
    products = result["matrix_products"]
    lines.append(f"matrix products: {products['median'] / 1e12:.3f} ± {products['spread'] / 1e12:.3f} TFLOP/s")
    lines += ["", "input pipeline, one process, images/s (± half the range)"]
    pipeline = result["input_pipeline"]
    lines += [f"  {name:<22}{speed(values):>16}" for name, values in pipeline.items() if name != "ratio"]
    lines.append(f"  ours for custom_resnet over torchvision: {pipeline['ratio']:.2f}")
    heads = f"{'ours':>18}{'plain loop':>18}{'ratio':>8}{'of products':>13}{'host GB':>9}{'GPU GB':>8}"
    lines += ["", f"training, images/s    {heads}"]
    for name in OWN:
        values, memory = result[name], result["peak_memory"][name]
        speeds = f"{speed(values['ours']):>18}{speed(values['plain']):>18}{values['ratio']:>8.2f}"
        gigabytes = f"{memory['host'] / 1e9:>9.2f}{memory['device'] / 1e9:>8.2f}"
        lines.append(f"  {name:<20}{speeds}{100 * values['share_of_matrix_products']:>11.0f} %{gigabytes}")
    lines += ["", "start-up, seconds"]
    lines += [f"  {name:<22}{seconds:>8.2f}" for name, seconds in result["start_up"].items()]
    return "\n".join(lines)
