"""The checks of the notebooks' exercises: each compares an answer with a truth that was found in another way.

`check` prints one sentence, whatever the answer, so that a notebook with open exercises still runs to its end.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from helpers.models import ResidualLayer, ResNet18
from helpers.plumbing.errors import CourseError
from helpers.recipes import Plateau
from helpers.schedules import plateau_lrs

SOLVED: dict[str, bool] = {}  # of the exercises checked so far, in the order of their first check


def check(name: str, answer: object) -> None:
    """Print whether the answer to the exercise is right, and if not, what may help.

    Raises CourseError if there is no exercise of that name.
    """
    if name not in EXERCISES:
        raise CourseError(f"There is no exercise {name!r}: choose one of {', '.join(EXERCISES)}.")
    SOLVED[name] = False
    if answer is ...:
        print(f"☐ {name}: still to do. Put your answer in the place of the three dots and run the cell again.")
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        problem = find_problem(EXERCISES[name](), answer)
    SOLVED[name] = not problem
    print(f"❌ {name}: {problem}" if problem else f"✅ {name}: right")


def print_solved() -> None:
    """Print how many of the exercises that were checked so far are solved, and which are not."""
    unsolved = [name for name, solved in SOLVED.items() if not solved]
    to_do = f"; to do: {', '.join(unsolved)}" if unsolved else ""
    print(f"{len(SOLVED) - len(unsolved)} of {len(SOLVED)} solved{to_do}")


def find_problem(exercise: Iterator, answer: object) -> str:
    """Name what is wrong with the answer (numbers, an array or a tensor), in a sentence; nothing if it is right.

    An exercise yields its truth; a hint for wrong answers of no known kind; and known mistakes, each as the sentence
    that helps and the wrong answer that calls for it.
    """
    truth, hint, *mistakes = exercise
    truth = _array(truth)
    wanted = {0: "a single number", 1: "a list of numbers"}.get(truth.ndim, f"an array of {truth.ndim} dimensions")
    if answer is None:
        return f"{wanted} is asked for, and this is None. A function without `return` gives None, for instance."
    try:
        given = _array(answer, float)
    except (ArithmeticError, RuntimeError, TypeError, ValueError):  # text, a function, a ragged list, ...
        return f"{wanted} is asked for; this {type(answer).__name__} cannot be read as one."
    for sentence, values in (("", truth), *mistakes):
        if given.shape == np.shape(values) and _equal(given, _array(values)).all():
            return sentence
    if given.shape != truth.shape:
        return f"{wanted} is asked for; yours, of shape {given.shape}, does not fit. {hint}"
    if truth.dtype.kind != "i" and truth.size < 10 and np.allclose(given, truth, rtol=0.01):
        return "nearly: write four digits."
    off = ~_equal(given, truth)
    where = tuple(int(i) for i in np.argwhere(off)[0])
    place = f" The first is at index {where[0] if len(where) == 1 else where}." if where else ""
    return f"{int(off.sum())} of {off.size} values are not right.{place} {hint}"


def _array(values: object, dtype: type | None = None) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype)


def _equal(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whole numbers exactly, others, which may be typed by hand, to a thousandth; NaN equals nothing."""
    if wanted.dtype.kind == "i":
        return given == wanted
    rounding = 100 * np.finfo(wanted.dtype).eps * np.abs(wanted).max(initial=0)
    return np.abs(given - wanted) <= np.maximum(1e-3 * np.abs(wanted), rounding)


# fmt: off
def largest_lr():
    yield (0.2, 0.4)  # 1 - lr * 5 is 0 and -1
    yield "Write (the rate that arrives in one step, the border): 1 - lr * k is then 0 and -1."
    yield "the order is (arrives in one step, the border).", (0.4, 0.2)
    yield "those are for k = 2; here the curvature is 5.", (0.5, 1.0)
    yield "the gradient of k w**2 / 2 is k w, not 2 k w.", (0.1, 0.2)

def triangular():
    t, low, high, step = np.array([0, 1000, 2000, 3000, 4000, 6000]), 0.001, 0.006, 2000
    up = t / step  # in half cycles
    distance = np.array([1, 0.5, 0, 0.5, 1, 0])  # from the peak, in half cycles
    yield np.interp(t, step * np.arange(4), (low, high, low, high))
    yield "At iteration 0 the rate is LRMIN, after one step size LRMAX, after two LRMIN again."
    yield ("it starts at LRMAX: 1 - x is the height above LRMIN, x the distance from the peak.",
           low + (high - low) * distance)
    yield "it climbs on: without the absolute value of x there is no way down.", low + (high - low) * up
    yield ("a cycle is as long as two step sizes, one up and one down; yours has one.",
           np.interp(t % step, (0, step / 2, step), (low, high, low)))
    yield "that is the height above LRMIN: add LRMIN to it.", (high - low) * (1 - distance)
    yield "the height is a share of LRMAX - LRMIN, not of LRMAX.", low + high * (1 - distance)
    yield ("c is rounded down to a whole number, by np.floor.",
           low + (high - low) * np.maximum(0, 1 - np.abs(t / step - 2 * (1 + t / (2 * step)) + 1)))

