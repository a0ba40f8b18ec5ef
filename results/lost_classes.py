"""Counts how often a class is lost in the first steps of the published recipes that take the softmax twice.

The gradient of a class's logit is then proportional to the class's own probability, so a class that starts low hardly
learns. For each seed the run's first 40 steps are trained; a class whose mean probability over 2,000 training images
is below 0.01 by then is on its way out. `results/lost_classes.csv` has a row per seed. No test image is looked at.

    python -m results.lost_classes DATA RECIPE FIRST_SEED LAST_SEED
"""

import csv
import sys
from itertools import islice

from helpers.data import load_data
from helpers.evaluation import predict
from helpers.loaders import make_loader, make_loaders
from helpers.plumbing.devices import keep_freed_memory, pick_device
from helpers.plumbing.resume import seed_everything
from helpers.recipes import get_recipe
from helpers.settings import REPOSITORY
from helpers.training import Training

TABLE = REPOSITORY / "results" / "lost_classes.csv"
STEPS, IMAGES = 40, 2000


class FirstBatches:
    """The first `STEPS` batches of a loader's epoch."""

    def __init__(self, loader):
        self.loader, self.sampler = loader, loader.sampler

    def __len__(self) -> int:
        return STEPS

    def __iter__(self):
        return islice(self.loader, STEPS)


def class_probabilities(recipe, data, seed: int) -> list[float]:
    """The mean probability of every class after the first steps of the run with this seed."""
    device = pick_device()
    loader = make_loaders(recipe, data, seed, device)["train"]
    seed_everything(seed)
    training = Training(recipe, len(data.classes), len(loader), device)
    training.epoch = 1
    training.train_epoch(FirstBatches(loader))
    some = make_loader(data.train[slice(IMAGES)], data.mean, data.std, batch_size=500)
    return predict(training.evaluated, some, device)[0].softmax(dim=1).mean(dim=0).tolist()


def main(source: str, name: str, first: str, last: str) -> None:
    keep_freed_memory()
    recipe, data = get_recipe(name), load_data(source)
    data = data.normalised_by(recipe)
    begun = TABLE.exists()
    done = {(row["recipe"], row["seed"]) for row in csv.DictReader(TABLE.open())} if begun else set()
    with TABLE.open("a", buffering=1) as file:
        table = csv.writer(file, lineterminator="\n")
        if not begun:
            table.writerow(["recipe", "seed", *data.classes, "provenance"])
        for seed in range(int(first), int(last) + 1):
            if (name, str(seed)) not in done:
                probabilities = class_probabilities(recipe, data, seed)
                table.writerow([name, seed, *(f"{p:.4f}" for p in probabilities), pick_device().provenance])


if __name__ == "__main__":
    main(*sys.argv[1:])
