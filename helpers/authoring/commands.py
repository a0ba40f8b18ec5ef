"""The commands for authors of the course: benchmark, results, notebooks, renaming."""

import argparse

from helpers import GITHUB, settings
from helpers.plumbing.errors import CourseError


def add_parsers(commands: argparse._SubParsersAction) -> None:
    bench = commands.add_parser("bench", help="measure the speed of this machine, side by side with plain loops")
    bench.add_argument("--quick", action="store_true", help="fewer rounds: about 2 minutes on 2 cores with bfloat16")
    bench.add_argument("--out", default="bench.json", metavar="FILE", help="JSON file to write (default: %(default)s)")
    report = commands.add_parser("report", help="bring the pages and their figures up to date with results/")
    report.add_argument("--check", action="store_true", help="write nothing, fail if anything does not match")
    report.add_argument("--data", metavar="D", help="the complete CIFAR-10, for figures that show images")
    record = commands.add_parser("record", help="copy finished runs into results/, as text")
    record.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run or of a range test")
    record.add_argument("--weights", action="store_true", help="record the weights too, in half precision")
    reproduce = commands.add_parser("reproduce", help="train every recipe at full length, then report; resumable")
    reproduce.add_argument("--runs", metavar="DIR", help="where run folders are made (default: runs)")
    render = commands.add_parser("render", help="execute notebooks again from the recorded runs, without training")
    render.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    for command in (record, reproduce, render):
        command.add_argument("--data", default=settings.data_source(), metavar="D", help="(default: %(default)s)")
    students = commands.add_parser(
        "students",
        help="write the students' edition: a repository of its own, without solutions and recorded runs",
    )
    students.add_argument("--out", default="student", metavar="DIR", help="its folder (default: %(default)s)")
    students.add_argument("--repo", default=f"{GITHUB}-students", metavar="OWNER/REPO",
                          help="on GitHub, where its badges and first cells lead (default: %(default)s)")  # fmt: skip
    rename = commands.add_parser("rename", help="set the name of your own GitHub repository in badges and notebooks")
    rename.add_argument("name", metavar="OWNER/REPO", help="as in github.com/OWNER/REPO, or that address")
    rename.add_argument("--title", metavar="TEXT", help="of the course: in the README, the citation and the site")
    rename.add_argument("--holder", metavar="TEXT", help="you: in the citation, and in LICENSE beside the template's")


def run_bench(options: argparse.Namespace) -> None:
    import json

    from helpers.authoring.bench import measure, table
    from helpers.plumbing.files import make_folder, write_text

    path = settings.without_tilde(options.out)
    if path.is_dir():  # "" is the current folder
        raise CourseError(f"--out has to name a file, and {path} is a folder.")
    make_folder(path.parent)  # before minutes are spent
    result = measure(options.quick)
    print(table(result))
    write_text(path, json.dumps(result, indent=2) + "\n")
    print(f"Written to {path}")


def run_report(options: argparse.Namespace) -> int:
    from helpers.authoring import report
    from helpers.data import load_data

    if options.check:
        faults = report.check()
        print("\n".join(faults or ["Pages and images/ match results/."]))
        if faults:
            print("`python -m helpers report` brings them up to date.")
        return 1 if faults else 0
    written = report.report(load_data(options.data) if options.data else None)
    names = ", ".join(str(path.relative_to(settings.REPOSITORY)) for path in written)
    print("Written:", names or "nothing, all is up to date")
    return 0


def run_record(options: argparse.Namespace) -> None:
    from helpers.authoring.results import record
    from helpers.data import load_data

    data = load_data(options.data) if options.weights else None
    for run in options.runs:
        print(f"Recorded: {record(settings.without_tilde(run), data)}")


def run_reproduce(options: argparse.Namespace) -> None:
    from helpers.authoring.reproduce import reproduce
    from helpers.data import load_data

    reproduce(load_data(options.data), settings.without_tilde(options.runs) if options.runs else settings.runs_folder())


def run_render(options: argparse.Namespace) -> None:
    from helpers.authoring.render import render

    for notebook in options.notebooks:
        render(settings.without_tilde(notebook), options.data)
        print(f"Rendered: {notebook}")


def run_rename(options: argparse.Namespace) -> None:
    from helpers.authoring.renaming import rename

    changed = rename(options.name, title=options.title, holder=options.holder)
    print("Changed:", ", ".join(map(str, changed)) or "nothing, all of it is so already")


def run_students(options: argparse.Namespace) -> None:
    from helpers.authoring.students import make_edition

    make_edition(settings.without_tilde(options.out), options.repo)
    print(f"Written: {options.out}. Its badges and first cells lead to {options.repo}, on GitHub: push it there.")


COMMANDS = {
    "bench": run_bench,
    "render": run_render,
    "report": run_report,
    "record": run_record,
    "reproduce": run_reproduce,
    "students": run_students,
    "rename": run_rename,
}
