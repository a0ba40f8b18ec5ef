"""Grades hand-ins: first whether a run's files fit together and are its own, then the assignment's demands.

Tables, log and summary are text that anyone can edit, so they are held against each other and against the weights, and
all of it against the recorded runs of this repository and the other hand-ins. Only an accuracy that is measured again
proves itself: whoever forges a checkpoint with torch can still pass off another schedule or augmentation.
"""

import ast
import contextlib
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from helpers.assignment.checklist import Demand, checklist, gallery_checklist, tolerance
from helpers.assignment.exercises import EXERCISES, find_problem
from helpers.assignment.hand_in import NEEDED, find_runs
from helpers.data import load_data
from helpers.models import make_model
from helpers.plumbing.devices import out_of_memory
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import file_digest, in_half_precision
from helpers.plumbing.progress import progress_bar
from helpers.predictions import predict_test
from helpers.runs import Run, load_model, load_run
from helpers.schedules import make_optimizer, make_schedule, replay
from helpers.settings import REPOSITORY

ADVICE = re.compile(r": (ask for|delete|fetch|it was kept|move|put|train|`)[^:]*$")  # to those who train
LOG_LINE = re.compile(r"^(?:Train|Validation|Test) set: Average loss: ([\d.]+), Accuracy: (\d+)/([1-9]\d*) ", re.M)
ASKING = ("resnet18_batchnorm", "resnet18_layernorm")  # for galleries: these assignments
load_images = lru_cache(maxsize=2)(load_data)  # a class has mostly the same images


@dataclass
class Grade:
    """The findings about one run of a hand-in, or about a hand-in without any."""

    student: str
    folder: Path | None = None
    run: Run | None = None
    unusable: str = ""  # why it cannot be graded
    problems: list[str] = field(default_factory=list)  # what does not fit
    measured: float | None = None  # test accuracy in %
    demands: list[Demand] = field(default_factory=list)
    exercises: dict[str, bool] = field(default_factory=dict)
    weights: frozenset = frozenset()  # a digest of each tensor
    losses: frozenset = frozenset()  # of every epoch; trainings share them only with one recipe and one seed

    @property
    def seed(self) -> object:
        return self.run.config["seed"] if self.run else ""

    @property
    def integrity(self) -> str:
        return self.unusable or "; ".join(self.problems) or "ok"

    @property
    def failed(self) -> list[Demand]:
        return [demand for demand in self.demands if not demand.met]

    @property
    def status(self) -> int:
        """0: all demands are met; 1: some are not, or something does not fit; 2: it cannot be graded."""
        return 2 if self.unusable else int(bool(self.problems or self.failed))


def grade(hand_ins: dict[str, list[Path]], source: str | None = None) -> list[Grade]:
    """Grade every run in every student's files, sorted by name, and measure accuracies with the images of `source`.

    Raises CourseError if there are no such images.
    """
    if source:
        load_images(source)
    grades = []
    for student, paths in progress_bar(hand_ins.items(), "Grading", unit="hand-in"):
        grades += _grade_student(student, paths, source)
    folders = sorted(path.parent for path in REPOSITORY.glob("results/*/summary.json"))
    recorded = [Grade(f"the recorded results/{folder.name}", folder) for folder in folders]
    for each in recorded:
        with contextlib.suppress(Exception):
            _open_run(each)
    for mine in grades:
        copies = {}
        for theirs in (*grades, *recorded):
            copies.setdefault(_shared(mine, theirs), []).append(theirs)
        for what in filter(None, copies):
            others = []
            for each in copies[what]:
                others.append(
                    each.student if each.seed == mine.seed else f"{each.student}, but for the seed {each.seed}"
                )
            listed = others[:4] + ([f"{len(others) - 4} others"] if len(others) > 4 else [])
            mine.problems.append(f"its {what} are those of {' and '.join(listed)}")
        mine.demands = [] if mine.problems else mine.demands  # no count of what may be another's
    return sorted(grades, key=lambda each: each.student.casefold())


def _grade_student(student: str, paths: list[Path], source: str | None) -> list[Grade]:
    with TemporaryDirectory(prefix="hand-in-", ignore_cleanup_errors=True) as scratch:
        try:
            folders, notebooks = find_runs(paths, Path(scratch))
            claims = {}
            for path in notebooks:
                for name, right in claimed_exercises(path).items():
                    claims[name] = right or claims.get(name, False)  # an unsolved copy may lie beside it
        except Exception as error:  # strangers' files can fail as anything
            return [Grade(student, unusable=str(error) or repr(error))]
        grades = [_grade_run(Grade(student, folder, exercises=claims), source) for folder in folders]
    if not grades:
        nothing = "no run, only a notebook" if notebooks else "empty: no run and no notebook in it"
        return [Grade(student, unusable=nothing, exercises=claims)]
    same = {(each.folder.name, each.seed, each.weights, each.losses): each for each in grades}  # packed twice
    return list(same.values())


