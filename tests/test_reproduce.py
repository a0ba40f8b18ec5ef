import pytest

from helpers.authoring import reproduce
from helpers.data import CIFAR10_FINGERPRINT
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES


def test_every_recipe_and_seed_is_trained_and_recorded_ours_once_with_weights(monkeypatch, tmp_path):
    done = {"found": [], "trained": [], "recorded": [], "reported": []}
    found = type("Test", (), {"title": "", "lr_min": 0.1, "lr_max": 0.2})
    monkeypatch.setattr(reproduce.lr_finder, "find_lr", lambda r, *a: done["found"].append(r.name) or found)
    monkeypatch.setattr(reproduce.lr_finder, "lr_find_folder", lambda folder, recipe, *a: f"{recipe.name}-lr-find")
    run = type("Run", (), {})
    monkeypatch.setattr(reproduce, "train", lambda r, d, f, seed, report: done["trained"].append((r.name, seed)) or run)
    run.folder = property(lambda self: None)
    monkeypatch.setattr(reproduce, "record", lambda folder, data=None: done["recorded"].append(bool(data)))
    monkeypatch.setattr(reproduce, "report", lambda data: done["reported"].append(data) or [])
    data = type("Data", (), {"fingerprint": "of other images", "name": "x"})
    with pytest.raises(CourseError, match="x is not of the complete CIFAR-10"):
        reproduce.reproduce(data, tmp_path)
    data.fingerprint = CIFAR10_FINGERPRINT
    reproduce.reproduce(data, tmp_path)
    plan = [(recipe.name, seed) for recipe in RECIPES.values() for seed in recipe.about.seeds]
    assert done["trained"] == plan and done["found"] == ["custom_resnet"] and done["reported"] == [data]
    ours = {(name, RECIPES[name].about.seeds[0]) for name in RECIPES if not RECIPES[name].published}
    assert done["recorded"] == [False, *(step in ours for step in plan)]