def sweep():
    start, end, steps = 1e-6, 1.0, 61
    yield np.geomspace(start, end, steps)
    yield "The first is 1e-6, the last 1, and each is the one before times a constant."
    yield ("equal steps spend nearly all of the sweep in the last decade: multiply instead of adding.",
           np.linspace(start, end, steps))
    yield ("the last rate falls short of 1: 61 rates have 60 steps between them, so the exponent is i / 60.",
           np.geomspace(start, end, steps, endpoint=False))
    yield "np.logspace takes exponents: 1e-6 is 10 to the power of -6.", np.logspace(start, end, steps)

def smoothed():
    yield [2.3, 2.26, 2.308, 2.2264]
    yield "Begin with the first loss; then each value is 0.2 * the new loss + 0.8 * the value before."
    yield "the weights are exchanged: the newest loss counts 0.2.", [2.3, 2.14, 2.428, 2.0056]
    yield "that begins at 0: the first value is the first loss itself.", [0.46, 0.788, 1.1304, 1.28432]
    yield "0.8 multiplies the *smoothed* value before, not the raw loss before.", [2.3, 2.26, 2.18, 2.38]

def bounds():
    yield (3e-3, 0.05)  # a tenth of the fall from 2.30 to 1.78 is made below 2.248, nine tenths below 1.832
    yield "Write (LRMIN, LRMAX): by rule 2 one of the ten rates, by rules 3 and 4 the middle of several, rounded."
    yield "at 1.0 the loss is lowest, but in a second fall: the valley ends at the first climb.", (3e-3, 1.0)
    yield ("at 3.0 the loss is NaN, which compares with nothing, and argmin takes it for the least: cut it off.",
           (3e-3, 3.0))
    yield "0.1 is the lowest point; LRMAX is the middle of the floor, which begins at 0.03.", (3e-3, 0.1)
    yield "that middle is the mean; on the logarithmic axis it is the square root of the product.", (3e-3, 0.065)
    yield "the middle is 0.0548; rule 4 rounds it to one digit.", (3e-3, 0.003**0.5)
    yield "at 1e-3 the loss has fallen by 0.02; a tenth of the descent is 0.052.", (1e-3, 0.05)
    yield "the order is (LRMIN, LRMAX).", (0.05, 3e-3)

def cutout():
    image, mean, row, column, half = np.full((32, 32, 3), 255), np.array([125, 123, 114]), 2, 20, 4
    rows, columns = np.indices((32, 32))
    across = (columns >= column - half) & (columns < column + half)
    inside = (rows >= row - half) & (rows < row + half) & across
    yield np.where(inside[..., None], mean, image)
    yield "The hole reaches from centre - 4 up to, but not including, centre + 4, and everything else stays."
    yield ("the hole is black: after normalisation black is far from 0. Fill it with the mean colour.",
           np.where(inside[..., None], 0, image))
    yield "nothing has changed: row 2 - 4 is -2, which NumPy counts from the end. Let the hole begin at 0.", image
    yield ("that is a whole hole, pushed into the image; the paper's loses what lies outside.",
           np.where(((rows < 2 * half) & across)[..., None], mean, image))

def layer_parameters():
    layer = ResidualLayer(32, 64)
    weights = sum(p.numel() for p in layer.parameters() if p.ndim == 4)
    yield sum(p.numel() for p in layer.parameters())
    yield "Three convolutions, 32 to 64 and twice 64 to 64, each followed by a BatchNorm."
    yield "those are the convolutions; BatchNorm learns two numbers for each channel.", weights
    yield "BatchNorm learns a scale *and* a shift for each channel.", weights + 3 * 64
    yield "a bias was counted for each convolution; these have none.", weights + 9 * 64
    yield "R holds two convolutions, not one.", 9 * 32 * 64 + 9 * 64 * 64 + 4 * 64
    yield "those are the parameters of R alone; the layer also makes X.", 2 * (9 * 64 * 64 + 2 * 64)

