import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from helpers.settings import REPOSITORY


def helpers(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "helpers", *map(str, arguments)],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes with six images in train and three in test."""
    folder, rng = tmp_path_factory.mktemp("data") / "shapes", np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for name in ("circle", "square"):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{k}.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["custom_resnt"], "There is no recipe 'custom_resnt'; did you mean custom_resnet"),
        (["custom_resnet", "--data", "nowhere"], "There is no data folder nowhere"),
        (["custom_resnet", "--epochs", "0"], "--epochs has to be a whole number of 1 or more, not 0"),
        (["custom_resnet", "--epochs", "-3"], "--epochs has to be a whole number of 1 or more, not -3"),
        (["custom_resnet", "--epochs", "2.5"], "--epochs has to be a whole number of 1 or more, not 2.5"),
        (["custom_resnet", "--limit", "0"], "--limit has to be a whole number of 1 or more, not 0"),
        (["custom_resnet", "--seed", "-1"], "--seed has to be a whole number of 0 or more, not -1"),
        (["custom_resnet", "--seed", str(2**63)], "--seed has to be a whole number of 0 or more"),
        (["custom_resnet", "--epochs", "9" * 5000], "--epochs has to be a whole number of 1 or more"),
        (["custom_resnet", "--data", "x" * 5000], "cannot be a folder"),
        (["custom_resnet", "--data", "~no-such-user/x"], "cannot be a folder"),
        (["custom_resnet", "--runs", ""], "--runs has to name a folder"),
        (["custom_resnet", "--set", "lr_max=1e400"], "lr_max should be a finite number, not inf"),
        (["custom_resnet", "--set", "peak_epoch=25"], "peak_epoch has to lie before the last epoch, 24, not at 25"),
        (["custom_resnet", "--set", "lr_min=0.5"], "lr_min has to be below lr_max, not 0.5"),
        (["custom_resnet", "--set", "lr_mx=0.5"], "no value 'lr_mx'; did you mean lr_max"),
        (["custom_resnet", "--set", "lr_max=fast"], "lr_max should be a valid number, not 'fast'"),
        (["custom_resnet", "--set", "lr_max"], "--set takes name=value"),
        (
            ["custom_resnet", "--set", "optimizer=Adm"],
            "optimizer should be 'SGD', 'Adam', 'AdamW' or 'RMSprop', not 'Adm'",
        ),
        (["custom_resnet", "--data", "IMAGES"], "batch_size=512 is larger than the training set (12 images)"),
        (["custom_resnet", "--data", "IMAGES", "--set", "batch_size=4", "--runs", "FILE"], "cannot be made"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(arguments, sentence, images, tmp_path):
    (tmp_path / "file").touch()
    words = {"IMAGES": images, "FILE": tmp_path / "file" / "runs"}
    arguments = [words.get(argument, argument) for argument in arguments]
    if "--runs" not in arguments:
        arguments += ["--runs", tmp_path / "runs"]
    done = helpers("train", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: ") and sentence in done.stderr and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.slow
def test_train_trains_then_loads_then_refuses_another_configuration(images, tmp_path):
    command = ["train", "custom_resnet", "--data", images, "--runs", tmp_path, "--set", "batch_size=4", "--epochs", "2"]
    first = helpers(*command)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "custom_resnet-shapes-seed0"
    assert "EPOCH: 2" in first.stdout and "Test set: Average loss:" in first.stdout and str(folder) in first.stdout
    assert {"curves.png", "lr.png", "class_accuracy.png", "confusion_matrix.png"} <= {p.name for p in folder.iterdir()}
    before = (folder / "last.pt").read_bytes()
    again = helpers(*command)
    assert again.returncode == 0 and "finished before" in again.stdout
    other = helpers(*command, "--set", "lr_max=0.25")
    assert other.returncode == 2 and "lr_max: 0.2 there, 0.25 asked for" in other.stderr
    assert (folder / "last.pt").read_bytes() == before


@pytest.mark.slow
def test_lr_find_writes_its_curve(images, tmp_path):
    here = ["--data=synthetic", f"--runs={tmp_path}", "--fast"]
    done = helpers("lr-find", "custom_resnet", *here, "--set", "label_smoothing=0.2", "lr_max=0.5")
    assert done.returncode == 0, done.stderr
    (bounds,) = re.findall(r"^LRMIN (\S+), LRMAX (\S+) ", done.stdout, re.M)
    found = "--set label_smoothing=0.2 lr_max=0.5 lr_min={} lr_max={}".format(*bounds)
    assert f"Train with it: python -m helpers train custom_resnet {' '.join(here)} {found}\n" in done.stdout
    assert "LRMIN" in done.stdout and "synthetic pictures" in done.stdout
    folder = tmp_path / "custom_resnet-synthetic-seed0-lr-find"
    assert {path.name for path in folder.iterdir()} == {".lock", ".lock-owner", "lr_find.json", "lr_find.png"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["lr-find", "--help"]])
def test_help_names_commands_and_recipes(arguments):
    done = helpers(*arguments)
    assert done.returncode == 0
    for word in ("lr-find", "train") if arguments == ["--help"] else ("custom_resnet", "synthetic", "--set"):
        assert word in done.stdout


def test_help_does_not_wait_for_torch():
    script = "import sys, helpers.cli; helpers.cli.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60).returncode == 0


def test_settings_come_from_the_environment(tmp_path):
    done = helpers("train", "custom_resnet", COURSE_DATA=str(tmp_path / "nothing"))
    assert done.returncode == 2 and f"There is no data folder {tmp_path / 'nothing'}" in done.stderr


def test_a_mistake_in_the_recipes_is_one_sentence(course):
    path = course / "helpers" / "recipes.py"
    path.write_text(path.read_text().replace('name="custom_resnet", epochs=24', 'name="custom_resnet", epochs=0'))
    done = subprocess.run([sys.executable, "-m", "helpers", "--help"], cwd=course, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The recipe custom_resnet cannot be trained: epochs should be greater than")
    assert done.stderr.count("\n") == 1
