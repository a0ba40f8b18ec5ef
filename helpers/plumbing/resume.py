"""Spares the reader resuming: what a training is made of as a dict, and back, so that it goes on bit for bit."""

import random
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import first_line
from helpers.plumbing.run_files import HistoryRow, Session, StepRow

PARTS = ("optimizer", "schedule", "scaler")
REFUSED = (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


class Progress(TypedDict):
    """The part of `last.pt` beside weights and states."""

    epoch: int
    history: list[HistoryRow]
    steps: list[StepRow]
    log: list[str]
    sessions: list[Session]


PROGRESS = TypeAdapter(Progress)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # all that it takes
    torch.manual_seed(seed)


def random_states() -> dict:
    """Every global random state that a training may draw from, in types that load with weights_only."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": list(random.getstate()[1]),
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict) -> None:
    random.setstate((3, tuple(states["python"]), None))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def save_training(training) -> dict:
    """Everything that changes during a training, as tensors, numbers and strings."""
    return {
        "model": training.evaluated.state_dict(),
        "trained_model": training.model.state_dict(),
        **{part: getattr(training, part).state_dict() for part in PARTS},
        "random_states": random_states(),
        **{name: getattr(training, name) for name in Progress.__annotations__},
    }


def load_training(training, state: dict, path: Path) -> None:
    """Give a fresh training the state that was saved at `path`.

    Raises CourseError if it is another network's or another version's, with the training then half changed.
    """
    try:
        progress = PROGRESS.validate_python(state, strict=True)
        for part in PARTS:  # a wrong type would only be found when it is used, hours later
            if not _alike(getattr(training, part).state_dict(), state[part]):
                raise ValueError(f"its {part} has values of other types")
        training.model.load_state_dict(state["trained_model"])
        training.evaluated.load_state_dict(state["model"])
        for part in PARTS:
            if state[part]:  # the scaler's is empty from a device that needs no loss scaling
                getattr(training, part).load_state_dict(state[part])
        restore_random_states(state["random_states"])
        for parameter, kept in training.optimizer.state.items():
            if not all(tensor is None or tensor.shape in ((), parameter.shape) for tensor in kept.values()):
                raise ValueError("the optimizer's state is of other weights")
        if not len(progress["history"]) == progress["epoch"] <= training.recipe.epochs or not progress["sessions"]:
            raise ValueError(f"{len(progress['history'])} rows of history in epoch {progress['epoch']}")
    except REFUSED as error:
        raise CourseError(
            f"{path} belongs to another network or version ({first_line(error)}): it was kept as it is; move its "
            "folder away to train afresh."
        ) from error
    for name, value in progress.items():
        setattr(training, name, value)


def _alike(fresh: object, loaded: object) -> bool:
    """Tell whether a loaded state has values of the same types as a fresh one, where both have any."""
    if isinstance(fresh, dict) and isinstance(loaded, dict):
        return all(_alike(value, loaded[key]) for key, value in fresh.items() if key in loaded)
    if isinstance(fresh, list | tuple) and isinstance(loaded, list | tuple):
        return len(fresh) == len(loaded) and all(map(_alike, fresh, loaded))
    numbers = isinstance(fresh, int | float) and isinstance(loaded, int | float)
    return fresh is None or numbers or type(fresh) is type(loaded)
