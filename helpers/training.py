"""One training loop for every recipe: resumable, logged, and as fast as the device allows."""

import copy
import math
import os
import platform
import random
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from helpers import runs, settings
from helpers.augmentation import compose, make_loader
from helpers.data import Data, stratified_split
from helpers.evaluation import LOSSES, confusion_matrix, loss_and_accuracy, predict, to_device
from helpers.models import load_weights, make_model
from helpers.plumbing import distributed
from helpers.plumbing.devices import Device, explain_failures, keep_freed_memory, pick_device
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import check_shape, save_checkpoint, write_text
from helpers.plumbing.gpu_batches import ResidentBatches, can_augment
from helpers.plumbing.progress import progress_bar
from helpers.plumbing.tensorboard_log import open_log
from helpers.recipes import Recipe
from helpers.schedules import make_schedule, momentum_of

EVALUATION_BATCH = 500
CHANGE = "by --set, or in a notebook by recipes.changed"  # how a user lowers what is too large
PROGRESS = {  # what is read of `last.pt` beside weights, states and history, see `checkpoints.check_shape`
    "epoch": int,
    "steps": [dict.fromkeys(runs.STEP_COLUMNS, float)],
    "log": [str],
    "sessions": [dict.fromkeys(("device", "precision", "torch", "python", "code"), str)],
}


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's parameters, at the schedule's first learning rate, before a warm-up.

    It clips gradients before each of its steps, so that a range test does so too. With a gradient scaler they are then
    in their own units again.
    """
    options = {"lr": recipe.schedule.lr_start, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "SGD":
        options |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
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


def make_loaders(recipe: Recipe, data: Data, seed: int, device: Device) -> dict[str, DataLoader | ResidentBatches]:
    """Loaders of "train" (augmented, shuffled), "val" if the recipe holds images out, and "test"."""
    if recipe.validation_images >= len(data.train):
        raise CourseError(
            f"validation_images={recipe.validation_images} leaves none of {len(data.train)} images to train on: "
            f"lower it, {CHANGE}."
        )
    val, train = stratified_split(data.train.labels, recipe.validation_images, seed=seed)
    if recipe.batch_size > len(train):
        raise CourseError(
            f"batch_size={recipe.batch_size} is larger than the training set ({len(train)} images): use more, or "
            f"lower batch_size{' or validation_images' * bool(len(val))}, {CHANGE}."
        )
    held_out, kept = (set(data.train.labels[part].tolist()) for part in (val, train))
    if gone := held_out - kept:
        raise CourseError(
            f"validation_images={recipe.validation_images} takes every training image of {data.classes[min(gone)]}: "
            f"lower it, {CHANGE}."
        )
    last = len(train) % recipe.batch_size or recipe.batch_size
    if recipe.sync_batchnorm and last < distributed.WORLD_SIZE:  # torch would gather values of several types
        raise CourseError(
            f"sync_batchnorm=True needs an image of every batch for each process, and the last batch has {last} for "
            f"{distributed.WORLD_SIZE}: start fewer, or change validation_images."
        )
    make = _loader_maker(recipe, data, device)
    loaders = {
        "train": make(data.train[train], batch_size=recipe.batch_size, augmentation=recipe.augmentation, seed=seed)
    }
    if len(val):
        loaders["val"] = make(data.train[val], batch_size=EVALUATION_BATCH)
    return loaders | {"test": make(data.test, batch_size=EVALUATION_BATCH)}


def _loader_maker(recipe: Recipe, data: Data, device: Device) -> Callable:
    """A GPU holds the images and augments them itself where it can; otherwise albumentations does, on the CPU."""
    statistics = {"mean": data.mean, "std": data.std}
    if device.device.type != "cuda":
        return partial(make_loader, **statistics)  # no workers: the cores are busy anyway
    compose(recipe.augmentation, data.mean)  # refuses what albumentations refuses, whose transforms these are
    if can_augment(recipe.augmentation):
        return partial(ResidentBatches, device=device.device, **statistics)
    return partial(make_loader, workers=min(8, os.cpu_count() or 1), pin_memory=True, **statistics)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
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


def run_folder(folder: Path, recipe: Recipe, data: Data, seed: int) -> Path:
    return Path(folder) / f"{recipe.name}-{data.name}-seed{seed}"


@explain_failures
def train(
    recipe: Recipe, data: Data, folder: Path, *, seed: int = 0, report: Callable[[str], None] = print
) -> runs.Run:
    """Train `recipe` on `data` in a run folder under `folder`; resume it, or load it if it is finished.

    `report` gets the lines of the log. Raises CourseError for what the user can mend, among it a run
    folder that holds another configuration or that another process trains in, a loss that is no longer
    finite, and memory that does not suffice.
    """
    data = data.normalised_by(recipe)
    config = runs.configuration(recipe, data.describe(), seed)
    watched = settings.tensorboard() and distributed.RANK == 0  # refused, if at all, before a folder is made
    device = pick_device()
    keep_freed_memory()
    loaders = make_loaders(recipe, data, seed, device)
    seed_everything(seed)
    training = Training(recipe, len(data.classes), len(loaders["train"]), device)
    folder = run_folder(folder, recipe, data, seed)
    with ExitStack() as lock:
        distributed.from_first(lambda: lock.enter_context(runs.locked(folder)))
        return _train(folder, config, training, loaders, report, watched)


def _train(
    folder: Path, config: dict, training: "Training", loaders: dict, report: Callable[[str], None], watched: bool
) -> runs.Run:
    recipe = training.recipe
    finished, state = distributed.from_first(_open, folder, config, training)
    if finished:
        report(f"{finished.log}This run was finished before: loaded from {folder.name}.")
        return finished
    if state:
        training.load_state_dict(state, folder / "last.pt")
        report("\n".join((*training.log, f"Resuming {folder.name} after epoch {training.epoch} of {recipe.epochs}.")))
    training.note_session()

    def log(line: str) -> None:
        training.log.append(line)
        report(line)

    if training.epoch == 0:
        images = f"{loaders['train'].sampler.count:,} images"
        log(f"Training {recipe.name} on {config['data']['name']}, seed {config['seed']}: {images}")
        for note in config["notes"]:
            log(f"NOTE: {note}")
    distributed.from_first(_write_tables, folder, training)  # after an interruption they may be older than last.pt
    with open_log(folder / "tensorboard", training.history) if watched else nullcontext(lambda row: None) as watch:
        while training.epoch < recipe.epochs:
            training.run_epoch(loaders, log)
            distributed.from_first(_save, folder, config, training)
            watch(training.history[-1])
    summary = _summary(folder, config, training, loaders["test"], log)
    return distributed.from_first(_finish, folder, training, summary)


# Of several processes, the first alone calls these four: no other touches the run folder, which it may not even see.


def _open(folder: Path, config: dict, training: "Training") -> tuple[runs.Run | None, dict | None]:
    """The run if it is finished, and otherwise the state to go on from, if there is one."""
    begun = runs.open_folder(folder, config)
    if (folder / "summary.json").exists():
        try:
            return runs.load_run(folder), None
        except CourseError:  # a file is damaged or gone, which the checkpoint can make again
            if not (folder / "last.pt").exists():
                raise
    if not begun:
        return None, None
    if training.recipe.select != "last":  # the end needs it: if it is damaged, that is found now and not after hours
        load_weights(training.evaluated, runs.load_own_checkpoint(folder / "best.pt", config), folder / "best.pt")
    return None, runs.load_own_checkpoint(folder / "last.pt", config)


def _save(folder: Path, config: dict, training: "Training") -> None:
    # best.pt first: killed between the two, the run repeats this epoch and writes the same again.
    if training.is_best():
        best = {"model": training.evaluated.state_dict(), "epoch": training.epoch, "config": config}
        save_checkpoint(folder / "best.pt", best)
    save_checkpoint(folder / "last.pt", training.state_dict() | {"config": config})
    _write_tables(folder, training)


def _write_tables(folder: Path, training: "Training") -> None:
    write_text(folder / "history.csv", runs.to_csv(runs.HISTORY_COLUMNS, training.history))
    write_text(folder / "steps.csv", runs.to_csv(runs.STEP_COLUMNS, training.steps))
    write_text(folder / "train.log", "\n".join(training.log) + "\n")


def _finish(folder: Path, training: "Training", summary: dict) -> runs.Run:
    _write_tables(folder, training)
    runs.write_summary(folder, summary)
    return runs.load_run(folder)


class Training:
    """Everything that changes during a run, so that it can be saved and restored as one."""

    def __init__(self, recipe: Recipe, classes: int, steps_per_epoch: int, device: Device):
        self.recipe, self.device = recipe, device
        torch.backends.cudnn.benchmark = True  # thousands of steps of one shape should repay the search; not measured
        model = make_model(recipe, classes)
        if recipe.sync_batchnorm:
            model = distributed.with_synchronised_batchnorm(model)
        self.model = device.place(model)
        self.parallel = distributed.parallel(self.model)
        self.averaged = copy.deepcopy(self.model) if recipe.ema_decay else None
        # What is averaged, and what from. Listed once: optimizers and checkpoints change tensors in place.
        self.averages, self.currents = (
            [value for value in model.state_dict().values() if value.is_floating_point()]
            for model in (self.evaluated, self.model)
        )
        self.optimizer = make_optimizer(recipe, self.model)
        self.schedule = make_schedule(recipe, self.optimizer, steps_per_epoch)
        self.scaler = device.scaler()
        self.epoch = 0
        self.history: list[dict] = []
        self.steps: list[dict] = []
        self.log: list[str] = []
        self.sessions: list[dict] = []  # each machine, version and code that trained a part of the run

    @property
    def evaluated(self) -> nn.Module:
        """The network whose figures are reported: the averaged one if the recipe averages."""
        return self.model if self.averaged is None else self.averaged

    def state_dict(self) -> dict:
        return {
            "model": self.evaluated.state_dict(),
            "trained_model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random_states": random_states(),
            "epoch": self.epoch,
            "history": self.history,
            "steps": self.steps,
            "log": self.log,
            "sessions": self.sessions,
        }

    def load_state_dict(self, state: dict, path: Path) -> None:
        measured = (n for n in runs.HISTORY_COLUMNS if self.recipe.validation_images or not n.startswith("val_"))
        shape = PROGRESS | {"history": [dict.fromkeys(measured, float)]}
        try:
            # What is used later, too: a wrong type is found while nothing is written yet.
            check_shape(state, shape)
            parts = ("optimizer", "schedule", "scaler")
            if not all(_alike(getattr(self, part).state_dict(), state[part]) for part in parts):
                raise ValueError("its optimizer, schedule or scaler has values of other types")
            self.model.load_state_dict(state["trained_model"])
            self.evaluated.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if state["scaler"]:  # empty from a device that needs no loss scaling
                self.scaler.load_state_dict(state["scaler"])
            restore_random_states(state["random_states"])
            self.epoch, self.history, self.steps = state["epoch"], state["history"], state["steps"]
            self.log, self.sessions = state["log"], state["sessions"]
            for parameter, kept in self.optimizer.state.items():
                if not all(tensor is None or tensor.shape in ((), parameter.shape) for tensor in kept.values()):
                    raise ValueError("the optimizer's state is of other weights")
            if not len(self.history) == self.epoch <= self.recipe.epochs or not self.sessions:
                raise ValueError(f"{len(self.history)} rows of history in epoch {self.epoch}")
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise CourseError(
                f"{path} belongs to another network or version ({(str(error) or repr(error)).splitlines()[0]}): it "
                "was kept as it is; move its folder away to train afresh."
            ) from error

    def run_epoch(self, loaders: dict, log: Callable[[str], None]) -> None:
        """One epoch of training, then an evaluation of every other loader."""
        started = time.perf_counter()
        self.epoch += 1
        log(f"EPOCH: {self.epoch}")
        row = {"epoch": self.epoch, **self.train_epoch(loaders["train"])}
        log(_line("Train", row["train_loss"], row.pop("correct"), row.pop("images")))
        for name in ("val", "test"):
            if name in loaders:
                logits, labels = predict(self.evaluated, loaders[name], self.device)
                loss, correct = loss_and_accuracy(logits, labels, self.recipe.loss)
                row |= {f"{name}_loss": loss, f"{name}_acc": 100 * correct / len(labels)}
                log(_line({"val": "Validation", "test": "Test"}[name], loss, correct, len(labels)))
        row = distributed.from_first(lambda: row)  # to the last bit, for the decisions that follow from it
        if not all(math.isfinite(value) for value in row.values()):
            self._stop("after the last step")  # its update was too large, which only the evaluation shows
        self.history.append(row | {"seconds": time.perf_counter() - started})
        if self.is_best() and self.recipe.select != "last":
            name = {"val_acc": "Validation", "test_acc": "Test"}[self.recipe.select]
            log(f"{name} accuracy {row[self.recipe.select]:.2f} has increased: saving the model")
        reduced = self.schedule.after_epoch(row)
        if reduced:
            log(reduced)

    def train_epoch(self, loader: DataLoader | ResidentBatches) -> dict:
        recipe, loss_function = self.recipe, LOSSES[self.recipe.loss]
        loader.sampler.epoch = self.epoch
        distributed.draw_apart(loader.sampler.seed, self.epoch)
        self.model.train()
        # Sums stay on the device: reading them would make the host wait for every step.
        loss_sum = torch.zeros((), device=self.device.device, dtype=torch.float64)
        correct = torch.zeros((), device=self.device.device, dtype=torch.int64)
        finite = torch.ones((), device=self.device.device, dtype=torch.bool)
        good_steps = torch.zeros((), device=self.device.device, dtype=torch.int64)
        images_seen, read = 0, time.perf_counter()
        with progress_bar(loader, f"Epoch {self.epoch}/{recipe.epochs}") as bar:
            for batch_id, batch in enumerate(bar):
                images, labels = to_device(batch, self.device)
                count = len(labels)  # of the batch; images and labels are this process's share from here on
                labels = labels[distributed.share(count)]
                with self.device.autocast():
                    logits = self.parallel(images)
                logits = logits.float()
                mean_loss = partial(distributed.batch_mean, loss_function, logits, labels, count)
                loss = mean_loss(label_smoothing=recipe.label_smoothing)
                self.optimizer.zero_grad()
                self.scaler.scale(loss).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
                if self.averaged is not None:
                    self.average()
                with torch.no_grad():
                    # Without smoothing, so that the curves of train and test can be compared.
                    plain = mean_loss() if recipe.label_smoothing else loss
                    loss_sum += plain.detach() * (count / distributed.WORLD_SIZE)
                    correct += (logits.argmax(dim=1) == labels).sum()
                    finite &= loss.isfinite()
                    good_steps += finite
                images_seen += len(labels)
                lr = self.optimizer.param_groups[0]["lr"]
                self.steps.append({"step": len(self.steps), "lr": lr, "momentum": momentum_of(self.optimizer)})
                self.schedule.after_batch()
                if not bar.disable and time.perf_counter() - read > 0.5:
                    read = time.perf_counter()
                    loss_so_far, accuracy = loss_sum.item() / images_seen, 100 * correct.item() / images_seen
                    bar.set_postfix_str(
                        f"Loss={loss_so_far:.4f} Batch_id={batch_id} LR={lr:.5f} Accuracy={accuracy:.2f}", refresh=False
                    )
        distributed.same_buffers(self.model, self.evaluated)
        figures = distributed.gathered((loss_sum.item(), correct.item(), images_seen, good_steps.item()))
        loss_sums, corrects, counts, good_steps = zip(*figures, strict=True)
        if min(good_steps) < len(loader):
            self._stop(f"in step {min(good_steps) + 1} of {len(loader)}")
        correct, images_seen = sum(corrects), sum(counts)
        return {
            "lr": lr,
            "train_loss": sum(loss_sums) / images_seen,
            "train_acc": 100 * correct / images_seen,
            "correct": correct,
            "images": images_seen,
        }

    def _stop(self, place: str) -> None:
        kept = "the checkpoint of the epoch before is kept" if self.epoch > 1 else "nothing was saved yet"
        raise CourseError(
            f"The loss is not finite in epoch {self.epoch}, {place}: lower the learning rate with --set, or clip "
            f"gradients with --set clip_norm=1; {kept}."
        )

    def average(self) -> None:
        """Exponential moving average of weights and BatchNorm statistics, to be taken after a step.

        It is short at first, so that it does not hold on to the initial weights: after step k (from 0) the decay
        is k / (9 + k) until that reaches the recipe's. torch's AveragedModel counts its calls in a tensor, for which a
        GPU would be waited for in every step.
        """
        step = len(self.steps)
        get_ema_multi_avg_fn(min(self.recipe.ema_decay, step / (9 + step)))(self.averages, self.currents, step)

    def note_session(self) -> None:
        """Record what trains from here on: a run may be resumed on another machine or version."""
        device = self.device
        session = {"device": device.name, "precision": device.precision, "torch": str(torch.__version__)}
        session |= {"python": platform.python_version(), "code": runs.code_version()}
        if session not in self.sessions:
            self.sessions.append(session)

    def is_best(self) -> bool:
        """Whether the epoch just ended is the one to report, so far, by the recipe's rule."""
        if self.recipe.select == "last":
            return self.epoch == self.recipe.epochs
        values = [row[self.recipe.select] for row in self.history]
        return values[-1] > max(values[:-1], default=-math.inf)


