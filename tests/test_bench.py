"""The benchmark measures what it says: turns, rates, operations, and both loops on the same work."""

import numpy as np
import pytest

from helpers.authoring import bench
from helpers.recipes import RECIPES, changed


def test_tasks_take_turns_and_the_first_round_is_thrown_away():
    calls = []
    seconds = bench.in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert calls == list("ab" * 4)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_rate_is_the_median_and_half_the_range():
    assert bench.rate(100, [1.0, 2.0, 4.0]) == {"median": 50, "spread": (100 - 25) / 2, "rounds": 3}


def test_operations_of_a_step_are_those_of_its_convolutions():
    """Two for each multiplication, once forward, twice backward; but the images need no gradient."""
    layers = [(3, 64, 32), (64, 128, 32), (128, 128, 16), (128, 128, 16), (128, 256, 16), (256, 512, 8), (512, 512, 4)]
    layers.append(layers[-1])
    forward = [2 * 9 * i * o * size**2 for i, o, size in layers]
    expected = 3 * sum(forward) - forward[0] + 3 * 2 * 512 * 10
    assert bench.step_flop(RECIPES["custom_resnet"]) == expected


def test_both_loops_train_on_the_same_images_and_the_table_shows_their_rates(monkeypatch):
    recipe, seen = changed(RECIPES["resnet18_layernorm"], {"batch_size": 4, "width": 16}), {}
    monkeypatch.setattr(bench, "in_turns", lambda tasks, rounds: seen.update(tasks) or {"ours": [1.0], "plain": [2.0]})
    rates = bench.training_epoch(recipe, 3, 1, {"median": 1e12})
    assert rates["ratio"] == 2
    assert rates["share_of_matrix_products"] == pytest.approx(3 * 4 * bench.step_flop(recipe) / 1e12)
    ours, plain = seen["ours"].args[0], seen["plain"].args[0]
    images = {np.asarray(image).tobytes() for image, _ in plain.dataset}
    assert images == {image.tobytes() for image in ours.dataset.split.images} and len(images) == 3 * 4
    for loop in seen.values():
        loop()
    result = {"provenance": "", "matrix_products": rates["plain"], "input_pipeline": {"x": rates["plain"]}}
    table = bench.table(result | {"training": {"y": rates}, "start_up": {"--help": 0.07}})
    for figure in ("x: 6 ± 0 images/s", "y, 2.00 times the plain loop", "--help: 0.07 s"):
        assert figure in table