def _grade_run(grade: Grade, source: str | None) -> Grade:
    try:
        _open_run(grade)
        grade.problems += contradictions(grade.run)
        if source and not grade.problems:
            _measure(grade, source)
        if not grade.problems:
            grade.demands = [*checklist(grade.run), *_galleries(grade.run)]
    except CourseError as error:
        grade.unusable = _without_advice(error, grade.folder)
    except Exception as error:  # strangers' files can fail as anything
        what = "did not fit into this machine's memory" if out_of_memory(error) else "is damaged"
        grade.unusable = f"{grade.folder.name} {what} ({error!r})"
    return grade


def _open_run(grade: Grade) -> None:
    """Read a run, and what identifies it. Raises CourseError if it is damaged."""
    missing = [name for name in NEEDED if not (grade.folder / name).exists()]
    if missing:
        raise CourseError(f"{', '.join(missing)} missing: the run was not finished, or not handed in whole")
    grade.run = load_run(grade.folder)
    grade.losses = frozenset(LOG_LINE.findall(grade.run.log))
    grade.weights = _check_weights(grade.run, grade.problems)


def _without_advice(error: CourseError, folder: Path) -> str:
    return ADVICE.sub("", str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name))


def _shared(one: Grade, other: Grade) -> str:
    """Name what the runs of two students, or of one and a recorded one, have in common."""
    if (one.student, one.seed) == (other.student, other.seed) or one.folder == other.folder:
        return ""
    pairs = {"weights": (one.weights, other.weights), "tables": (one.losses, other.losses)}
    return " and ".join(name for name, (a, b) in pairs.items() if a & b and 2 * len(a & b) >= min(len(a), len(b)))


def contradictions(run: Run) -> list[str]:
    """Name what in a run's configuration, tables, log and summary does not fit together."""
    config, summary, recipe, history = run.config, run.summary, run.recipe, run.history
    reported, data, epochs, steps = summary["reported"], config["data"], len(history["epoch"]), len(run.steps["step"])
    confusion, claimed = np.array(summary["confusion_matrix"]), reported["test_acc"]
    images, counted = confusion.sum(), 100 * confusion.trace() / max(1, confusion.sum())
    best = epochs if recipe.select == "last" else int(np.argmax(history[recipe.select])) + 1
    measured = history["test_acc"][best - 1]
    per_epoch = math.ceil((data["train_images"] - recipe.validation_images) / recipe.batch_size)
    whole = steps == per_epoch * epochs > 0
    last = {key: value for key, value in summary.get("last_epoch", {}).items() if key in history}
    splits = [split for split in ("train", "val", "test") if not np.isnan(history[f"{split}_loss"]).all()]
    rows = [(history[f"{split}_loss"][k], history[f"{split}_acc"][k]) for k in range(epochs) for split in splits]
    log = [(float(loss), 100 * int(right) / int(count)) for loss, right, count in LOG_LINE.findall(run.log)]
    title = f"{recipe.name} on {data['name']}, seed {config['seed']}"
    faults = {
        f"summary.json reports {claimed:.2f} %, its confusion matrix {counted:.2f} % of {images:,} images":
            abs(counted - claimed) > 1e-3 or images != data["test_images"],
        f"summary.json reports {claimed:.2f} %, history.csv {measured:.2f} % in epoch {best}":
            abs(measured - claimed) > tolerance(data["test_images"]),
        f"summary.json reports epoch {reported['epoch']}, which by history.csv is {best}": reported["epoch"] != best,
        "summary.json has another last epoch than history.csv":
            not _alike(list(last.values()), [history[key][-1] for key in last]),
        "summary.json has other data or another seed than config.json":
            any(summary.get(key, config[key]) != config[key] for key in ("data", "seed")),
        f"history.csv has {epochs} epochs, config.json {recipe.epochs}": epochs != recipe.epochs,
        f"train.log is not of {title}": f"Training {title}:" not in run.log,
        "train.log has other figures than history.csv and summary.json":
            not _alike(log, [*rows, (reported["test_loss"], claimed)], atol=1e-4),
        f"steps.csv has {steps:,} steps, {epochs} epochs of all images take {per_epoch * epochs:,}": not whole,
        "history.csv has other learning rates than steps.csv":
            whole and not _alike(history["lr"], run.steps["lr"][per_epoch - 1 :: per_epoch]),
        "steps.csv does not follow the schedule in config.json":
            whole and not _alike(_scheduled(run, per_epoch), [run.steps["lr"], run.steps["momentum"]]),
    }  # fmt: skip
    return [text for text, found in faults.items() if found]


