"""Predictions for the test images, and the choice of those that are shown: by one rule, never by eye."""

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from helpers.data import Data
from helpers.evaluation import predict
from helpers.loaders import EVALUATION_BATCH, make_loader
from helpers.plumbing.devices import pick_device
from helpers.plumbing.errors import CourseError
from helpers.runs import Run

ORDERS = {
    "first": "in the order of the test set",
    "confident": "the most confident first",
    "per-class": "from each class in turn, the most confident first",
}
KINDS = {True: "correctly classified", False: "misclassified"}
MOST = 100  # images in a figure


@dataclass(frozen=True)
class Selection:
    """Test images and what the network made of them; all arrays (N,), in the order they are shown in."""

    indices: np.ndarray  # into data.test
    actual: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray  # softmax probability of the predicted class
    kind: str  # "misclassified", for instance
    available: int  # how many of that kind there are
    order: str = "first"
    missing: str = ""  # the kind that was asked for, if no image is of it

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Selection":
        """Some of them, in the order of `chosen`."""
        parts = {name: getattr(self, name)[chosen] for name in ("indices", "actual", "predicted", "confidence")}
        return replace(self, **parts)

    @property
    def title(self) -> str:
        share = f"All {self.available:,}" if len(self) == self.available else f"{len(self)} of {self.available:,}"
        none = f"No test image is {self.missing}. " if self.missing else ""
        return f"{none}{share} {self.kind} test images, {ORDERS[self.order]}"


def predict_test(run: Run, model: nn.Module, data: Data) -> Selection:
    """The prediction for every test image, in the test set's order.

    Moves the model to the device that it computes on.

    Raises CourseError for an unfinished run, and for other images than it was trained and measured with.
    """
    run.check_finished()
    theirs = run.config["data"]
    if theirs["fingerprint"] != data.fingerprint:
        raise CourseError(
            f"{run.folder.name} was trained on {_named(theirs)}, and these images are {_named(data.describe())}: "
            "choose the same with --data or COURSE_DATA."
        )
    device, data = pick_device(), data.normalised_by(run.recipe)
    loader = make_loader(data.test, data.mean, data.std, batch_size=EVALUATION_BATCH)
    logits, labels = predict(device.place(model), loader, device)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return Selection(np.arange(len(labels)), labels.numpy(), predicted.numpy(), confidence.numpy(), "", len(labels))


def _named(data: dict) -> str:
    return f"{data['name']} ({data['train_images']:,} + {data['test_images']:,} images, {data['fingerprint']})"


def select(predictions: Selection, *, correct: bool, count: int, order: str | None = None) -> Selection:
    """The first `count` correct or wrong predictions, or as many as there are, in an order of ORDERS.

    Without an `order`, mistakes come most confident first, and correct images from each class in turn, as the most
    confident of them are often all of one class. If there are none of that kind, the others, as the title says.
    Raises CourseError for an unknown order or a bad count.
    """
    if order not in (None, *ORDERS):
        raise CourseError(f"There is no order {order!r}: choose one of {', '.join(ORDERS)}.")
    if not (isinstance(count, int | np.integer) and 1 <= count <= MOST):
        raise CourseError(f"count has to be a whole number from 1 to {MOST}, not {count}.")
    order = order or ("per-class" if correct else "confident")
    right = predictions.actual == predictions.predicted
    missing = "" if (right == correct).any() else KINDS[correct]
    if missing:
        correct = not correct
    found = np.flatnonzero(right == correct)
    ranked = found if order == "first" else confident_first(predictions, found)
    if order == "per-class":
        labels = predictions.actual[ranked]
        turn = sum((labels == label).cumsum() * (labels == label) for label in np.unique(labels))
        ranked = ranked[np.lexsort((labels, turn))]  # everyone's first by class, then everyone's second
    chosen = predictions[ranked[:count]]
    return replace(chosen, kind=KINDS[correct], available=len(found), order=order, missing=missing)


def confident_first(predictions: Selection, chosen: np.ndarray) -> np.ndarray:
    """The chosen ones in the order of their confidence; equally confident ones keep theirs."""
    return chosen[np.argsort(-predictions.confidence[chosen], kind="stable")]


def confused_pairs(predictions: Selection, count: int) -> list[tuple[int, int, int]]:
    """The most frequent (actual, predicted, number of images), the most frequent first."""
    wrong = predictions[predictions.actual != predictions.predicted]
    pairs, numbers = np.unique(np.stack((wrong.actual, wrong.predicted), axis=1), axis=0, return_counts=True)
    ranked = np.argsort(-numbers, kind="stable")[:count]
    return [(int(pairs[k, 0]), int(pairs[k, 1]), int(numbers[k])) for k in ranked]
