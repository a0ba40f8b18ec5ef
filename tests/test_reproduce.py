from helpers.authoring import reproduce
from helpers.data import CIFAR10_FINGERPRINT
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
    for fingerprint in (CIFAR10_FINGERPRINT, "of other images"):
        reproduce.reproduce(type("Data", (), {"fingerprint": fingerprint, "name": "x"}), tmp_path)
    plan = [(recipe.name, seed) for recipe in RECIPES.values() for seed in recipe.about.seeds]
    assert done["trained"] == 2 * plan and done["found"] == 2 * ["custom_resnet"] and len(done["reported"]) == 1
    ours = {(name, RECIPES[name].about.seeds[0]) for name in RECIPES if not RECIPES[name].published}
    assert done["recorded"] == [False, *(step in ours for step in plan)]
