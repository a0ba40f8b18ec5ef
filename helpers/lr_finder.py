"""The learning rate range test, run by torch-lr-finder, and how to read it.

The idea is Smith's (2015, section 3.3); the exponential sweep over single batches is fastai's (S. Gugger, 2018).

The learning rate grows from point to point, from far too small to far too large. Each point records the mean training
loss of one batch, or of several small ones with a step after each: mostly 256 images or more a point, 12,800 a curve.
LRMIN and LRMAX are read off the smoothed curve by this rule:

- start: the mean loss of the first tenth of the points, where the learning rate moves nothing yet; it stands for them;
- noise: how far the curve scatters by chance. With d the differences of successive losses in the first quarter, a loss
  scatters by s = sqrt(mean(d^2) / 2), and the running mean, in which the newest loss weighs 0.2, by s / 3;
- descent: how far the loss falls from the start to its lowest point before it first climbs back, that is, by a tenth of
  the way, by more than four times the noise and by more than 0.2 % of the start. A descent of less than the last two is
  none;
- LRMIN: the learning rate at which the first tenth of the descent is made. Below it the sweep hardly moves the loss;
- LRMAX: the middle, on the logarithmic axis, of the floor, that is, from the first to the last point before the climb
  at which nine tenths of the descent are made. On a wide floor chance alone decides which point is the lowest;
- both rounded to one digit: the curve cannot tell more.

The curve after the first climb is ignored: the loss often falls a second time there, in a network
that was already thrown off. The library's suggestion, the steepest slope, can lie in that second fall.
"""

import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from helpers import settings
from helpers.data import Data
from helpers.evaluation import LOSSES
from helpers.loaders import make_loaders
from helpers.models import make_model
from helpers.plumbing.devices import Device, explain_failures, keep_freed_memory, pick_device
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_text
from helpers.plumbing.progress import progress_bar
from helpers.plumbing.resume import random_states, restore_random_states, seed_everything
from helpers.plumbing.run_files import change_notes, checked_seed, configuration, folder_name, refuse_other
from helpers.plumbing.run_folder import locked
from helpers.recipes import Recipe
from helpers.runs import NOT_SWEPT, STEPS, RangeTest, load_lr, swept_values
from helpers.schedules import make_optimizer

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*tqdm.autonotebook")  # its bar is replaced below
    import torch_lr_finder.lr_finder as library

START_LR = {"SGD": 1e-4, **dict.fromkeys(("Adam", "AdamW", "RMSprop"), 1e-6)}  # the range that is swept
END_LR = {"SGD": 10.0, **dict.fromkeys(("Adam", "AdamW", "RMSprop"), 1.0)}
FAST_STEPS = 40
SMOOTHING = 0.2  # weight of the newest loss in the running mean
POINT_IMAGES = 256  # behind a point of the curve, but for smaller last batches
SWEEP_IMAGES = 12_800  # behind all of it
SHARE = 0.1  # of the descent, at either end of it
NOISES, SMALLEST_DESCENT = 4, 0.002  # a smaller climb or fall is none: times the noise, and of the starting loss


class AveragingFinder(library.LRFinder):
    """The library's finder; each point is the mean loss of `batches` training steps at one learning rate."""

    batches = 1

    def _train_batch(self, *arguments, **options) -> float:
        step = super()._train_batch
        return sum(step(*arguments, **options) for _ in range(self.batches)) / self.batches


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Iterable,
    device: Device,
    recipe: Recipe,
    steps: int = STEPS,
) -> tuple[np.ndarray, np.ndarray, float | None, str]:
    """Sweep the learning rate over `steps` points, in the device's precision.

    Returns learning rates (S,), smoothed losses (S,) up to the first that is not finite, the library's suggestion (None
    under 17 points), and why the sweep ended. Model, optimizer and all random states are afterwards as they were.
    """
    states, training = random_states(), model.training
    finder = AveragingFinder(
        model,
        optimizer,
        lambda logits, labels: LOSSES[recipe.loss](logits.float(), labels, label_smoothing=recipe.label_smoothing),
        device.device,
        amp_backend="torch",
        amp_config={"device_type": device.device.type, "dtype": device.dtype, "enabled": device.dtype != torch.float32},
        grad_scaler=device.scaler(),
    )
    finder.batches = math.ceil(max(POINT_IMAGES, SWEEP_IMAGES / steps) / recipe.batch_size)
    library.tqdm = progress_bar  # the library's own bar is a widget, which a saved notebook cannot show
    library.print = lambda *_: None  # it prints what to type next
    sweep = {"start_lr": START_LR[recipe.optimizer], "end_lr": END_LR[recipe.optimizer], "num_iter": steps}
    try:
        batches = library.TrainDataLoaderIter(loader)  # any iterable will do, where the library wants a DataLoader
        finder.range_test(batches, **sweep, smooth_f=SMOOTHING)
        history = finder.history
        finite = np.isfinite(history["loss"])
        ended = "the range was swept" if len(finite) == steps else "the loss diverged"
        if not finite.all():  # the library goes on with NaN, and would suggest it
            first = int(np.argmin(finite))
            ended = f"the loss was not finite at LR {history['lr'][first]:.2g}"
            finder.history = history = {key: values[:first] for key, values in history.items()}
        suggestion = finder.plot(ax=Figure().subplots())[1] if len(history["lr"]) >= 17 else None
    finally:
        finder.reset()
        optimizer.zero_grad()
        model.train(training)
        restore_random_states(states)
    return np.array(history["lr"]), np.array(history["loss"]), suggestion, ended


