"""One training loop for every recipe: `train` is the story of a run, `Training.train_epoch` the loop itself."""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from helpers import settings
from helpers.data import Data
from helpers.evaluation import LOSSES, RunningFigures, confusion_matrix, loss_and_accuracy, predict, to_device
from helpers.loaders import held_out_notes, make_loaders
from helpers.models import make_model
from helpers.plumbing import distributed
from helpers.plumbing.devices import Device, explain_failures, keep_freed_memory, pick_device
from helpers.plumbing.distributed import from_rank_zero
from helpers.plumbing.errors import CourseError, Stopped
from helpers.plumbing.files import load_weights
from helpers.plumbing.progress import epoch_title, progress_bar
from helpers.plumbing.resume import load_training, save_training, seed_everything
from helpers.plumbing.run_files import checked_seed, configuration, describe_session, folder_name
from helpers.plumbing.run_folder import RunFolder
from helpers.plumbing.tensorboard_log import open_log
from helpers.recipes import Recipe
from helpers.runs import Run, load_run
from helpers.schedules import make_optimizer, make_schedule, momentum_of

SPLITS = {"val": "Validation", "test": "Test"}  # the loaders that every epoch ends with, as the log calls them


@explain_failures
def train(recipe: Recipe, data: Data, folder: Path, *, seed: int = 0, report: Callable[[str], None] = print) -> Run:
    """Train `recipe` on `data` in a run folder under `folder`; resume it, or load it if it is finished.

    `report` gets the lines of the log. Raises CourseError for what the user can fix: a folder that is in use or holds
    another configuration, a loss that is no longer finite, too little memory.
    """
    data, device, seed = data.normalised_by(recipe), pick_device(), checked_seed(seed)
    config = configuration(recipe, data.describe(), seed)
    watched = settings.tensorboard() and distributed.RANK == 0  # refused, if at all, before a folder is made
    keep_freed_memory()
    loaders = make_loaders(recipe, data, seed, device)
    config["notes"] += held_out_notes(recipe, data, seed)
    seed_everything(seed)
    training = Training(recipe, len(data.classes), len(loaders["train"]), device)
    path = Path(folder) / folder_name(recipe, data, seed)
    settings.check_recorded(path / "summary.json")
    with RunFolder(path, config) as run_folder:
        finished, state = run_folder.open(training)
        if finished:
            run = from_rank_zero(load_run, run_folder.path)  # no other process may see the folder
            report(f"{run.log}This run was finished before: loaded from {run.folder.name}.")
            return run
        if state:
            load_training(training, state, run_folder.path / "last.pt")
            report("\n".join(training.log))
            report(f"Resuming {run_folder.path.name} after epoch {training.epoch} of {recipe.epochs}.")
        training.begin_session(config, loaders["train"].sampler.count, report)
        run_folder.write_files(training)
        try:
            with open_log(run_folder.path / "tensorboard", training.history, watched) as add_to_log:
                while training.epoch < recipe.epochs:
                    training.run_epoch(loaders)
                    run_folder.save(save_training(training), training)
                    add_to_log(training.history[-1])
            run_folder.finish(training, _final_figures(training, run_folder, loaders["test"]))
        except KeyboardInterrupt as signalled:
            raise Stopped(run_folder.saved, recipe.epochs, signalled.args) from None
        return from_rank_zero(load_run, run_folder.path)


