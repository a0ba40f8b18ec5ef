"""Runs that are killed for real (SIGKILL) and started again end like one that never was."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import random_images, write_folder

from helpers.settings import REPOSITORY

RECIPES = {
    "custom_resnet": ["--epochs", "4", "--set", "batch_size=16"],
    "resnet18_layernorm": [
        *(
            "--epochs",
            "4",
            "--set",
            "batch_size=16",
            "validation_images=8",
            "patience=0",
            "ema_decay=0.5",
            "dropout=0.3",
        ),
    ],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    pictures = random_images(60)
    parts = {
        "train": {"cat": list(pictures[:24]), "dog": list(pictures[24:48])},
        "test": {"cat": list(pictures[48:54]), "dog": list(pictures[54:])},
    }
    return write_folder(tmp_path_factory.mktemp("data") / "pets", parts)


def start(recipe, images, runs):
    command = [sys.executable, "-m", "helpers", "train", recipe, "--data", images, "--runs", runs, *RECIPES[recipe]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the same number for all, so that sums are equal to the bit
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)


def kill_when(process, happened):
    """SIGKILL the process as soon as `happened()`. Returns whether it was alive until then."""
    while process.poll() is None:
        if happened():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.0005)
    return False


def outcome(folder):
    """Everything a run leaves but the seconds."""
    with (folder / "history.csv").open() as file:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    texts = [(folder / name).read_text() for name in ("train.log", "steps.csv", "config.json")]
    states = [torch.load(folder / name, weights_only=True) for name in ("last.pt", "best.pt")]
    return history, texts, states


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_run_ends_like_an_undisturbed_one(recipe, images, tmp_path):
    name = f"{recipe}-pets-seed0"
    undisturbed, killed = tmp_path / "undisturbed" / name, tmp_path / "killed" / name
    assert start(recipe, images, undisturbed.parent).wait() == 0
    log = killed / "train.log"
    moments = [
        lambda: (killed / "config.json").exists(),  # before or in the first epoch
        lambda: (killed / "last.pt.tmp").exists(),  # while the first checkpoint is written
        lambda: (killed / "last.pt").exists() and not (killed / "last.pt.tmp").exists(),  # just after a checkpoint
        lambda: log.exists() and "EPOCH: 3" in log.read_text(),  # in the last epoch
    ]
    kills = [kill_when(start(recipe, images, killed.parent), moment) for moment in moments]
    assert all(kills)
    assert start(recipe, images, killed.parent).wait() == 0
    (history, texts, states), (history_too, texts_too, states_too) = outcome(undisturbed), outcome(killed)
    assert history == history_too and texts == texts_too
    for state, state_too in zip(states, states_too, strict=True):
        for part in {"model", "trained_model"} & state.keys():
            assert all(torch.equal(state[part][key], state_too[part][key]) for key in state[part])
    assert not list(killed.glob("*.tmp"))