def residual_output():
    torch.manual_seed(0)
    layer, x = ResidualLayer(4, 8), torch.randn(2, 4, 8, 8)
    down = layer.downsample(x)
    yield layer(x)
    yield "Make X of x with the four given layers in their order, then add what `block` makes of X."
    yield "that is R(X) alone: add X to it.", layer.res_block(down)
    yield "that is X alone: R(X) has to be added.", down
    yield "R was applied twice.", layer.res_block(layer.res_block(down))

def peak_epoch():
    low, high, total, peak = 0.02, 0.4, 1200, 299
    steps = np.arange(total)
    early = "the peak is an epoch early: the maximum lies at the end of epoch 3, not at its beginning."
    yield np.concatenate((np.linspace(low, high, 300), np.linspace(high, low, 901)[1:]))
    yield "Step 0 has 0.02, the last step of epoch 3 has 0.4, step 1,199 has 0.02, and straight lines join them."
    yield ("the peak is one step late: steps are counted from 0, so 300 is the first step of epoch 4.",
           np.interp(steps, (0, peak + 1, total - 1), (low, high, low)))
    yield early, np.interp(steps, (0, 199, total - 1), (low, high, low))
    yield early, np.interp(steps, (0, 200, total - 1), (low, high, low))
    yield ("the last step has not come down to LRMIN: it is step 1,199, not 1,200.",
           np.interp(steps, (0, peak, total), (low, high, low)))
    yield ("that is annihilation: the last step has to have LRMIN, not 0.",
           np.interp(steps, (0, peak, total - 1), (low, high, 0)))
    yield "it begins at 0: the first step has LRMIN.", np.interp(steps, (0, peak, total - 1), (0, high, low))

def smoothing_floor():
    wanted = torch.full((1, 10), 0.01)
    wanted[0, 3] = 0.91
    yield F.cross_entropy(wanted.log(), torch.tensor([3]), label_smoothing=0.1)
    yield "It is the sum of -q log q over the ten wanted probabilities q."
    yield "0 is the floor without smoothing: certainty is no longer what is asked for.", 0
    yield "that is the term of the correct class alone; the nine others have one each.", -np.log(0.91)
    yield ("the 0.1 is shared out over all ten classes, so that the correct one has 0.91, not 0.9.",
           -0.9 * np.log(0.9) - 0.1 * np.log(0.1 / 9))
    yield "a minus is missing: the logarithm of a probability is negative.", 0.91 * np.log(0.91) + 0.09 * np.log(0.01)

def group_norm_means():
    yield 8
    yield "GroupNorm(1, 6) took 4 means from 4 images."
    yield "2 is right for one image, but each of the 4 images has its own two.", 2
    yield "a mean for each channel would be BatchNorm's; here three channels of an image share one.", 6
    yield "4 is the number with one group; with two groups each image has two means.", 4
    yield "that is a mean for each channel of each image; here three channels share one.", 24

def group_norm():
    values = (torch.arange(1536.0) ** 2 % 97).view(4, 6, 8, 8)
    grouped = values.view(4, 2, -1)
    unbiased = (grouped - grouped.mean(2, keepdim=True)) / grouped.std(2, keepdim=True)
    yield nn.GroupNorm(2, 6)(values)
    yield "Channels 0 to 2 of an image are one group, 3 to 5 the other; the result has the shape of `values`."
    yield "that is one group: all six channels of an image share a mean.", nn.GroupNorm(1, 6)(values)
    yield "that is BatchNorm: the mean is taken over the images too.", nn.BatchNorm2d(6)(values)
    yield ("neighbouring channels make a group, 0 to 2 and 3 to 5, not every other one.",
           nn.GroupNorm(2, 6)(values[:, [0, 2, 4, 1, 3, 5]])[:, [0, 3, 1, 4, 2, 5]])
    yield ("nearly: the variance is divided by the number of values, without the correction by 1.",
           unbiased.view(4, 6, 8, 8))

def swapped_norms():
    networks = {}
    for norm in ("layer", "batch"):
        torch.manual_seed(0)
        networks[norm] = ResNet18(width=4, norm=norm)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    yield networks["layer"](images)
    yield "Every BatchNorm2d in `network` gives way to nn.GroupNorm(1, its num_features); nothing else changes."
    yield "that is BatchNorm in evaluation mode: nothing was replaced.", networks["batch"].eval()(images)
    yield ("the network still has its BatchNorms: setattr on the module that *holds* the norm replaces it.",
           networks["batch"].train()(images))

def plateau_epochs():
    values = [50, 60, 65, 64, 64.5, 65, 64, 66, 65, 65.5, 66, 66, 70, 69]
    lrs = plateau_lrs(Plateau(lr=1.0, monitor="val_acc", factor=0.1, patience=3), values)
    truth = np.flatnonzero(np.diff(lrs)) + 1
    yield truth
    yield "Three epochs without a new best are waited for; after the fourth in a row the rate is reduced."
    yield "one epoch early: patience 3 waits for three bad epochs and acts after the fourth.", [6, 11]
    yield "these are the first epochs with the smaller rate; asked for are those after which it is reduced.", truth + 1
    yield "that is mode='min': it takes every improvement of an accuracy for a bad epoch.", [5, 9, 13]
    yield "an equal value is no improvement: it has to be better than the best.", []

