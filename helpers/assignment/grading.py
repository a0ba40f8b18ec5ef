"""Grades run folders: do their files agree with the weights, and are the assignment's demands met?

Config, tables and summary are text that anyone can edit, so they are held against the checkpoints, which hold the same
once more; and every line says what it was seen in. Only weights, and what is measured again with them, prove something
by themselves. Whoever forges a checkpoint with torch can still pass off another schedule or augmentation.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from helpers.assignment.checklist import NETWORK_DEMANDS, Demand, assignment, checklist, gallery_checklist, tolerance
from helpers.data import Data, load_data
from helpers.galleries import predict_test
from helpers.plumbing.errors import CourseError
from helpers.plumbing.run_folder import HISTORY_COLUMNS, STEP_COLUMNS, from_csv, to_csv
from helpers.runs import Run, load_model, load_run

WEIGHTS, RECORDED, AGREED, MEASURED = "fits the saved weights", "recorded only", "recorded twice", "measured again"


@dataclass(frozen=True)
class Grade:
    """The demands on a run, each with what its evidence was seen in."""

    run: Run
    demands: list[tuple[Demand, str]]

    @property
    def passed(self) -> bool:
        return all(demand.met for demand, _ in self.demands)

    def __str__(self) -> str:
        head = (f"{self.run.folder}: {self.run.title}", *(f"NOTE: {note}" for note in self.run.config["notes"]))
        return "\n".join((*head, *(f"{demand} [{seen}]" for demand, seen in self.demands)))

    @property
    def line(self) -> str:
        """For a list of many runs."""
        met = f"{sum(demand.met for demand, _ in self.demands)} of {len(self.demands)} demands"
        reported = f"{assignment(self.run.recipe)}, {self.run.summary['reported']['test_acc']:.2f} %"
        return f"{'pass' if self.passed else 'FAIL':<8} {met}, {reported}: {self.run.folder}"


def grade(folder: Path, source: str | None = None) -> Grade:
    """Check a finished run; with the source of its images, as `--data` names it, its accuracy is measured again.

    Raises CourseError for a folder that cannot be graded.
    """
    run = load_run(folder)
    run.check_finished()
    data = _images(source, run.limit) if source else None
    try:
        saved = [(_weights(run), WEIGHTS), (_tables(run), AGREED), (_steps(run), RECORDED), (_reported(run), RECORDED)]
        network = WEIGHTS if saved[0][0].met else RECORDED
        demands = [(d, RECORDED if k >= NETWORK_DEMANDS else network) for k, d in enumerate(checklist(run))]
        demands += [(demand, RECORDED) for demand in _galleries(run)]
        return Grade(run, saved + demands + ([(_measured(run, data), MEASURED)] if data else []))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CourseError(f"The run folder {folder} is damaged ({error!r}): ask for the complete one.") from error


@lru_cache(maxsize=1)  # the runs of a class are mostly of the same images
def _images(source: str, limit: int) -> Data:
    return load_data(source, limit=limit)


def _weights(run: Run) -> Demand:
    text, epoch = "best.pt holds the weights of the recipe's network, of the epoch that is reported", None
    try:
        model = load_model(run)  # its network is the recipe's, its configuration this run's
        epoch = run.checkpoint("best.pt").get("epoch")
    except CourseError as error:
        return Demand(text, False, str(error))
    count = sum(weight.numel() for weight in model.parameters())
    return Demand(text, epoch == run.summary["reported"]["epoch"], f"{count:,} weights, saved after epoch {epoch}")


def _tables(run: Run) -> Demand:
    text = "history.csv, steps.csv and train.log are those of last.pt"
    try:
        state = run.checkpoint("last.pt")
    except CourseError as error:
        return Demand(text, False, str(error))
    tables = {
        "history.csv": (run.history, from_csv(to_csv(HISTORY_COLUMNS, state["history"]), HISTORY_COLUMNS)),
        "steps.csv": (run.steps, from_csv(to_csv(STEP_COLUMNS, state["steps"]), STEP_COLUMNS)),
    }
    same = {
        name: all(np.array_equal(ours[key], theirs[key], equal_nan=True) for key in theirs)
        for name, (ours, theirs) in tables.items()
    }
    same["train.log"] = run.log.startswith("\n".join(state["log"]))
    other = [name for name, equal in same.items() if not equal]
    evidence = f"{' and '.join(other)} differ" if other else f"{len(state['steps']):,} steps, {state['epoch']} epochs"
    return Demand(text, not other, evidence)


def _steps(run: Run) -> Demand:
    recipe, epochs, steps = run.recipe, len(run.history["epoch"]), len(run.steps["step"])
    images = run.config["data"]["train_images"] - recipe.validation_images
    wanted = epochs * math.ceil(images / recipe.batch_size)
    evidence = (
        f"{steps:,} steps; {epochs} epochs of {images:,} images in batches of {recipe.batch_size} take {wanted:,}"
    )
    return Demand("Every epoch has all the training images", steps == wanted > 0, evidence)


def _reported(run: Run) -> Demand:
    reported, confusion = run.summary["reported"], np.array(run.summary["confusion_matrix"])
    images, counted = run.config["data"]["test_images"], 100 * confusion.trace() / confusion.sum()
    of_epoch = run.history["test_acc"][reported["epoch"] - 1]
    evidence = f"summary {reported['test_acc']:.2f} %, confusion matrix {counted:.2f} %, history {of_epoch:.2f} %"
    same = confusion.sum() == images and np.ptp([reported["test_acc"], counted, of_epoch]) <= tolerance(images)
    return Demand("The reported accuracy is that of its epoch, over all test images", bool(same), evidence)


def _galleries(run: Run) -> list[Demand]:
    """The two assignments of ResNet18 ask for them."""
    if assignment(run.recipe) == "custom_resnet":
        return []
    try:
        return gallery_checklist(run)
    except CourseError as error:
        return [Demand("Galleries, and GradCAM of the same images", False, str(error))]


def _measured(run: Run, data: Data) -> Demand:
    text = "The saved network has the reported accuracy"
    try:
        predictions = predict_test(run, load_model(run), data)
    except CourseError as error:
        return Demand(text, False, str(error))
    accuracy, reported = 100 * np.mean(predictions.actual == predictions.predicted), run.summary["reported"]["test_acc"]
    evidence = f"{accuracy:.2f} % of {len(predictions):,} test images; the run reports {reported:.2f} %"
    return Demand(text, bool(abs(accuracy - reported) <= tolerance(len(predictions))), evidence)
