"""The checks of the notebooks' exercises: each compares an answer with a truth that was found in another way.

`check` prints one sentence and never raises, so that a notebook with open exercises still runs to its end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from helpers.plumbing.errors import CourseError


@dataclass(frozen=True)
class Exercise:
    truth: np.ndarray
    hint: str  # for a wrong answer of no known kind
    mistakes: tuple[tuple[str, np.ndarray], ...]  # the sentence that helps, the wrong answer that calls for it
    relative: bool = False  # the tolerance is in units of each true value
    tolerance: float = 1e-5  # in units of the largest true value


def check(name: str, answer: object) -> None:
    """Print whether the answer to the exercise is right, and if not, what may help.

    Raises CourseError if there is no exercise of that name.
    """
    if name not in EXERCISES:
        raise CourseError(f"There is no exercise {name!r}: choose one of {', '.join(EXERCISES)}.")
    if answer is ...:
        print(f"☐ {name}: still to do. Put your answer in the place of the three dots and run the cell again.")
        return
    problem = find_problem(EXERCISES[name](), answer)
    print(f"❌ {name}: {problem}" if problem else f"✅ {name}: right")


def find_problem(exercise: Exercise, answer: object) -> str:
    """What is wrong with the answer (numbers, an array or a tensor), in a sentence; nothing if it is right."""
    truth, wanted = exercise.truth, _shape(exercise.truth)
    try:
        given = np.asarray(answer.detach().cpu() if isinstance(answer, torch.Tensor) else answer, dtype=float)
    except (ArithmeticError, TypeError, ValueError):  # text, a function, a ragged list, ...
        return f"{wanted} is asked for; this {type(answer).__name__} cannot be read as one."
    if _close(given, truth, exercise):
        return ""
    for sentence, wrong in exercise.mistakes:
        if _close(given, wrong, exercise):
            return sentence
    if given.shape != truth.shape:
        return f"{wanted} is asked for, yours is {_shape(given)}. {exercise.hint}"
    off = ~_near(given, truth, exercise)
    where = tuple(int(i) for i in np.argwhere(off)[0])
    place = f" The first is at index {where[0] if len(where) == 1 else where}." if where else ""
    return f"{int(off.sum())} of {off.size} values are not right.{place} {exercise.hint}"


def _close(given: np.ndarray, other: np.ndarray, exercise: Exercise) -> bool:
    return given.shape == other.shape and bool(_near(given, other, exercise).all())


def _near(given: np.ndarray, other: np.ndarray, exercise: Exercise) -> np.ndarray:
    unit = np.abs(other) if exercise.relative else np.abs(exercise.truth).max()
    return np.abs(given - other) <= exercise.tolerance * unit  # NaN never is


def _shape(values: np.ndarray) -> str:
    return f"an array of shape {values.shape}" if values.ndim else "a single number"


def triangular() -> Exercise:
    t, lr_min, lr_max, step = np.array([0, 1000, 2000, 3000, 4000, 6000]), 0.001, 0.006, 2000
    up = np.array([0.0, 0.5, 1, 1.5, 2, 3])  # in half cycles
    return Exercise(
        np.interp(t, step * np.arange(4), (lr_min, lr_max, lr_min, lr_max)),
        "At iteration 0 the rate is LRMIN, after one step size LRMAX, after two LRMIN again.",
        (
            ("it starts at LRMAX: 1 - x is the height above LRMIN, x the distance from the peak.",
             lr_max - (lr_max - lr_min) * (1 - np.abs(up % 2 - 1))),
            ("it climbs on: without the absolute value of x there is no way down.", lr_min + (lr_max - lr_min) * up),
            ("a cycle is as long as two step sizes, one up and one down; yours has one.",
             np.interp(t % step, (0, step / 2, step), (lr_min, lr_max, lr_min))),
        ),
    )  # fmt: skip


def sweep() -> Exercise:
    start, end, steps = 1e-6, 1.0, 61
    return Exercise(
        np.geomspace(start, end, steps),
        "The first is 1e-6, the last 1, and each is the one before times a constant.",
        (
            ("equal steps spend nearly all of the sweep in the last decade: multiply instead of adding.",
             np.linspace(start, end, steps)),
            ("the last rate falls short of 1: 61 rates have 60 steps between them, so the exponent is i / 60.",
             np.geomspace(start, end, steps, endpoint=False)),
            ("np.logspace takes exponents: 1e-6 is 10 to the power of -6.", np.logspace(start, end, steps)),
        ),
        relative=True,
    )  # fmt: skip


def bounds() -> Exercise:
    return Exercise(
        np.array([3e-3, 0.1]),  # a tenth of the descent from 2.30 to 1.78 is made below 2.248, first at 2.20
        "Write (LRMIN, LRMAX), each one of the ten rates, by rules 1 to 3.",
        (
            ("1.0 is the lowest loss, but of a second fall: the valley ends where the loss first climbs back.",
             np.array([3e-3, 1.0])),
            ("at 3.0 the loss is NaN, which compares with nothing, and argmin takes it for the least: cut it off.",
             np.array([3e-3, 3.0])),
            ("at 1e-3 the loss has fallen by 0.02; a tenth of the descent is 0.052.", np.array([1e-3, 0.1])),
            ("the order is (LRMIN, LRMAX).", np.array([0.1, 3e-3])),
        ),
    )  # fmt: skip


def cutout() -> Exercise:
    image, mean, row, column, half = np.full((32, 32, 3), 255), np.array([125, 123, 114]), 2, 20, 4
    rows, columns = np.indices((32, 32))
    inside = (rows >= row - half) & (rows < row + half) & (columns >= column - half) & (columns < column + half)
    pushed = (rows < 2 * half) & (columns >= column - half) & (columns < column + half)
    return Exercise(
        np.where(inside[..., None], mean, image),
        "The hole reaches from centre - 4 up to, but not including, centre + 4, and everything else stays.",
        (
            ("the hole is black: after normalisation black is far from 0. Fill it with the mean colour.",
             np.where(inside[..., None], 0, image)),
            ("nothing has changed: row 2 - 4 is -2, which NumPy counts from the end. Let the hole begin at 0.", image),
            ("that is a whole hole, pushed into the image; the paper's loses what lies outside.",
             np.where(pushed[..., None], mean, image)),
        ),
    )  # fmt: skip


def peak_epoch() -> Exercise:
    lr_min, lr_max, total, peak = 0.02, 0.4, 1200, 299
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr_min)
    scheduler = OneCycleLR(optimizer, lr_max, total_steps=total, pct_start=(peak + 1) / total, anneal_strategy="linear",
                           div_factor=lr_max / lr_min, final_div_factor=1, cycle_momentum=False)  # fmt: skip
    truth = []
    for step in range(total):
        truth.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if step < total - 1:
            scheduler.step()
    steps = np.arange(total)
    return Exercise(
        np.array(truth),
        "Step 0 has 0.02, the last step of epoch 3 has 0.4, step 1,199 has 0.02, and straight lines join them.",
        (
            ("the peak is one step late: steps are counted from 0, so 300 is the first step of epoch 4.",
             np.interp(steps, (0, peak + 1, total - 1), (lr_min, lr_max, lr_min))),
            ("the peak is an epoch early: the maximum lies at the end of epoch 3, not at its beginning.",
             np.interp(steps, (0, 199, total - 1), (lr_min, lr_max, lr_min))),
            ("the peak is an epoch early: the maximum lies at the end of epoch 3, not at its beginning.",
             np.interp(steps, (0, 200, total - 1), (lr_min, lr_max, lr_min))),
            ("the last step has not come down to LRMIN: it is step 1,199, not 1,200.",
             np.interp(steps, (0, peak, total), (lr_min, lr_max, lr_min))),
            ("that is annihilation: the last step has to have LRMIN, not 0.",
             np.interp(steps, (0, peak, total - 1), (lr_min, lr_max, 0))),
        ),
    )  # fmt: skip


def smoothing_floor() -> Exercise:
    wanted = torch.full((1, 10), 0.01)
    wanted[0, 3] = 0.91
    best = F.cross_entropy(wanted.log(), torch.tensor([3]), label_smoothing=0.1)
    return Exercise(
        best.numpy().astype(float),
        "It is the sum of -q log q over the ten wanted probabilities q.",
        (
            ("0 is the floor without smoothing: certainty is no longer what is asked for.", np.array(0.0)),
            ("that is the term of the correct class alone; the nine others have one each.", np.array(-np.log(0.91))),
            ("the 0.1 is shared out over all ten classes, so that the correct one has 0.91, not 0.9.",
             np.array(-0.9 * np.log(0.9) - 0.1 * np.log(0.1 / 9))),
        ),
        tolerance=2e-3,  # 0.5 is as good as 0.500
    )  # fmt: skip


def group_norm_means() -> Exercise:
    return Exercise(
        np.array(8),
        "GroupNorm(1, 6) took 4 means from 4 images.",
        (
            ("2 a single image: but each of the 4 images has its own.", np.array(2)),
            ("a mean for each channel would be BatchNorm's; here three channels of an image share one.", np.array(6)),
            ("4 was with one group; with two, each image has two.", np.array(4)),
            ("that is a mean for each channel of each image; here three channels share one.", np.array(24)),
        ),
    )


def group_norm() -> Exercise:
    values = (torch.arange(1536.0) ** 2 % 97).view(4, 6, 8, 8)
    grouped = values.view(4, 2, -1)
    unbiased = (grouped - grouped.mean(2, keepdim=True)) / grouped.std(2, keepdim=True)
    mixed = nn.GroupNorm(2, 6)(values[:, [0, 2, 4, 1, 3, 5]])[:, [0, 3, 1, 4, 2, 5]]
    return Exercise(
        nn.GroupNorm(2, 6)(values).detach().numpy(),
        "Channels 0 to 2 of an image are one group, 3 to 5 the other; the result has the shape of `values`.",
        (
            ("that is one group: all six channels of an image share a mean.",
             nn.GroupNorm(1, 6)(values).detach().numpy()),
            ("that is BatchNorm: the mean is taken over the images too.", nn.BatchNorm2d(6)(values).detach().numpy()),
            ("neighbouring channels make a group, 0 to 2 and 3 to 5, not every other one.", mixed.detach().numpy()),
            ("nearly: the variance is divided by the number of values, without the correction by 1.",
             unbiased.view(4, 6, 8, 8).numpy()),
        ),
    )  # fmt: skip


def plateau_epochs() -> Exercise:
    values, truth = [50, 60, 65, 64, 64.5, 65, 64, 66, 65, 65.5, 66, 66, 70, 69], []
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=3)
    for epoch, value in enumerate(values, start=1):
        before = optimizer.param_groups[0]["lr"]
        scheduler.step(value)
        if optimizer.param_groups[0]["lr"] < before:
            truth.append(epoch)
    return Exercise(
        np.array(truth),
        "Three epochs without a new best are waited for; after the fourth in a row the rate is reduced.",
        (
            ("one epoch early: patience 3 waits for three bad epochs and acts after the fourth.", np.array([6, 11])),
            ("these are the first epochs with the smaller rate; asked for are those after which it is reduced.",
             np.array(truth) + 1),
            ("that is mode='min': it takes every improvement of an accuracy for a bad epoch.",
             np.array([5, 9, 13])),
            ("an equal value is no improvement: it has to be better than the best.", np.array([])),
        ),
    )  # fmt: skip


def class_accuracy() -> Exercise:
    confusion = np.array([[8, 1, 1], [2, 16, 2], [5, 5, 20]])
    return Exercise(
        np.array([0.8, 0.8, 20 / 30]),
        "Of the images of an actual class, a row, which share lies on the diagonal?",
        (
            ("a column holds what was *predicted* as a class (that is precision); divide by the sums of the rows.",
             confusion.diagonal() / confusion.sum(axis=0)),
            ("that is the accuracy over all classes; asked for is one for each.", np.array(44 / 60)),
            ("each class has its own number of images: divide by that, not by all 60.", confusion.diagonal() / 60),
            ("these are per cent; write shares, 0.8 for 80 %.", np.array([80, 80, 200 / 3])),
        ),
    )  # fmt: skip


def gradcam_by_hand() -> Exercise:
    maps = np.array([[[1, 2], [3, 4]], [[4, 0], [0, 2]], [[0, 3], [1, 0]]])
    gradient = np.array([[[2, 0], [0, 2]], [[-4, -1], [-2, -1]], [[1, 1], [3, 3]]])
    weights = np.array([1, -2, 2])  # the averages of the three gradients
    total = np.einsum("k,kij->ij", weights, maps)
    return Exercise(
        np.maximum(total, 0),
        "Average each channel's gradient over its positions, multiply its map by that, add the channels, cut at 0.",
        (
            ("the ReLU is missing: what speaks against the class stays in the map.", total),
            ("gradient times map, place by place, is another method: GradCAM averages the gradient first.",
             np.maximum((gradient * maps).sum(axis=0), 0)),
            ("the weight is the average of the gradient over the four positions, not the sum.",
             4 * np.maximum(total, 0)),
            ("the ReLU comes last: cut the sum of the channels, not each of them.",
             np.maximum(weights[:, None, None] * maps, 0).sum(axis=0)),
            ("the channels are still apart: add them up.", np.maximum(weights[:, None, None] * maps, 0)),
        ),
    )  # fmt: skip


def heatmap_reading() -> Exercise:
    return Exercise(
        np.array([1, 0, 0, 1]),
        "Section 5 says what the scaling and the ReLU take away, and the table above what follows from a map.",
        (
            ("a bright map need not be a strong one: each is stretched to its own full range.", np.array([1, 1, 0, 1])),
            ("dark may mean that it spoke against the class: the ReLU has cut that off.", np.array([1, 0, 1, 1])),
            ("the last may be said: whether hiding the place matters is found out by trying, as above.",
             np.array([1, 0, 0, 0])),
        ),
    )  # fmt: skip


EXERCISES: dict[str, Callable[[], Exercise]] = {
    function.__name__: function
    for function in (triangular, sweep, bounds, cutout, peak_epoch, smoothing_floor, group_norm_means, group_norm,
                     plateau_epochs, class_accuracy, gradcam_by_hand, heatmap_reading)
}  # fmt: skip