def unsmoothed(losses: np.ndarray) -> np.ndarray:
    """Undo the library's running mean: smoothed losses (S,) to raw losses (S,)."""
    return np.append(losses[:1], (losses[1:] - (1 - SMOOTHING) * losses[:-1]) / SMOOTHING)


def read_curve(lrs: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """LRMIN and LRMAX by the rule above, from learning rates (S,) and smoothed losses (S,).

    Raises CourseError if the loss never fell, or fell over too short a range to read two bounds.
    """
    if not len(losses):
        raise CourseError("The loss was not finite at the first point: look at the data, the network and the recipe.")
    raw, early = unsmoothed(losses), -(-len(losses) // 10)
    start = raw[:early].mean()
    losses = np.append(np.full(early, start), losses[early:])  # there the running mean has little to average
    scatter = np.sqrt(np.mean(np.diff(raw[: max(2, len(raw) // 4)]) ** 2) / 2) if len(raw) > 1 else 0.0
    least = max(NOISES * scatter * np.sqrt(SMOOTHING / (2 - SMOOTHING)), SMALLEST_DESCENT * start)
    lowest = np.minimum.accumulate(losses)  # so far
    climbed = losses - lowest > np.maximum(SHARE * (start - lowest), least)
    valley = losses[: np.argmax(climbed)] if climbed.any() else losses
    bottom = int(valley.argmin())
    descent = start - losses[bottom]
    if descent <= least:
        raise CourseError(
            "The loss fell no further in the range test than chance alone explains, so the test says nothing about the "
            "learning rate: sweep in more steps (lr-find --steps), or look at the data, the network and the recipe."
        )
    above = np.flatnonzero(losses[:bottom] > start - SHARE * descent)
    floor = np.flatnonzero(valley <= losses[bottom] + SHARE * descent)
    found = lrs[above[-1] + 1 if len(above) else 0], np.sqrt(lrs[floor[0]] * lrs[floor[-1]])
    lr_min, lr_max = (float(f"{lr:.0e}") for lr in found)
    if lr_min >= lr_max:
        short = f"The loss fell only between LR {found[0]:.2g} and {found[1]:.2g}, too short a range to read"
        raise CourseError(f"{short}: sweep in more steps (lr-find --steps).")
    return lr_min, lr_max


@explain_failures
def find_lr(recipe: Recipe, data: Data, folder: Path, *, seed: int = 0, steps: int = STEPS) -> RangeTest:
    """The range test of a recipe, on training data only, recorded in a folder of its own under `folder`.

    Loads it if it is recorded there. Raises CourseError, also if another one is recorded there.
    """
    if type(steps) is not int or not 20 <= steps <= 10_000:
        raise CourseError(f"steps has to be a whole number from 20 to 10,000, not {steps!r}.")
    seed, data = checked_seed(seed), data.normalised_by(recipe)
    folder = lr_find_folder(folder, recipe, data, seed)
    config = configuration(recipe, data.describe(), seed)
    swept = {"recipe": swept_values(config["recipe"]), "data": config["data"], "seed": seed, "steps": steps}
    path = folder / "lr_find.json"
    if path.exists():
        recorded = load_lr(path)
        values = swept_values(recorded.settings["recipe"])
        refuse_other(recorded.settings | {"recipe": values}, swept, folder)
        return recorded
    device = pick_device()
    keep_freed_memory()
    loader = make_loaders(recipe, data, seed, device)["train"]
    settings.check_recorded(path)
    with locked(folder):
        seed_everything(seed)
        model = device.place(make_model(recipe, len(data.classes)))
        optimizer = make_optimizer(recipe, model)
        lrs, losses, suggestion, ended = range_test(model, optimizer, loader, device, recipe, steps)
        lr_min, lr_max = read_curve(lrs, losses)
        notes = [*data.notes, *change_notes(recipe, besides=NOT_SWEPT)]
        notes += [f"{steps} steps instead of {STEPS}"] if steps != STEPS else []
        title = f"LR range test · {recipe.name} · {data.name} · seed {seed}"
        curve = {"lrs": lrs.tolist(), "losses": losses.tolist(), "raw": unsmoothed(losses).tolist()}
        found = {"lr_min": lr_min, "lr_max": lr_max, "steepest": suggestion, "ended": ended}
        result = RangeTest(title, notes, settings=swept, provenance=device.provenance, **curve, **found)
        write_text(path, json.dumps(asdict(result), indent=1) + "\n")
    return result


def lr_find_folder(folder: Path, recipe: Recipe, data: Data, seed: int) -> Path:
    return Path(folder) / f"{folder_name(recipe, data, seed)}-lr-find"
