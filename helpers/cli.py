"""The command line: `python -m helpers ...`."""

import argparse
import ast
import os
import shlex
import signal
import sys
from pathlib import Path

from helpers import recipes, settings
from helpers.assignment import commands as assignment
from helpers.plumbing import distributed
from helpers.plumbing.errors import CourseError

GROUPS = [assignment]
if not settings.INSTALLED and Path(__file__).with_name("authoring").is_dir():  # the students' edition is without it
    from helpers.authoring import commands as authoring

    GROUPS.append(authoring)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers", description="Train the networks of the CIFAR-10 course and look at them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    lr_find = commands.add_parser("lr-find", help="find LRMIN and LRMAX of a recipe with a learning rate range test")
    train = commands.add_parser(
        "train",
        help="train a recipe: starts, resumes, or loads a finished run",
        description="Train a recipe in RUNS/<recipe>-<data>-seed<N>/. The same command again resumes the run, "
        "or loads it if it is finished.",
    )
    for command in (lr_find, train):
        add = command.add_argument
        add("recipe", metavar="RECIPE", help="one of: " + ", ".join(recipes.RECIPES))
        add("--data", default=settings.data_source(), metavar="D",
            help="cifar10, cifar100, fashionmnist or svhn (downloaded), synthetic (drawn, no network), or a folder "
            "with train/<class>/* and test/<class>/* (or val/) images (default: %(default)s)")  # fmt: skip
        add("--runs", metavar="DIR", help="where run folders are made (default: runs, or runs/fast with --fast)")
        add("--seed", type=int, default=0, metavar="N", help="of all randomness (default: 0)")
        add("--limit", type=int, metavar="N", help="use only N training images, and N test images at most")
        add("--fast", action="store_true", default=settings.fast(),
            help="a narrow network on little data, to see that everything works; no result")  # fmt: skip
        add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
            help="change values of the recipe, for instance lr_max=0.2")  # fmt: skip
    lr_find.add_argument("--steps", type=int, metavar="N", help="points of the sweep (default: 100, or 40 with --fast)")
    train.add_argument("--epochs", type=int, metavar="N", help="train N epochs, the schedule stretched to them")
    gallery = commands.add_parser(
        "gallery",
        help="show what a finished run got right and wrong, with GradCAM",
        description="Write galleries of correct and misclassified test images, with GradCAM heatmaps, into the folder "
        "of a finished run.",
    )
    add = gallery.add_argument
    add("run", metavar="RUN", help="a run folder, or its name among the runs")
    add("--runs", metavar="DIR", help="where run folders are (default: runs, or runs/fast with COURSE_FAST)")
    add("--data", metavar="D", help="the data of the run (default: COURSE_DATA, or the collection of the run's name)")
    add("--count", type=int, metavar="N", help="how many images of each kind (default: 20, for BatchNorm 25)")
    for group in GROUPS:
        group.add_parsers(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    with distributed.muted(errors=True):
        options = build_parser().parse_args(arguments)
    try:
        if distributed.WORLD_SIZE > 1 and options.command != "train":
            raise CourseError(f"torchrun is for `train`: start `python -m helpers {options.command}` without it.")
        return COMMANDS[options.command](options) or 0
    except KeyboardInterrupt as signalled:
        text = "\nInterrupted. A training goes on after its last finished epoch with the same command."
        print(text, file=sys.stderr)
        return 128 + (signalled.args[0] if signalled.args else signal.SIGINT)  # 130 or 143, as shells count
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered
        return 141  # 128 + SIGPIPE, which Windows lacks
    except (CourseError, OSError) as error:  # the second names the file
        print(f"Error: {error}", file=sys.stderr)
        return 2


def parse_assignments(texts: list[str]) -> dict[str, object]:
    """`["lr_max=0.2", "loss=cross_entropy"]` as a dict; values are Python literals, or else words."""
    assignments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise CourseError(f"--set takes name=value, for instance lr_max=0.2, not {text!r}.")
        try:
            assignments[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply
            assignments[key.strip()] = value.strip()
    return assignments


def _prepare(options: argparse.Namespace) -> tuple:
    """Return recipe, data and folder of the runs of both commands. Recipe and seed are checked before data is read."""
    recipe = recipes.get_recipe(options.recipe, fast=options.fast)
    if getattr(options, "epochs", None) is not None:
        recipe = recipes.with_epochs(recipe, options.epochs)
    recipe = recipes.changed(recipe, parse_assignments(options.set))
    runs = settings.without_tilde(options.runs) if options.runs else settings.runs_folder(options.fast)

    from helpers.data import load_data
    from helpers.plumbing.run_files import checked_seed

    checked_seed(options.seed)
    limit = recipes.FAST_LIMIT if options.fast and options.limit is None else options.limit
    data = load_data(options.data, limit=limit)
    images = len(data.train) - recipe.validation_images
    if (options.fast or options.command == "lr-find") and 0 < images < recipe.batch_size:  # noted as a change
        options.set = [*options.set, f"batch_size={images}"]  # in the command that lr-find prints for `train`, too
        recipe = recipes.changed(recipe, {"batch_size": images})
    return recipe, data, runs


def run_train(options: argparse.Namespace) -> None:
    with distributed.group(), distributed.muted():
        recipe, data, folder = _prepare(options)

        from helpers.figures.plots import save_run_figures  # torch is only loaded once everything above is right
        from helpers.training import train

        run = train(recipe, data, folder, seed=options.seed)
        figures = ", ".join(path.name for path in distributed.from_rank_zero(save_run_figures, run))
        print(f"Run folder: {run.folder} (with {figures})")


def run_lr_find(options: argparse.Namespace) -> None:
    recipe, data, folder = _prepare(options)

    from helpers import lr_finder
    from helpers.figures import drawing, plots

    usual = lr_finder.FAST_STEPS if options.fast else lr_finder.STEPS
    steps = usual if options.steps is None else options.steps
    result = lr_finder.find_lr(recipe, data, folder, seed=options.seed, steps=steps)
    curve = lr_finder.lr_find_folder(folder, recipe, data, options.seed) / "lr_find.png"
    drawing.save(plots.plot_range_test(result), curve)
    print("\n".join((result.title, *result.notes)))
    print(f"LRMIN {result.lr_min:g}, LRMAX {result.lr_max:g} ({result.ended})")
    if result.steepest is not None:
        print(f"Steepest slope, as torch-lr-finder suggests: {result.steepest:.2g}")
    one_cycle = isinstance(recipe.schedule, recipes.OneCycle)
    bounds = [f"lr_min={result.lr_min:g}", f"lr_max={result.lr_max:g}"] if one_cycle else [f"lr={result.lr_max:g}"]
    default = build_parser().parse_args([options.command, recipe.name])
    names = [name for name in ("data", "runs", "seed", "limit") if getattr(options, name) != getattr(default, name)]
    given = [f"--{name}={getattr(options, name)}" for name in names] + ["--fast"] * (options.fast != default.fast)
    words = ["python", "-m", "helpers", "train", recipe.name, *given, "--set", *options.set, *bounds]  # the last count
    print(f"Train with it: {shlex.join(words)}")
    print(f"Curve: {curve}")


def run_gallery(options: argparse.Namespace) -> None:
    from helpers.data import NAMES, load_data
    from helpers.figures import galleries
    from helpers.runs import load_model, load_run

    run = load_run(settings.named_run(options.run, options.runs))
    model = load_model(run)
    given, name = options.data or os.environ.get("COURSE_DATA"), run.config["data"]["name"]
    if not given and name not in NAMES:  # what the file says may be anywhere
        raise CourseError(f"{run.folder.name} was trained on a folder called {name}: name it with --data.")
    made = galleries.save_gallery(run, load_data(given or name, limit=run.limit), model, options.count)
    print(f"{run.title}: wrote {', '.join(path.name for path in made)}\nRun folder: {run.folder}")


COMMANDS = {
    "train": run_train,
    "lr-find": run_lr_find,
    "gallery": run_gallery,
    **{name: run for group in GROUPS for name, run in group.COMMANDS.items()},
}
