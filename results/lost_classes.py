"""Counts how often a class is lost in the first steps of the published recipes that take the softmax twice.

The gradient of a class's logit is then proportional to the class's own probability, so a class that starts low hardly
learns. For each seed the run's first 40 steps are trained; a class whose mean probability over 2,000 training images
is below 0.01 by then is on its way out. `results/lost_classes.csv` has a row per seed. No test image is looked at.

With `epoch` the whole first epoch of 98 steps is trained, which tests that rule: `results/lost_classes_epoch.csv` has
the probabilities at its end.

    python -m results.lost_classes DATA RECIPE FIRST_SEED LAST_SEED [epoch]
"""

import csv
import sys

from helpers.authoring.results import table_rows
from helpers.data import load_data
from helpers.evaluation import predict
from helpers.loaders import make_loader, make_loaders
from helpers.plumbing.devices import keep_freed_memory, pick_device
from helpers.plumbing.resume import seed_everything
from helpers.recipes import get_recipe
from helpers.settings import REPOSITORY
from helpers.training import Training

TABLES = {40: REPOSITORY / "results" / "lost_classes.csv", 98: REPOSITORY / "results" / "lost_classes_epoch.csv"}
IMAGES = 2000


class WatchedBatches:
    """The batches of a loader's epoch, up to the last of `steps`; after each of these many, `measure` is called."""

    def __init__(self, loader, steps, measure):
        self.loader, self.sampler, self.steps, self.measure = loader, loader.sampler, steps, measure

    def __len__(self) -> int:
        return max(self.steps)

    def __iter__(self):
        for step, batch in enumerate(self.loader, start=1):
            yield batch  # it is trained on before the next one is asked for
            if step in self.steps:
                self.measure(step)
            if step == len(self):
                return


def class_probabilities(recipe, data, seed: int, steps: list[int]) -> dict[int, list[float]]:
    """The mean probability of every class after each of these numbers of steps of the run with this seed."""
    device, measured = pick_device(), {}
    loader = make_loaders(recipe, data, seed, device)["train"]
    some = make_loader(data.train[slice(IMAGES)], data.mean, data.std, batch_size=500)
    seed_everything(seed)
    training = Training(recipe, len(data.classes), len(loader), device)

    def measure(step: int) -> None:
        logits, _ = predict(training.evaluated, some, device)
        measured[step] = logits.softmax(dim=1).mean(dim=0).tolist()

    training.epoch = 1
    training.train_epoch(WatchedBatches(loader, steps, measure))
    return measured


def main(source: str, name: str, first: str, last: str, stop: str = "") -> None:
    keep_freed_memory()
    recipe, data = get_recipe(name), load_data(source)
    data = data.normalised_by(recipe)
    wanted = TABLES if stop == "epoch" else [min(TABLES)]
    done = {steps: {row["seed"] for row in table_rows(TABLES[steps]) if row["recipe"] == name} for steps in wanted}
    for seed in range(int(first), int(last) + 1):
        missing = [steps for steps in wanted if str(seed) not in done[steps]]
        if not missing:
            continue
        for steps, probabilities in class_probabilities(recipe, data, seed, missing).items():
            begun = TABLES[steps].exists()
            with TABLES[steps].open("a") as file:
                table = csv.writer(file, lineterminator="\n")
                if not begun:
                    table.writerow(["recipe", "seed", *data.classes, "provenance"])
                table.writerow([name, seed, *(f"{p:.4f}" for p in probabilities), pick_device().provenance])


if __name__ == "__main__":
    main(*sys.argv[1:])
