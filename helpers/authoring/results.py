"""The recorded runs: `results/` holds a folder for each, named as the run folder was, with its text files."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

from helpers.assignment.checklist import ASSIGNMENTS
from helpers.assignment.hand_in import NEEDED
from helpers.data import CIFAR10_FINGERPRINT, Data
from helpers.figures import galleries
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import file_digest, in_half_precision, make_folder, save_checkpoint, write_text
from helpers.plumbing.run_files import compared, write_summary
from helpers.recipes import RECIPES, Recipe, as_dict
from helpers.runs import RangeTest, Run, load_lr, load_model, load_run, swept_values
from helpers.settings import REPOSITORY

FILES = (*NEEDED, "gallery.json", "lr_find.json")


@dataclass(frozen=True)
class Results:
    """The recorded runs of each recipe, in the order of their seeds, and its range test."""

    by_recipe: dict[str, list[Run]]
    range_tests: dict[str, RangeTest]
    lost_classes: tuple[dict[str, str], ...] = ()  # rows of lost_classes.csv
    lost_classes_epoch: tuple[dict[str, str], ...] = ()  # and of lost_classes_epoch.csv

    @property
    def with_weights(self) -> list[Run]:
        """The first run with recorded weights, per recipe."""
        recorded = ([run for run in runs if "weights" in run.summary] for runs in self.by_recipe.values())
        return [runs[0] for runs in recorded if runs]


def load_results(root: Path = REPOSITORY) -> Results:
    """Read `results/`. Raises CourseError for a record that is damaged or no result, see `_checked`."""
    by_recipe, range_tests = {name: [] for name in RECIPES}, {}
    for folder in sorted(path for path in (root / "results").glob("[!._]*") if path.is_dir()):
        result = _checked(folder)
        if isinstance(result, Run):
            by_recipe[result.recipe.name].append(result)
        else:
            name = result.settings["recipe"]["name"]
            if range_tests.setdefault(name, result) is not result:
                raise CourseError(f"results/ holds two range tests of {name}: take one out.")
    for runs in by_recipe.values():
        runs.sort(key=lambda run: run.config["seed"])
    tables = (root / "results" / f"{name}.csv" for name in ("lost_classes", "lost_classes_epoch"))
    return Results(by_recipe, range_tests, *map(table_rows, tables))


def table_rows(table: Path) -> tuple[dict[str, str], ...]:
    """The rows of a CSV with headings; none if it is not there. Raises CourseError if commas do not part them."""
    rows = tuple(csv.DictReader(table.read_text(encoding="utf-8").splitlines())) if table.exists() else ()
    if any(len(row) < 2 or None in row or None in row.values() for row in rows):
        raise CourseError(f"{table} is no table with commas between its columns: put it back, for instance with git.")
    return rows


def check_data(fingerprint: str, source: object) -> None:
    """Raises CourseError for other data than the complete CIFAR-10."""
    if fingerprint != CIFAR10_FINGERPRINT:
        raise CourseError(f"{source} is not of the complete CIFAR-10, as results have to be.")


def _checked(folder: Path) -> Run | RangeTest:
    """Read a folder's result. Raises CourseError unless it is finished, of today's recipe, on the complete CIFAR-10."""
    if (folder / "lr_find.json").exists():
        result = load_lr(folder / "lr_find.json")
        settings, kept = result.settings, swept_values
    else:
        result = load_run(folder)
        result.check_finished()
        settings, kept = result.config | {"recipe": as_dict(result.recipe)}, dict
    check_data(settings["data"]["fingerprint"], folder)
    own = RECIPES.get(settings["recipe"].get("name"))
    changes = compared(kept(settings["recipe"]), kept(as_dict(own))) if own else ["none of its name"]
    if changes:
        raise CourseError(
            f"{folder} is of another recipe than helpers/recipes.py has today ({'; '.join(changes)}): train it again, "
            "or take it out of results/."
        )
    return result


def demanded_accuracy(recipe: Recipe) -> float | None:
    """The test accuracy in % that a recipe's assignment demands, as its sentence has it; None without an assignment."""
    demands = ASSIGNMENTS.get(recipe.about.assignment, [])
    numbers = [found[1] for sentence, _ in demands if (found := re.search(r"([\d.]+) % on CIFAR-10", sentence))]
    return float(numbers[0]) if numbers else None


def record(folder: Path, data: Data | None = None, root: Path = REPOSITORY) -> Path:
    """Copy the text files of a finished run or range test into `results/`, by recipe and seed. Returns their folder.

    With `data`, the complete CIFAR-10, its weights too, in half precision, with the digest of their file and the
    accuracy measured from it in `summary.json`, and the galleries that they give in `gallery.json`. What an earlier
    record of the same name held is gone. Raises CourseError if it is no result, see `_checked`.
    """
    result = _checked(folder)
    if data:
        check_data(data.fingerprint, data.name)
    run = result if isinstance(result, Run) else None
    config, end = (run.config, "") if run else (result.settings, "-lr-find")
    name, data_name = config["recipe"]["name"], config["data"].get("name", "cifar10")
    target = root / "results" / f"{name}-{data_name}-seed{config['seed']}{end}"
    if folder.resolve().parent == target.parent.resolve():
        raise CourseError(f"{folder} is recorded already: name the folder that it was trained in.")
    best = run.checkpoint("best.pt") if data and run else None
    make_folder(target)
    for file in (*FILES, "best.pt"):
        (target / file).unlink(missing_ok=True)
    for file in FILES:
        if (folder / file).exists():
            write_text(target / file, (folder / file).read_text(encoding="utf-8"))
    if run and "weights" in run.summary:  # of an earlier record, or of a hand-in
        write_summary(target, {key: value for key, value in run.summary.items() if key != "weights"})
    if best:
        _record_weights(best, target, data)
    return target


def _record_weights(best: dict, target: Path, data: Data) -> None:
    best["model"] = in_half_precision(best["model"])
    save_checkpoint(target / "best.pt", best)
    run = load_run(target)
    _, gallery = galleries.make_gallery(run, data, load_model(run))
    write_text(target / "gallery.json", json.dumps(gallery) + "\n")
    digest = file_digest(target / "best.pt")
    weights = {"precision": "float16", "sha256": digest, "test_acc": gallery["accuracy"]}
    write_summary(target, run.summary | {"weights": weights})