def _alike(ours: object, theirs: object, atol: float = 0.0) -> bool:
    """Tell whether two tables have the same numbers, to the digits that are written."""
    return np.shape(ours) == np.shape(theirs) and np.allclose(ours, theirs, rtol=1e-6, atol=atol)


def _scheduled(run: Run, per_epoch: int) -> list[list[float]]:
    """Learning rate and momentum of every step, (2, steps), as the recipe's schedule gives them for this history."""
    optimizer = make_optimizer(run.recipe, nn.Linear(1, 1))
    schedule = make_schedule(run.recipe, optimizer, per_epoch)
    rows = [dict(zip(run.history, row, strict=True)) for row in zip(*run.history.values(), strict=True)]
    return replay(schedule, optimizer, rows, per_epoch)


def _check_weights(run: Run, problems: list[str]) -> frozenset:
    """Add what does not fit in a run's `best.pt`; return a digest of each tensor in half precision, or nothing."""
    path = run.folder / "best.pt"
    try:
        state = run.checkpoint(path.name)
    except CourseError as error:
        problems.append(_without_advice(error, run.folder))
        return frozenset()
    with torch.device("meta"):  # shapes alone
        network = make_model(run.recipe, len(run.config["data"]["classes"])).state_dict()
    weights, saved, recorded = state["model"], state.get("epoch"), run.summary.get("weights", {}).get("sha256")
    if recorded and file_digest(path) != recorded:
        problems.append("best.pt is not the file that summary.json names")
    if saved != run.summary["reported"]["epoch"]:
        problems.append(f"best.pt is of epoch {saved}, not of the reported one")
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in network.items()}:
        problems.append("best.pt holds another network than the recipe's")
        return frozenset()
    size = sum(value.numel() * value.element_size() for value in weights.values())
    if size > path.stat().st_size or not all(value.isfinite().all() for value in weights.values()):  # views may expand
        problems.append("best.pt holds numbers that are not finite, or fewer than its network has")
        return frozenset()
    halves = (value.contiguous().numpy() for value in in_half_precision(weights).values() if value.is_floating_point())
    return frozenset(hashlib.sha256(value.tobytes()).hexdigest() for value in halves)


def _galleries(run: Run) -> list[Demand]:
    """The demands on galleries, of an assignment that asks for them."""
    try:
        return gallery_checklist(run) if run.recipe.about.assignment in ASKING else []
    except CourseError:
        return [Demand("Galleries, and GradCAM of the same images", False, "gallery.json is missing or damaged")]


def _measure(grade: Grade, source: str) -> None:
    """Measure the accuracy of the saved weights, and hold it against the claimed one."""
    run, data, claimed = grade.run, load_images(source), grade.run.summary["reported"]["test_acc"]
    if run.limit < max(len(data.train), len(data.test)):
        data = load_images(source, limit=run.limit)
    if data.fingerprint != run.config["data"]["fingerprint"]:
        grade.problems.append(f"it was not trained on the images of {source}")
        return
    predictions = predict_test(run, load_model(run), data)
    grade.measured = 100 * float(np.mean(predictions.actual == predictions.predicted))
    if abs(grade.measured - claimed) > tolerance(len(predictions)):
        grade.problems.append(f"its weights reach {grade.measured:.2f} %, summary.json reports {claimed:.2f} %")


def claimed_exercises(notebook: Path) -> dict[str, bool]:
    """Tell which exercises of a notebook are solved: by their saved output, and, of a literal answer, by its check.

    Nothing in the notebook is executed. Raises CourseError if it is none.
    """
    found = {}
    try:
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            printed = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
            for name, answer in re.findall(r"""^check\(["'](\w+)["'], *(\w+)\)""", source, re.M):
                if name in EXERCISES:
                    found[name] = f"✅ {name}: right" in printed and not _wrong_literal(source, name, answer)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CourseError(f"{notebook.name} cannot be read as a notebook ({error!r})") from error
    return found


def _wrong_literal(source: str, name: str, answer: str) -> bool:
    """Tell whether the answer is a literal, used for nothing else, that the exercise's check refuses."""
    with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):  # magics, expressions
        tree = ast.parse(source)
        assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
        values = [node.value for node in assigned if getattr(node.targets[0], "id", "") == answer]
        uses = sum(getattr(node, "id", "") == answer for node in ast.walk(tree))  # a list may be appended to
        literal = values and uses == len(values) + 1
        return bool(literal and find_problem(EXERCISES[name](), ast.literal_eval(values[-1])))
    return False
