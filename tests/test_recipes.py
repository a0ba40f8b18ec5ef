import dataclasses
import json

import pytest

from helpers import recipes
from helpers.cli import parse_assignments
from helpers.plumbing.errors import CourseError
from helpers.plumbing.run_files import differences
from helpers.recipes import RECIPES, as_dict, changed, from_dict, get_recipe, with_epochs

CUSTOM = RECIPES["custom_resnet"]
EVERY_RECIPE = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@EVERY_RECIPE
def test_recipe_never_chooses_on_the_test_set_unless_published(recipe):
    decided_by = {recipe.select, getattr(recipe.schedule, "monitor", "last")}
    assert recipe.published or not any(name.startswith("test_") for name in decided_by)


# --- as_dict and from_dict


@EVERY_RECIPE
def test_from_dict_undoes_as_dict_and_json(recipe):
    for same in (recipe, get_recipe(recipe.name, fast=True), changed(recipe, {"weight_decay": 1, "ema_decay": 0.5})):
        assert from_dict(json.loads(json.dumps(as_dict(same)))) == same


@pytest.mark.parametrize(
    "change",
    [{"lr_maximum": 0.1}, {"augmentation": [["x"]]}, {"augmentation": 3}, {"epochs": "many"}, {"epochs": None}],
)
def test_from_dict_of_what_is_no_recipe_is_refused(change):
    told = "lr_maximum is unknown|augmentation.* (should be a valid tuple|is missing)|epochs should be a valid integer"
    with pytest.raises(CourseError, match=told):
        from_dict(as_dict(CUSTOM) | change)


def test_from_dict_gives_values_it_did_not_know_their_defaults():
    old = {key: value for key, value in as_dict(CUSTOM).items() if key not in ("ema_decay", "clip_norm")}
    assert from_dict(old) == dataclasses.replace(CUSTOM, ema_decay=0.0)


def test_recipe_of_a_name_of_its_own_is_a_recipe():
    mine = dataclasses.replace(CUSTOM, name="mine")
    assert from_dict(as_dict(mine)) == mine and differences(mine) == []


# --- changed


@pytest.mark.parametrize(("key", "value"), [("epochs", 30), ("lr_max", 0.25), ("lr_end", 1e-5), ("logit_scale", 1.0)])
def test_changed_replaces_one_value_and_nothing_else(key, value):
    before = as_dict(CUSTOM)
    assert value != before[key] and as_dict(changed(CUSTOM, {key: value})) == before | {key: value}
    assert as_dict(CUSTOM) == before


def test_changed_takes_several_values_at_once_where_one_alone_would_be_wrong():
    new = changed(CUSTOM, {"epochs": 4, "peak_epoch": 1})
    assert (new.epochs, new.schedule.peak_epoch) == (4, 1)


@pytest.mark.parametrize("key", ["name", "schedule", "about"])
def test_structure_of_a_recipe_cannot_be_assigned(key):
    with pytest.raises(CourseError, match=f"has no value '{key}'"):
        changed(CUSTOM, {key: "other"})


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        ({"dropout": 0.5}, "custom_resnet does not read dropout=0.5"),
        ({"epochs": 2.5}, "epochs should be a valid integer, not 2.5"),
        ({"epochs": 0}, "epochs should be greater than or equal to 1, not 0"),
        ({"lr_max": "high"}, "lr_max should be a valid number, not 'high'"),
        ({"loss": 3}, "loss should be 'cross_entropy' or 'cross_entropy_of_softmax', not 3"),
        ({"momentum": 0.0}, "nesterov=True needs a momentum above 0"),
        ({"select": "val_acc"}, "select=val_acc needs validation_images above 0"),
        ({"lr_min": 0.5}, f"below lr_max, not 0.5 with lr_max {CUSTOM.schedule.lr_max:g}"),
        ({"lr_end": 1.0}, "at most lr_max"),
        ({"momentum_min": 0.85}, "given together"),
        ({"momentum_min": 0.95, "momentum_max": 0.85}, "in order"),
        ({"peak_epoch": CUSTOM.epochs}, f"before the last epoch, {CUSTOM.epochs}, not at {CUSTOM.epochs}"),
    ],
)
def test_recipe_that_cannot_be_trained_is_refused_by_name(assignments, sentence):
    with pytest.raises(CourseError, match=f"^The recipe custom_resnet cannot be trained: .*{sentence}"):
        changed(CUSTOM, assignments)


