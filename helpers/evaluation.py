"""Measuring a model: loss, accuracy, predictions, confusion matrix. All averages are over images."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.plumbing import distributed
from helpers.plumbing.devices import Device


def cross_entropy_of_softmax(logits: Tensor, labels: Tensor, **options) -> Tensor:
    """Cross-entropy of probabilities taken for logits: a widespread mistake, kept for published recipes.

    `cross_entropy` takes the softmax itself. Given probabilities, which lie in [0, 1], it cannot fall
    below log(e + 9) - 1 = 1.461 for ten classes, and its gradients are weak.
    """
    return F.cross_entropy(logits.softmax(dim=1), labels, **options)


LOSSES = {"cross_entropy": F.cross_entropy, "cross_entropy_of_softmax": cross_entropy_of_softmax}


def to_device(batch: tuple[Tensor, Tensor], device: Device) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return images.to(device.device, non_blocking=True), labels.to(device.device, non_blocking=True)


def predict(model: nn.Module, loader: Iterable, device: Device, *, flip: bool = False) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) float32 and labels (N,) of every image, on the CPU, in the loader's order.

    `flip` mirrors the images left-right. The model is put into evaluation mode for it, and back.
    Each of several processes computes its share of every batch, and gets all of them.
    """
    training = model.training
    model.eval()
    logits, labels = [], []
    with torch.inference_mode():
        for batch in loader:
            images, targets = to_device(batch, device)
            with device.autocast():
                part = model(images.flip(3) if flip else images)
            logits.append(distributed.all_gather_rows(part.float()))
            labels.append(distributed.all_gather_rows(targets))
    model.train(training)
    return torch.cat(logits), torch.cat(labels)


class RunningFigures:
    """Loss and accuracy over the images seen so far in an epoch of training.

    Sums stay on the device: reading them would make the host wait for every step. The loss is without label
    smoothing, so that the curves of training and test images can be compared.
    """

    def __init__(self, loss: str, device: Device):
        self.loss_function, self.images = LOSSES[loss], 0
        self.loss_sum = torch.zeros((), device=device.device, dtype=torch.float64)
        self.correct = torch.zeros((), device=device.device, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self.loss_sum += self.loss_function(logits, labels, reduction="sum")
        self.correct += (logits.argmax(dim=1) == labels).sum()
        self.images += len(labels)

    def totals(self) -> dict:
        """Mean loss, accuracy in %, and the counts behind them, over the images of all processes."""
        loss_sum, correct, images = distributed.all_reduce_sum(self.loss_sum.item(), self.correct.item(), self.images)
        return {"loss": loss_sum / images, "acc": 100 * correct / images, "correct": correct, "images": images}

    def __str__(self) -> str:
        return f"Loss={self.loss_sum.item() / self.images:.4f} Accuracy={100 * self.correct.item() / self.images:.2f}"


def loss_and_accuracy(logits: Tensor, labels: Tensor, loss: str = "cross_entropy") -> tuple[float, int]:
    """The mean loss over the images, and how many are classified correctly."""
    return LOSSES[loss](logits, labels).item(), int((logits.argmax(dim=1) == labels).sum())


def confusion_matrix(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Counts (classes, classes): row = actual class, column = predicted class."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(dim=1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).numpy()
