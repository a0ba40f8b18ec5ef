"""Every recipe at full length, over the seeds that the README reports; resumable at any moment."""

from pathlib import Path

from helpers import lr_finder
from helpers.authoring.report import report
from helpers.authoring.results import check_data, record
from helpers.data import Data
from helpers.recipes import RECIPES, OneCycle
from helpers.training import train


def reproduce(data: Data, folder: Path) -> None:
    """Train what is not trained yet, record it in `results/`, and bring the pages up to date.

    Raises CourseError for other data than the complete CIFAR-10.
    """
    check_data(data.fingerprint, data.name)
    for recipe in RECIPES.values():
        if isinstance(recipe.schedule, OneCycle) and not recipe.published:  # whose bounds a range test found
            test = lr_finder.find_lr(recipe, data, folder)
            print(f"{test.title}: LRMIN {test.lr_min:g}, LRMAX {test.lr_max:g}")
            print(f"Recorded: {record(lr_finder.lr_find_folder(folder, recipe, data, 0))}")
        for seed in recipe.about.seeds:
            run = train(recipe, data, folder, seed=seed, report=lambda line: print(line, flush=True))
            # Of one run of each of our recipes the weights too: the galleries are made from them.
            weights = seed == recipe.about.seeds[0] and not recipe.published
            print(f"Recorded: {record(run.folder, data if weights else None)}")
    print("Written:", *report(data))