# --- parse_assignments


def test_assignment_is_a_literal_or_else_a_word():
    parsed = parse_assignments(["lr_max=0.2", "epochs=10", "nesterov=False", "lr_end=None", "loss=1+"])
    assert parsed == {"lr_max": 0.2, "epochs": 10, "nesterov": False, "lr_end": None, "loss": "1+"}
    assert type(parsed["epochs"]) is int and parsed["nesterov"] is False


def test_assignments_are_not_executed(tmp_path):
    text = f"loss=open({str(tmp_path / 'made')!r}, 'w')"
    assert parse_assignments([text])["loss"] == text.removeprefix("loss=")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["lr_max", "lr_max=", "=0.2", "=", ""])
def test_assignment_without_name_or_value_is_refused(text):
    with pytest.raises(CourseError, match=f"--set takes name=value, .* not '{text}'"):
        parse_assignments([text])


# --- with_epochs, fast, differences, get_recipe


@pytest.mark.parametrize("epochs", [1, 2, 7, 24, 100])
@EVERY_RECIPE
def test_with_epochs_keeps_the_place_of_the_peak_and_everything_else(recipe, epochs):
    new = with_epochs(recipe, epochs)
    place = "peak_epoch" if hasattr(recipe.schedule, "peak_epoch") else "warmup_epochs"
    before, after = as_dict(recipe), as_dict(new)
    assert after[place] / epochs == pytest.approx(before[place] / recipe.epochs)
    assert after == before | {"epochs": epochs, place: after[place]}


@pytest.mark.parametrize("epochs", [0, -1, 2.0, "3", True, None])
def test_with_epochs_refuses_what_is_no_count(epochs):
    with pytest.raises(CourseError, match="whole number of 1 or more"):
        with_epochs(CUSTOM, epochs)


@EVERY_RECIPE
def test_fast_is_short_narrow_and_otherwise_the_recipe(recipe):
    quick = get_recipe(recipe.name, fast=True)
    scaled = {"epochs", "batch_size", "peak_epoch", "warmup_epochs", "validation_images", "width", "augmentation"}
    tamed = {"lr", "ema_decay", "patience", "zero_init_residual"} if recipe.model == "resnet18" else set()
    changes = {text.split("=")[0] for text in differences(quick)}
    assert {"epochs", "width"} <= changes <= scaled | tamed
    assert [name for name, _ in quick.augmentation] == [name for name, _ in recipe.augmentation]
    assert quick.validation_images < recipes.FAST_LIMIT / 2
    steps = quick.epochs * (recipes.FAST_LIMIT - quick.validation_images) / quick.batch_size
    assert 100 < steps <= 500 and quick.width <= 16


def test_differences_name_the_new_and_the_old_value():
    new = changed(CUSTOM, {"lr_max": 0.25, "weight_decay": 0.0})
    lr_max, decay = f"{CUSTOM.schedule.lr_max:g}", f"{CUSTOM.weight_decay:g}"
    assert sorted(differences(new)) == [f"lr_max=0.25 (recipe: {lr_max})", f"weight_decay=0 (recipe: {decay})"]


def test_two_recipes_of_one_name_are_refused():
    with pytest.raises(CourseError, match=r"Two recipes in helpers/recipes\.py are called custom_resnet"):
        recipes._by_name(CUSTOM, get_recipe("resnet18_layernorm"), dataclasses.replace(CUSTOM, epochs=30))