def _alike(fresh: object, loaded: object) -> bool:
    """Whether a loaded state has values of the same types as a fresh one, where both have any."""
    if isinstance(fresh, dict) and isinstance(loaded, dict):
        return all(_alike(value, loaded[key]) for key, value in fresh.items() if key in loaded)
    if isinstance(fresh, list | tuple) and isinstance(loaded, list | tuple):
        return len(fresh) == len(loaded) and all(map(_alike, fresh, loaded))
    numbers = isinstance(fresh, int | float) and isinstance(loaded, int | float)
    return fresh is None or numbers or type(fresh) is type(loaded)


def _line(name: str, loss: float, correct: int, images: int) -> str:
    return f"{name} set: Average loss: {loss:.4f}, Accuracy: {correct}/{images} ({100 * correct / images:.2f}%)"


def _summary(folder: Path, config: dict, training: Training, loader: DataLoader, log: Callable[[str], None]) -> dict:
    """The final figures, measured on the reported model as `best.pt` holds it."""
    path, model = folder / "best.pt", training.evaluated
    best = distributed.from_first(runs.load_own_checkpoint, path, config)
    load_weights(model, best, path)
    logits, labels = predict(model, loader, training.device)
    loss, correct = loss_and_accuracy(logits, labels, training.recipe.loss)
    chosen_by = "last epoch" if training.recipe.select == "last" else training.recipe.select
    log(f"Reported: epoch {best['epoch']} ({chosen_by})")
    log(_line("Test", loss, correct, len(labels)))
    flipped = {}
    if training.recipe.flip_averaging:
        both = (logits + predict(model, loader, training.device, flip=True)[0]) / 2
        flipped = {"test_acc_flip_averaging": 100 * loss_and_accuracy(both, labels)[1] / len(labels)}
    return {
        "recipe": training.recipe.name,
        "reported": {
            "epoch": best["epoch"],
            "chosen_by": chosen_by,
            "test_loss": loss,
            "test_acc": 100 * correct / len(labels),
            **flipped,
        },
        "last_epoch": {key: value for key, value in training.history[-1].items() if key != "seconds"},
        "best_test_acc": max(row["test_acc"] for row in training.history),
        "confusion_matrix": confusion_matrix(logits, labels).tolist(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": sum(row["seconds"] for row in training.history),
        **{key: " and ".join(dict.fromkeys(s[key] for s in training.sessions)) for key in training.sessions[0]},
        "data": config["data"],
        "seed": config["seed"],
        "notes": config["notes"],
    }
