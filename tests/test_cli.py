import re
import subprocess
import sys

import pytest
from conftest import helpers, random_folder

from helpers import cli, settings, training
from helpers.plumbing.errors import CourseError
from helpers.recipes import get_recipe
from helpers.settings import REPOSITORY


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return random_folder(tmp_path_factory.mktemp("data") / "shapes", train=6, test=3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["custom_resnt"], "There is no recipe 'custom_resnt'; did you mean custom_resnet"),
        (["custom_resnet", "--data", "~nobody-is-called-so/x"], "There is no data folder ~nobody-is-called-so/x"),
        (["custom_resnet", "--data", "nowhere", "--seed", "-1"], "seed has to be a whole number from 0 to"),
        (["custom_resnet", "--set", "lr_max=1e400"], "lr_max should be a finite number, not inf"),
        (["custom_resnet", "--set", "lr_mx=0.5"], "no value 'lr_mx'; did you mean lr_max"),
        (["custom_resnet", "--set", "lr_max={{}}"], "lr_max should be a valid number, not '{{}}'"),
        (["custom_resnet", "--data", "IMAGES", "--set", "batch_size=4", "--runs", "FILE"], "cannot be made"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(arguments, sentence, images, tmp_path, capsys):
    (tmp_path / "file").touch()
    words = {"IMAGES": images, "FILE": tmp_path / "file" / "runs"}
    arguments = [words.get(argument, argument) for argument in arguments]
    if "--runs" not in arguments:
        arguments += ["--runs", tmp_path / "runs"]
    assert cli.main(["train", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and sentence in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.slow
def test_lr_find_writes_its_curve(tmp_path):
    here = ["--data=synthetic", f"--runs={tmp_path}", "--fast"]
    done = helpers("lr-find", "custom_resnet", *here, "--set", "label_smoothing=0.2", "lr_max=0.5")
    assert done.returncode == 0, done.stderr
    (bounds,) = re.findall(r"^LRMIN (\S+), LRMAX (\S+) ", done.stdout, re.M)
    found = "--set label_smoothing=0.2 lr_max=0.5 lr_min={} lr_max={}".format(*bounds)
    assert f"Train with it: python -m helpers train custom_resnet {' '.join(here)} {found}\n" in done.stdout
    assert "synthetic pictures" in done.stdout
    folder = tmp_path / "custom_resnet-synthetic-seed0-lr-find"
    assert {path.name for path in folder.iterdir()} == {".lock", ".lock-owner", "lr_find.json", "lr_find.png"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["lr-find", "--help"]])
def test_help_names_commands_and_recipes(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(arguments)
    out = capsys.readouterr().out
    for word in ("lr-find", "train") if arguments == ["--help"] else ("custom_resnet", "synthetic", "--set"):
        assert word in out


def test_help_does_not_wait_for_torch():
    heavy = "{'torch', 'numpy', 'albumentations', 'matplotlib'} & sys.modules.keys()"
    script = f"import sys, helpers.cli; helpers.cli.build_parser(); sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60).returncode == 0


def test_settings_come_from_the_environment(tmp_path):
    done = helpers("train", "custom_resnet", COURSE_DATA=str(tmp_path / "nothing"))
    assert done.returncode == 2 and f"There is no data folder {tmp_path / 'nothing'}" in done.stderr


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (r'(name="custom_resnet", epochs=)\d+', "The recipe custom_resnet cannot be trained: epochs should be"),
        (r"(OneCycle\(lr_max=)[\d.]+", "lr_max should be greater than 0, not 0 (OneCycle)."),
    ],
)
def test_a_mistake_in_the_recipes_is_one_sentence(course, value, sentence):
    path = course / "helpers" / "recipes.py"
    path.write_text(re.sub(value, r"\g<1>0", path.read_text(), count=1))
    done = helpers("--help", cwd=course)
    assert done.returncode == 2 and done.stderr.startswith(f"Error: {sentence}") and done.stderr.count("\n") == 1


def test_options_reach_the_training(tmp_path, monkeypatch):
    images, asked = random_folder(tmp_path / "pets", train=10, test=6), {}

    def train(recipe, data, folder, *, seed):
        asked.update(recipe=recipe, data=data, folder=folder, seed=seed)
        raise CourseError("Enough.")

    monkeypatch.setattr(training, "train", train)
    words = ["--limit", "8", "--seed", "7", "--epochs", "2", "--fast", "--set", "batch_size=4"]
    assert cli.main(["train", "custom_resnet", "--data", str(images), *words]) == 2
    recipe, fast = asked["recipe"], get_recipe("custom_resnet", fast=True)
    assert (recipe.epochs, recipe.batch_size, recipe.width) == (2, 4, fast.width) and asked["seed"] == 7
    assert (len(asked["data"].train), len(asked["data"].test)) == (8, 8)
    assert asked["folder"] == settings.REPOSITORY / "runs" / "fast"
