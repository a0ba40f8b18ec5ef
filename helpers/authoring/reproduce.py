"""Every recipe at full length, over the seeds that the README reports; resumable at any moment."""

import functools
from pathlib import Path

from torchinfo import summary

from helpers import lr_finder
from helpers.authoring.report import record, report
from helpers.data import CIFAR10_FINGERPRINT, SIZE, Data
from helpers.models import make_model
from helpers.recipes import RECIPES, Recipe
from helpers.runs import HISTORY_COLUMNS, from_csv
from helpers.training import run_folder, train

SEEDS = {  # how many; others: one
    "custom_resnet": 5,
    "resnet18_layernorm": 3,
    "resnet18_batchnorm": 3,
    "published_s8_onecycle_sgd": 3,  # which classes it loses differs from seed to seed
    "published_s9_onecycle_adam": 2,  # the same loss
}
Plan = list[tuple[Recipe, int]]


def reproduce(data: Data, folder: Path) -> None:
    """Train what is not trained yet, record it in `results/`, and bring the README up to date.

    Other data than the complete CIFAR-10 are trained on, but give no results to record.
    """
    plan = [(RECIPES[name], seed) for name in dict.fromkeys((*SEEDS, *RECIPES)) for seed in range(SEEDS.get(name, 1))]
    test = lr_finder.find_lr(RECIPES["custom_resnet"], data, folder)
    print(f"{test.title}: LRMIN {test.lr_min:g}, LRMAX {test.lr_max:g}")
    _record(lr_finder.lr_find_folder(folder, RECIPES["custom_resnet"], data, 0), data)
    for number, (recipe, seed) in enumerate(plan, start=1):
        title = f"Run {number} of {len(plan)}: {recipe.name}, seed {seed}"

        def log(line: str, title: str = title) -> None:
            print(line, flush=True)
            if line.startswith("EPOCH"):
                print(f"[{title}; {time_left(plan, data, folder)}]", flush=True)

        run = train(recipe, data, folder, seed=seed, report=log)
        # Of one run of each of our recipes the weights too: the galleries are made from them.
        _record(run.folder, data, weights=seed == 0 and not recipe.published)
    if data.fingerprint != CIFAR10_FINGERPRINT:
        print(f"Trained on {data.name} and not on the complete CIFAR-10: results/ and README.md stay as they are.")
        return
    print("Written:", *report(data))


def _record(folder: Path, data: Data, weights: bool = False) -> None:
    if data.fingerprint == CIFAR10_FINGERPRINT:
        print(f"Recorded: {record(folder, data if weights else None)}")


def time_left(plan: Plan, data: Data, folder: Path) -> str:
    """An estimate in words: multiply-adds still to do, at the speed of those done in the runs of this folder."""
    spent = done = left = 0.0
    for recipe, seed in plan:
        table = run_folder(folder, recipe, data, seed) / "history.csv"
        seconds = from_csv(table.read_text(encoding="utf-8"), HISTORY_COLUMNS)["seconds"] if table.exists() else []
        images = 3 * (len(data.train) - recipe.validation_images) + recipe.validation_images + len(data.test)
        epoch = images * multiply_adds(recipe.name)  # a backward pass costs twice a forward one
        spent, done, left = (
            spent + sum(seconds),
            done + len(seconds) * epoch,
            left + (recipe.epochs - len(seconds)) * epoch,
        )
    if not done:
        return "the time left is known after the first epoch"
    hours, minutes = divmod(round(left * spent / done / 60), 60)
    return f"about {hours} h {minutes:02} min left"


@functools.cache  # every epoch asks for all of them
def multiply_adds(name: str) -> int:
    """Of a forward pass of one image through the network of the recipe of that name."""
    return summary(make_model(RECIPES[name], 10), (1, 3, SIZE, SIZE), verbose=0, device="cpu").total_mult_adds
