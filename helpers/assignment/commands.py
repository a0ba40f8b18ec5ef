"""The commands that hand in a run and grade hand-ins: `python -m helpers hand-in` and `check`."""

import argparse
import csv
import io
import itertools
import os
from pathlib import Path

from helpers import settings
from helpers.plumbing.errors import CourseError, printable

CLAIMED = "exercises solved, as the notebook's saved outputs claim"


def add_parsers(commands: argparse._SubParsersAction) -> None:
    hand_in = commands.add_parser(
        "hand-in",
        help="pack a finished run into one zip, to be handed in",
        description="Write one zip with a run's tables, log, configuration, weights in half precision and range test. "
        "Nothing in it names your machine but the device that trained.",
    )
    hand_in.add_argument("run", metavar="RUN", help="a run folder, or its name among the runs")
    hand_in.add_argument("--runs", metavar="DIR", help="where run folders are (default: runs)")
    hand_in.add_argument("--out", metavar="FILE", help="(default: the run's name with .zip, in the current folder)")
    hand_in.add_argument("--notebook", metavar="FILE", help="a notebook to hand in with it")
    check = commands.add_parser(
        "check",
        help="grade runs and hand-ins by the assignment's demands",
        description="For each hand-in, a zip or a folder: whether its files fit together and are no one else's, the "
        "demands of the assignment that it meets, and the exercises that its notebook's saved outputs claim to be "
        "solved (nothing in it is executed). Status 0: all demands are met; 1: some are not, or something does not "
        "fit; 2: something cannot be graded.",
    )
    check.add_argument(
        "files", nargs="+", metavar="FILE", help="a hand-in's zip or folder, a folder of several, a run, or its name"
    )
    check.add_argument("--runs", metavar="DIR", help="where run folders are (default: runs)")
    check.add_argument("--data", metavar="D", help="the images of the runs: measure their accuracy again")
    check.add_argument("--csv", metavar="FILE", help="write a table for a spreadsheet, too")


def run_hand_in(options: argparse.Namespace) -> None:
    from helpers.assignment.hand_in import pack

    folder = Path(os.path.abspath(settings.named_run(options.run, options.runs)))
    out = settings.without_tilde(options.out or f"{folder.name}.zip")
    pack(folder, out, settings.without_tilde(options.notebook) if options.notebook else None)
    print(f"Written: {out} ({out.stat().st_size / 1e6:.1f} MB)")


def run_check(options: argparse.Namespace) -> int:
    from helpers.assignment.grading import grade
    from helpers.assignment.hand_in import KNOWN, skipped
    from helpers.plumbing.files import write_text

    paths = [Path(os.path.abspath(settings.named_run(name, options.runs))) for name in options.files]
    paths = [path.parent if path.name in KNOWN else path for path in paths]  # a file named for its run folder
    if len(paths) == 1 and paths[0].is_dir() and _may_be_hand_in(paths[0]):
        children = sorted(path for path in paths[0].iterdir() if not skipped(path.name))
        children = [path for path in children if path.is_dir() or path.suffix.lower() in (".zip", ".ipynb")]
        zips = sum(path.suffix.lower() == ".zip" for path in children)
        if zips > 1 or (len(children) > 1 and all(map(_may_be_hand_in, children))):  # a folder of several hand-ins
            paths = children
    range_tests = [path for path in paths if (path / "lr_find.json").exists() and not (path / "config.json").exists()]
    runs = [path for path in paths if path not in range_tests]  # these are looked at with their runs
    if not runs:
        raise CourseError(f"{paths[0]} is a range test: name the folder of the run beside it.")
    table = settings.without_tilde(options.csv) if options.csv else None
    if table and (table.suffix.lower() != ".csv" or table.is_dir() or not table.absolute().parent.is_dir()):
        raise CourseError(f"--csv has to name a file that ends in .csv, in a folder that is there, not {table}.")
    grades = grade(_by_student(runs), options.data)
    if len(grades) == 1 and grades[0].demands:
        run = grades[0].run
        head = [run.title, *(f"NOTE: {note}" for note in run.config["notes"])]
        print("\n".join([*map(printable, head), *map(str, grades[0].demands), ""]))
    rows = [_row(each) for each in grades]
    print(_table(grades, rows))
    if table:
        write_text(table, _as_csv(rows))
        print(f"Written: {table}")
    return max(each.status for each in grades)