def most_reductions():
    yield [3, 9, 13]  # for patience 10, 3, 2: the whole part of 39 / (patience + 1)
    yield "The first epoch is always an improvement; then patience + 1 bad epochs make one reduction."
    yield "the rate is reduced after patience + 1 bad epochs, not after patience.", [3, 13, 19]
    yield "the first of the 40 epochs cannot be a bad one, as there is nothing before it.", [3, 10, 13]
    yield "the patience may also run out with epoch 40: count that, too.", [3, 9, 12]
    yield "a reduction is made or not: round down to whole numbers.", [39 / 11, 39 / 4, 39 / 3]
    yield "the order is that of the patiences: 10, 3, 2.", [13, 9, 3]

def class_accuracy():
    confusion = np.array([[8, 1, 1], [2, 16, 2], [5, 5, 20]])
    yield [0.8, 0.8, 20 / 30]
    yield "Of the images of an actual class, a row, which share lies on the diagonal?"
    yield ("a column holds what was *predicted* as a class (that is precision); divide by the sums of the rows.",
           confusion.diagonal() / confusion.sum(axis=0))
    yield "that is the accuracy over all classes; asked for is one for each.", 44 / 60
    yield "each class has its own number of images: divide by that, not by all 60.", confusion.diagonal() / 60
    yield "these are per cent; write shares, 0.8 for 80 %.", [80, 80, 200 / 3]

def precision():
    confusion = np.array([[8, 1, 1], [2, 16, 2], [5, 5, 20]])
    yield [8 / 15, 16 / 22, 20 / 23]
    yield "Of the images that were called a class, a column, which share lies on the diagonal?"
    yield "those are the shares of the rows again, the accuracies above.", [0.8, 0.8, 20 / 30]
    yield "these are per cent; write shares, 0.8 for 80 %.", [800 / 15, 1600 / 22, 2000 / 23]
    yield "each class was predicted its own number of times: divide by that.", confusion.diagonal() / 60

GRADIENT = np.array([[[2, 0], [0, 2]], [[-4, -1], [-2, -1]], [[1, 1], [3, 3]]])

def gradcam_weights():
    yield [1, -2, 2]
    yield "A channel's weight is the average of its gradient over the positions."
    yield "that is the sum over the positions; the weight is the average.", GRADIENT.sum(axis=(1, 2))
    yield "the ReLU comes at the very end: negative weights are kept.", [1, 0, 2]

def gradcam_by_hand():
    maps = np.array([[[1, 2], [3, 4]], [[4, 0], [0, 2]], [[0, 3], [1, 0]]])
    weighted = np.array([1, -2, 2])[:, None, None] * maps
    total = weighted.sum(axis=0)
    yield np.maximum(total, 0)
    yield "Multiply each channel's map by its weight, add the channels, cut at 0."
    yield "the ReLU is missing: what speaks against the class stays in the map.", total
    yield ("gradient times map, place by place, is another method: GradCAM averages the gradient first.",
           np.maximum((GRADIENT * maps).sum(axis=0), 0))
    yield "the weight is the average of the gradient over the four positions, not the sum.", 4 * np.maximum(total, 0)
    yield "the ReLU comes last: cut the sum of the channels, not each of them.", np.maximum(weighted, 0).sum(axis=0)
    yield "the channels are still apart: add them up.", np.maximum(weighted, 0)

def heatmap_reading():
    yield [1, 0, 0, 1]
    yield "Section 5 says what the scaling and the ReLU take away, and the table above what follows from a map."
    yield "a bright map need not be a strong one: each is stretched to its own full range.", [1, 1, 0, 1]
    yield "dark may mean that it spoke against the class: the ReLU has cut that off.", [1, 0, 1, 1]
    yield "the last may be said: whether hiding the place matters is found out by trying, as above.", [1, 0, 0, 0]


EXERCISES: dict[str, Callable[[], Iterator]] = {exercise.__name__: exercise for exercise in (
    largest_lr, triangular, sweep, smoothed, bounds,
    cutout, layer_parameters, residual_output, peak_epoch, smoothing_floor,
    group_norm_means, group_norm, swapped_norms, plateau_epochs, most_reductions,
    class_accuracy, precision, gradcam_weights, gradcam_by_hand, heatmap_reading,
)}
