"""Every recipe at full length, over the seeds that the README reports; resumable at any moment."""

from pathlib import Path

from helpers import lr_finder
from helpers.authoring.report import report
from helpers.authoring.results import record
from helpers.data import CIFAR10_FINGERPRINT, Data
from helpers.recipes import RECIPES, OneCycle
from helpers.training import train


def reproduce(data: Data, folder: Path) -> None:
    """Train what is not trained yet, record it in `results/`, and bring the README up to date.

    Other data than the complete CIFAR-10 are trained on, but give no results to record.
    """
    real = data.fingerprint == CIFAR10_FINGERPRINT
    plan = [(recipe, seed) for recipe in RECIPES.values() for seed in recipe.about.seeds]
    for recipe in RECIPES.values():
        if isinstance(recipe.schedule, OneCycle) and not recipe.published:  # whose bounds a range test found
            test = lr_finder.find_lr(recipe, data, folder)
            print(f"{test.title}: LRMIN {test.lr_min:g}, LRMAX {test.lr_max:g}")
            if real:
                print(f"Recorded: {record(lr_finder.lr_find_folder(folder, recipe, data, 0))}")
    for number, (recipe, seed) in enumerate(plan, start=1):
        print(f"Run {number} of {len(plan)}: {recipe.name}, seed {seed}", flush=True)
        run = train(recipe, data, folder, seed=seed, report=lambda line: print(line, flush=True))
        if real:  # of one run of each of our recipes the weights too: the galleries are made from them
            weights = seed == recipe.about.seeds[0] and not recipe.published
            print(f"Recorded: {record(run.folder, data if weights else None)}")
    if not real:
        print(f"Trained on {data.name} and not on the complete CIFAR-10: results/ and README.md stay as they are.")
        return
    print("Written:", *report(data))