class Training:
    """Everything that changes during a run, so that it can be saved and restored as one."""

    def __init__(self, recipe: Recipe, classes: int, steps_per_epoch: int, device: Device):
        self.recipe, self.device = recipe, device
        self.model = device.place(make_model(recipe, classes))
        self.parallel = distributed.data_parallel(self.model, recipe.sync_batchnorm)
        # The network whose figures are reported: with averaged weights if the recipe averages.
        self.evaluated = copy.deepcopy(self.model) if recipe.ema_decay else self.model
        # Listed once: optimizers and checkpoints change tensors in place.
        self.weights, self.averages = _float_tensors(self.model), _float_tensors(self.evaluated)
        self.optimizer = make_optimizer(recipe, self.model)
        self.schedule = make_schedule(recipe, self.optimizer, steps_per_epoch)
        self.scaler = device.scaler()
        self.epoch = 0
        self.history: list[dict] = []  # a row per epoch
        self.steps: list[dict] = []  # a row per optimizer step
        self.log: list[str] = []
        self.sessions: list[dict] = []  # each machine, version and code that trained a part of the run
        self.report: Callable[[str], None] = lambda line: None

    def train_epoch(self, loader) -> dict:
        """Train on every batch of the loader once; return the learning rate, loss and accuracy."""
        recipe, device, model, optimizer = self.recipe, self.device, self.parallel, self.optimizer
        loss_function = distributed.mean_over_ranks(LOSSES[recipe.loss])
        loader.sampler.epoch = self.epoch
        distributed.seed_dropout_per_rank(loader.sampler.seed, self.epoch)
        model.train()
        figures = RunningFigures(recipe.loss, device)
        for images, labels in progress_bar(loader, epoch_title(self.history, recipe.epochs), show=figures):
            images, labels = to_device((images, labels), device)
            with device.autocast():
                logits = model(images)
            loss = loss_function(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(optimizer)
            self.scaler.update()
            self.average_weights()
            figures.add(logits.detach().float(), labels)
            lr = optimizer.param_groups[0]["lr"]
            self.steps.append({"step": len(self.steps), "lr": lr, "momentum": momentum_of(optimizer)})
            self.schedule.after_batch()
        distributed.broadcast_buffers(self.model, self.evaluated)
        return {"lr": lr, **figures.totals()}

    def average_weights(self) -> None:
        """Update the moving average of weights and BatchNorm statistics after a step, if the recipe has one.

        Early averages are short, so that the initial weights are forgotten: after step k (from 0) the decay is
        k / (9 + k) until that reaches the recipe's. torch's AveragedModel counts its calls in a tensor, so a GPU would
        be waited for in every step.
        """
        if self.recipe.ema_decay:
            step = len(self.steps)
            get_ema_multi_avg_fn(min(self.recipe.ema_decay, step / (9 + step)))(self.averages, self.weights, step)

    def run_epoch(self, loaders: dict) -> None:
        """Train one epoch, evaluate the other loaders, step the schedule, log all of it."""
        started = time.perf_counter()
        self.epoch += 1
        self.note(f"EPOCH: {self.epoch}")
        trained = self.train_epoch(loaders["train"])
        self.note(_line("Train", trained["loss"], trained["correct"], trained["images"]))
        row = {"epoch": self.epoch, "lr": trained["lr"], "train_loss": trained["loss"], "train_acc": trained["acc"]}
        for split in SPLITS:
            if split in loaders:
                row |= self.evaluate(split, loaders[split])[2]
        row = from_rank_zero(lambda: row)  # to the last bit, for the decisions that follow from it
        if not all(math.isfinite(value) for value in row.values()):
            kept = "epochs before are kept, so use another --runs folder" if self.epoch > 1 else "nothing was saved yet"
            raise CourseError(
                f"The loss is not finite in epoch {self.epoch}: lower the learning rate with --set, or clip gradients "
                f"with --set clip_norm=1; {kept}."
            )
        self.history.append(row | {"seconds": time.perf_counter() - started})
        if self.is_best() and self.recipe.select != "last":
            name = SPLITS[self.recipe.select.removesuffix("_acc")]
            self.note(f"{name} accuracy {row[self.recipe.select]:.2f} has increased: saving the model")
        if reduced := self.schedule.after_epoch(row):
            self.note(reduced)

    def evaluate(self, split: str, loader) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Return the logits and labels of every image, and their loss and accuracy, which are logged."""
        logits, labels = predict(self.evaluated, loader, self.device)
        loss, correct = loss_and_accuracy(logits, labels, self.recipe.loss)
        self.note(_line(SPLITS[split], loss, correct, len(labels)))
        return logits, labels, {f"{split}_loss": loss, f"{split}_acc": 100 * correct / len(labels)}

    def is_best(self) -> bool:
        """Tell whether the epoch just ended is the one to report, so far, by the recipe's rule."""
        if self.recipe.select == "last":
            return self.epoch == self.recipe.epochs
        values = [row[self.recipe.select] for row in self.history]
        return values[-1] > max(values[:-1], default=-math.inf)

    def note(self, line: str) -> None:
        self.log.append(line)
        self.report(line)

    def begin_session(self, config: dict, images: int, report: Callable[[str], None]) -> None:
        """Record what trains from here on: a run may be resumed on another machine or version."""
        self.report = report
        session = describe_session(self.device)
        if session not in self.sessions:
            self.sessions.append(session)
        if self.epoch == 0:
            title = f"{self.recipe.name} on {config['data']['name']}, seed {config['seed']}"
            for line in (f"Training {title}: {images:,} images", *(f"NOTE: {text}" for text in config["notes"])):
                self.note(line)


def _float_tensors(model: nn.Module) -> list[torch.Tensor]:
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def _line(name: str, loss: float, correct: int, images: int) -> str:
    return f"{name} set: Average loss: {loss:.4f}, Accuracy: {correct}/{images} ({100 * correct / images:.2f}%)"


def _final_figures(training: Training, folder: RunFolder, loader) -> dict:
    """Measure the reported model as `best.pt` holds it, and return the figures of the summary."""
    recipe, model, best = training.recipe, training.evaluated, folder.checkpoint("best.pt")
    load_weights(model, best, folder.path / "best.pt")
    chosen_by = "last epoch" if recipe.select == "last" else recipe.select
    training.note(f"Reported: epoch {best['epoch']} ({chosen_by})")
    logits, labels, figures = training.evaluate("test", loader)
    reported = {"epoch": best["epoch"], "chosen_by": chosen_by, **figures}
    if recipe.flip_averaging:
        both = (logits + predict(model, loader, training.device, flip=True)[0]) / 2
        reported["test_acc_flip_averaging"] = 100 * loss_and_accuracy(both, labels)[1] / len(labels)
    return {
        "recipe": recipe.name,
        "reported": reported,
        "last_epoch": {key: value for key, value in training.history[-1].items() if key != "seconds"},
        "best_test_acc": max(row["test_acc"] for row in training.history),
        "confusion_matrix": confusion_matrix(logits, labels).tolist(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": sum(row["seconds"] for row in training.history),
    }
