"""The optimizer, and its learning rate: one cycle, the triangular policy it grew out of, reduction on a plateau."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from helpers.plumbing.errors import CourseError
from helpers.recipes import OneCycle, Plateau, Recipe

# In float16 a step whose gradients overflow is left out, perhaps the very first, and its schedule goes on all the same.
warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")


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


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The recipe's optimizer over the model's parameters, at the schedule's first learning rate, before a warm-up.

    It clips gradients before each of its steps, so that a range test does so too. With a gradient scaler they are then
    in their own units again.
    """
    options = {"lr": recipe.schedule.lr_start, "weight_decay": recipe.weight_decay}
    if recipe.optimizer in ("SGD", "RMSprop"):
        options["momentum"] = recipe.momentum
    if recipe.optimizer == "SGD":
        options["nesterov"] = recipe.nesterov
    groups = [{"params": list(model.parameters())}]
    if not recipe.decay_vectors:
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
    optimizer = getattr(torch.optim, recipe.optimizer)(groups, **options)

    def clip(*_) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)

    if recipe.clip_norm:
        optimizer.register_step_pre_hook(clip)
    return optimizer


class OneCycleSchedule:
    """One cycle, stepped after every batch or epoch, as the recipe says."""

    def __init__(self, recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int):
        self.step = recipe.schedule.step
        steps = 1 if self.step == "epoch" else steps_per_epoch
        self.scheduler = one_cycle(recipe.schedule, optimizer, recipe.epochs, steps)

    def after_batch(self) -> None:
        if self.step == "batch":
            self._advance()

    def after_epoch(self, row: dict) -> None:
        if self.step == "epoch":
            self._advance()

    def _advance(self) -> None:
        if self.scheduler.last_epoch + 1 < self.scheduler.total_steps:  # the last step has no successor
            self.scheduler.step()

    def state_dict(self) -> dict:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.scheduler.load_state_dict(state)


class PlateauSchedule:
    """A linear warm-up, batch by batch, then torch's ReduceLROnPlateau, epoch by epoch."""

    def __init__(self, plateau: Plateau, optimizer: Optimizer, steps_per_epoch: int):
        self.plateau, self.optimizer = plateau, optimizer
        self.warmup_steps = round(self.plateau.warmup_epochs * steps_per_epoch)
        self.warmup = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, self.warmup_steps)))
        self.reducer = ReduceLROnPlateau(
            optimizer, plateau.mode, plateau.factor, plateau.patience, threshold=plateau.threshold
        )

    def after_batch(self) -> None:
        if self.warmup.last_epoch + 1 < self.warmup_steps:
            self.warmup.step()

    def after_epoch(self, row: dict) -> str | None:
        """Step the scheduler with the row's monitored value; return a line for the log if the learning rate fell."""
        if row["epoch"] < self.plateau.warmup_epochs:
            return None
        before = self.optimizer.param_groups[0]["lr"]
        self.reducer.step(row[self.plateau.monitor])
        after = self.optimizer.param_groups[0]["lr"]
        return f"Epoch {row['epoch']}: reducing learning rate of group 0 to {after:.4e}" if after < before else None

    def state_dict(self) -> dict:
        return {"warmup": self.warmup.state_dict(), "reducer": self.reducer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.warmup.load_state_dict(state["warmup"])
        self.reducer.load_state_dict(state["reducer"])


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int) -> OneCycleSchedule | PlateauSchedule:
    """The recipe's schedule over an optimizer: call `after_batch` and `after_epoch`."""
    if isinstance(recipe.schedule, Plateau):
        return PlateauSchedule(recipe.schedule, optimizer, steps_per_epoch)
    return OneCycleSchedule(recipe, optimizer, steps_per_epoch)


def replay(schedule, optimizer: Optimizer, rows: Sequence[dict], steps_per_epoch: int) -> list[list[float]]:
    """Learning rate and momentum of every step, (2, steps), as the schedule gives them for these rows of a history."""
    lrs, momenta = [], []
    for row in rows:
        for _ in range(steps_per_epoch):
            lrs.append(optimizer.param_groups[0]["lr"])
            momenta.append(momentum_of(optimizer))
            schedule.after_batch()
        schedule.after_epoch(row)
    return [lrs, momenta]


def plateau_lrs(plateau: Plateau, values: Sequence[float], steps_per_epoch: int = 1) -> list[float]:
    """The learning rate of each epoch's last step if the monitored value takes these `values`, one per epoch."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=plateau.lr)
    schedule = PlateauSchedule(plateau, optimizer, steps_per_epoch)
    rows = [{"epoch": epoch, plateau.monitor: value} for epoch, value in enumerate(values, start=1)]
    return replay(schedule, optimizer, rows, steps_per_epoch)[0][steps_per_epoch - 1 :: steps_per_epoch]


def momentum_of(optimizer: Optimizer) -> float:
    """The momentum now: SGD's, or Adam's first beta."""
    group = optimizer.param_groups[0]
    return group["betas"][0] if "betas" in group else group["momentum"]
