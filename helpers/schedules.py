"""Learning rate schedules: one cycle, and the triangular policy it grew out of."""

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from helpers.errors import CourseError
from helpers.recipes import OneCycle, Recipe


def triangular(iteration: np.ndarray, step_size: int, lr_min: float, lr_max: float) -> np.ndarray:
    """The triangular cyclic learning rate at each iteration (Smith 2015, section 3).

    lr_min at iteration 0, lr_max after `step_size` iterations, lr_min again after two of them, and so on.
    """
    cycle = np.floor(1 + iteration / (2 * step_size))
    x = np.abs(iteration / step_size - 2 * cycle + 1)
    return lr_min + (lr_max - lr_min) * np.maximum(0, 1 - x)


def one_cycle(schedule: OneCycle, optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> LRScheduler:
    """torch's OneCycleLR with the recipe's figures.

    Step k of the run (from 0) has lr_min at k = 0, lr_max at k = peak_epoch * steps_per_epoch - 1, the
    last step of that epoch, and lr_end (lr_min, if not given) at the run's last step.
    """
    total = epochs * steps_per_epoch
    if total < 3:
        raise CourseError(f"One cycle needs three steps, up and down; this run has {total}: train longer.")
    lr_end = schedule.lr_min if schedule.lr_end is None else schedule.lr_end
    cycle_momentum = schedule.momentum_min is not None
    return OneCycleLR(
        optimizer,
        max_lr=schedule.lr_max,
        total_steps=total,
        # torch's peak is at step pct_start * total - 1, which has to lie after step 0
        pct_start=max(schedule.peak_epoch * steps_per_epoch, 2) / total,
        anneal_strategy=schedule.anneal,
        div_factor=schedule.lr_max / schedule.lr_min,
        final_div_factor=schedule.lr_min / lr_end,
        cycle_momentum=cycle_momentum,
        **({"base_momentum": schedule.momentum_min, "max_momentum": schedule.momentum_max} if cycle_momentum else {}),
    )


def make_scheduler(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The recipe's scheduler; `recipe.schedule.step` says whether to step it every batch or every epoch."""
    steps = 1 if recipe.schedule.step == "epoch" else steps_per_epoch
    return one_cycle(recipe.schedule, optimizer, recipe.epochs, steps)


def momentum_of(optimizer: Optimizer) -> float:
    """The momentum now: SGD's, or Adam's first beta."""
    group = optimizer.param_groups[0]
    return group["betas"][0] if "betas" in group else group["momentum"]