def _may_be_hand_in(path: Path) -> bool:
    """Tell whether it is a zip, or a folder that is no run or range test itself."""
    if path.is_dir():
        return not any((path / name).exists() for name in ("config.json", "lr_find.json"))
    return path.suffix.lower() == ".zip"


def _by_student(paths: list[Path]) -> dict[str, list[Path]]:
    """Group paths by name; names that collide get as many parent folders in front as tell them apart."""
    groups = {}
    for path in paths:
        name = path.stem if path.is_file() and path.suffix.lower() in (".zip", ".ipynb") else path.name
        groups.setdefault((*path.parts[:-1], name), []).append(path)
    for depth in itertools.count(1):
        named = {"/".join(parts[-depth:]): files for parts, files in groups.items()}
        if len(named) == len(groups):
            return named


def _row(grade) -> dict[str, object]:
    """The findings about a run, by the headings of the CSV; a heading for each demand."""
    run, counts = grade.run, bool(grade.demands)
    return {
        "student": grade.student,
        "recipe": run.recipe.name if run else "",
        "seed": grade.seed,
        "integrity": grade.integrity,
        "accuracy claimed": run.summary["reported"]["test_acc"] if run else "",
        "accuracy measured": "" if grade.measured is None else grade.measured,
        "demands met": len(grade.demands) - len(grade.failed) if counts else "",
        "demands": len(grade.demands) if counts else "",
        **{demand.text: "yes" if demand.met else "no" for demand in grade.demands},
        CLAIMED: sum(grade.exercises.values()) if grade.exercises else "",
        "exercises in it": len(grade.exercises) or "",
        "failed demands": "; ".join(demand.text for demand in grade.failed),
    }


def _as_csv(rows: list[dict]) -> str:
    """A table in UTF-8, with the mark by which spreadsheets know it, and the headings of all rows.

    Text that begins like a formula gets an apostrophe: names come from strangers.
    """
    headings = dict.fromkeys([*(key for row in rows for key in [*row][:-3]), *[*rows[0]][-3:]])
    out = io.StringIO()
    writer = csv.DictWriter(out, headings, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        texts = {key: printable(value) for key, value in row.items() if isinstance(value, str)}
        safe = {key: f"'{text}" if text.startswith(("=", "+", "-", "@")) else text for key, text in texts.items()}
        writer.writerow(row | safe)
    return "\ufeff" + out.getvalue()


def _table(grades: list, rows: list[dict]) -> str:
    """A line for each run, and below it what does not fit or is not met. Doubtful figures are not shown."""
    # Names come from strangers: printable, so that they neither steer a terminal nor add lines.
    lines, cells = [], [("hand-in", "recipe", "seed", "", "accuracy", "demands", "exercises")]
    for each, row in zip(grades, rows, strict=True):
        verdict = "UNUSABLE" if each.unusable else "DOUBTFUL" if each.problems else "FAIL" if each.failed else "pass"
        accuracy = row["accuracy claimed"] if each.measured is None and each.demands else row["accuracy measured"]
        counts = [f"{row[key]} of {row[total]}" if row[total] else ""
                  for key, total in (("demands met", "demands"), (CLAIMED, "exercises in it"))]  # fmt: skip
        figures = f"{accuracy:.2f} %" if accuracy != "" else ""
        cells.append((printable(each.student), row["recipe"], str(row["seed"]), verdict, figures, *counts))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line, each in zip(cells, (None, *grades), strict=True):
        lines.append("  ".join(map(str.ljust, line, widths)).rstrip())
        if each:
            lines += [f"    {text}" for text in ([each.unusable] if each.unusable else each.problems)]
            lines += [f"    ❌ {demand.text}: {demand.evidence}" for demand in each.failed]
    return "\n".join(map(printable, lines))


COMMANDS = {"hand-in": run_hand_in, "check": run_check}
