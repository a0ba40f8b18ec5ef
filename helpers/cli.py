"""The command line: `python -m helpers ...`."""

import argparse
import sys
from pathlib import Path

from helpers import recipes, settings
from helpers.errors import CourseError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers", description="Train the networks of the CIFAR-10 course and look at them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = "one of: " + ", ".join(recipes.RECIPES)

    lr_find = commands.add_parser("lr-find", help="find LRMIN and LRMAX of a recipe with a learning rate range test")
    train = commands.add_parser(
        "train",
        help="train a recipe: starts, resumes, or loads a finished run",
        description="Train a recipe in RUNS/<recipe>-<data>-seed<N>/. The same command again resumes the run, "
        "or loads it if it is finished.",
    )
    for command in (lr_find, train):
        command.add_argument("recipe", metavar="RECIPE", help=names)
        command.add_argument(
            "--data", default=settings.data_source(), metavar="D",
            help="cifar10 (downloaded), synthetic (drawn, no network), or a folder with train/<class>/* and "
            "test/<class>/* images (default: %(default)s)",
        )  # fmt: skip
        command.add_argument("--runs", type=Path, default=settings.runs_folder(), metavar="DIR",
                             help="where run folders are made (default: %(default)s)")  # fmt: skip
        command.add_argument("--fast", action="store_true", default=settings.fast(),
                             help="a few steps on little data, to see that everything works; no result")  # fmt: skip
        command.add_argument("--seed", default="0", metavar="N", help="of all randomness (default: 0)")
    train.add_argument("--epochs", metavar="N", help="train N epochs, the schedule stretched or squeezed to them")
    train.add_argument("--limit", metavar="N", help="use only N training images, and N test images at most")
    train.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                       help="change values of the recipe, for instance lr_max=0.2")  # fmt: skip
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        {"train": run_train, "lr-find": run_lr_find}[options.command](options)
    except CourseError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on after the last finished epoch.", file=sys.stderr)
        return 130
    return 0


def _whole_number(text: str | None, option: str, least: int = 1) -> int | None:
    """The option as a whole number; argparse's own message would be less helpful."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise CourseError(f"{option} has to be a whole number of {least} or more, not {text}.")
    return int(text)


def run_train(options: argparse.Namespace) -> None:
    epochs, limit = _whole_number(options.epochs, "--epochs"), _whole_number(options.limit, "--limit")
    seed = _whole_number(options.seed, "--seed", least=0)
    recipe = recipes.get_recipe(options.recipe, fast=options.fast)
    if options.fast:
        limit = limit or recipes.FAST_LIMIT
    if epochs:
        recipe = recipes.with_epochs(recipe, epochs)
    recipe = recipes.changed(recipe, recipes.parse_assignments(options.set))

    from helpers.data import load_data

    data = load_data(options.data, limit=limit)

    from helpers.training import train  # torch is only loaded once everything above is right

    run = train(recipe, data, options.runs, seed=seed)

    from helpers.plots import save_run_figures

    figures = ", ".join(path.name for path in save_run_figures(run))
    print(f"Run folder: {run.folder} (with {figures})")


def run_lr_find(options: argparse.Namespace) -> None:
    recipe, seed = recipes.get_recipe(options.recipe, fast=options.fast), _whole_number(options.seed, "--seed", least=0)

    from helpers.data import load_data

    data = load_data(options.data, limit=recipes.FAST_LIMIT if options.fast else None)

    from helpers import lr_finder, plots

    steps = lr_finder.FAST_STEPS if options.fast else lr_finder.STEPS
    result = lr_finder.find_lr(recipe, data, options.runs, seed=seed, steps=steps)
    folder = lr_finder.lr_find_folder(options.runs, recipe, data, seed)
    plots.save(plots.plot_range_test(result), folder / "lr_find.png")
    print("\n".join((result.title, *result.notes)))
    print(f"LRMIN {result.lr_min:g}, LRMAX {result.lr_max:g} ({result.ended})")
    if result.steepest is not None:
        print(f"Steepest slope, as torch-lr-finder suggests: {result.steepest:.2g}")
    print(
        f"Train with it: python -m helpers train {recipe.name} --set lr_min={result.lr_min:g} lr_max={result.lr_max:g}"
    )
    print(f"Curve: {folder / 'lr_find.png'}")
