"""Training in several real processes under torchrun, compared with one process.

Under torchrun this file is its own worker: `torchrun tests/test_distributed.py FOLDER`.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_images, write_folder
from torch.nn import functional as F

from helpers import cli, training
from helpers.data import Data, Split, channel_statistics
from helpers.evaluation import predict
from helpers.loaders import make_loader, make_loaders, resident_batches
from helpers.plumbing import devices, distributed, synthetic
from helpers.plumbing.devices import Device, pick_device
from helpers.plumbing.errors import CourseError
from helpers.plumbing.run_files import HISTORY_COLUMNS
from helpers.recipes import RECIPES, changed, get_recipe, with_epochs
from helpers.runs import load_run
from helpers.settings import REPOSITORY

FLOAT32 = Device(torch.device("cpu"), torch.float32, "CPU")
NORMS = ("layer", "batch")


def small(norm, **values):
    """22 images, 4 of them held out, in batches of 8, 8 and 2: 3 processes get 3 + 3 + 2 images, and 1 + 1 + 0."""
    values = {"batch_size": 8, "validation_images": 4, "warmup_epochs": 0.5, "lr": 0.003, "width": 8, **values}
    return changed(with_epochs(get_recipe(f"resnet18_{norm}norm"), 2), values)


def small_data():
    train, test = Split(*synthetic.draw(22, seed=0)), Split(*synthetic.draw(7, seed=1))
    return Data("synthetic", synthetic.CLASSES, train, test, *channel_statistics(train.images), "0123")


def one_epoch(norm):
    """What an epoch that changes nothing computes: each step's gradients, the figures, the statistics, predictions."""
    recipe, data, gradients = small(norm, lr=1e-12, weight_decay=0.0, warmup_epochs=0.0), small_data(), []
    loaders = make_loaders(recipe, data, 0, FLOAT32)
    torch.manual_seed(0)
    state = training.Training(recipe, 10, len(loaders["train"]), FLOAT32)
    parameters = list(state.model.parameters())
    state.optimizer.register_step_pre_hook(lambda *_: gradients.append([p.grad.clone() for p in parameters]))
    state.epoch = 1
    row = state.train_epoch(loaders["train"])
    logits, labels = predict(state.evaluated, loaders["test"], FLOAT32)
    buffers = [buffer.clone() for buffer in state.model.buffers()]
    everyone = distributed._all_gather([logits, *buffers, *gradients[-1]])
    equal = all(torch.equal(a, b) for other in everyone for a, b in zip(other, everyone[0], strict=True))
    return {"gradients": gradients, "row": row, "logits": logits, "labels": labels, "buffers": buffers, "equal": equal}


def worker(folder):
    with distributed.group(), distributed.muted():
        epochs = {norm: one_epoch(norm) for norm in NORMS}
        with pytest.raises(CourseError, match="sync_batchnorm=True needs GPUs"):
            training.Training(small("batch", sync_batchnorm=True), 10, 3, FLOAT32)
        lines = []
        training.pick_device = lambda: FLOAT32
        run = training.train(small("layer"), small_data(), folder, report=lines.append)
        texts = distributed._all_gather((run.log, run.summary, lines))
        if distributed.RANK == 0:
            torch.save({"epochs": epochs, "texts": texts}, folder / "result.pt")


def torchrun(processes, *arguments, **options):
    """Starts it; stdout holds everything that it and its processes say."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        + [str(argument) for argument in arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """What three processes computed."""
    folder = tmp_path_factory.mktemp("three")
    process = torchrun(3, __file__, folder)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    return folder, torch.load(folder / "result.pt", weights_only=False)  # written a moment ago, by this file


@pytest.fixture(scope="module")
def one():
    return one_epoch("layer")


def test_gradients_of_every_step_are_those_of_one_process(three, one):
    """Clipped, of 8, 8 and 2 images: no number of which three processes could divide evenly."""
    ours = three[1]["epochs"]["layer"]
    assert len(ours["gradients"]) == len(one["gradients"]) == 3
    for step, expected in zip(ours["gradients"], one["gradients"], strict=True):
        size = torch.cat([gradient.flatten() for gradient in expected]).double().norm()
        assert size == pytest.approx(1, rel=1e-3)  # more than that before it was clipped
        for gradient, single in zip(step, expected, strict=True):
            assert (gradient - single).norm() < 1e-4 * size
    assert ours["equal"]


def test_figures_count_every_image_once(three, one):
    ours = three[1]["epochs"]["layer"]
    assert ours["row"]["images"] == 18 and ours["labels"].tolist() == small_data().test.labels.tolist()
    assert ours["row"]["correct"] == one["row"]["correct"]
    assert ours["row"]["loss"] == pytest.approx(one["row"]["loss"], rel=1e-5)
    torch.testing.assert_close(ours["logits"], one["logits"], rtol=1e-4, atol=1e-5)


def test_batchnorm_without_synchronisation_is_that_of_each_share(three):
    """By hand: the mean of the losses over 3 + 3 + 2 images, each part normalised by itself; the first's statistics."""
    ours = three[1]["epochs"]["batch"]
    recipe, data = small("batch"), small_data()
    loader = make_loaders(recipe, data, 0, FLOAT32)["train"]
    loader.sampler.epoch = 1
    torch.manual_seed(0)
    model = FLOAT32.place(training.make_model(recipe, 10)).train()
    first, *others = [list(zip(*(part.tensor_split(3) for part in batch), strict=True)) for batch in loader]
    statistics = None
    for images, labels in first:
        loss = F.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing, reduction="sum") / 8
        loss.backward()
        statistics = statistics or {name: buffer.clone() for name, buffer in model.named_buffers()}
    gradients = [parameter.grad for parameter in model.parameters()]
    size = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for gradient, expected in zip(ours["gradients"][0], gradients, strict=True):
        assert (gradient - expected).norm() < 1e-4 * size
    model.load_state_dict(statistics, strict=False)
    with torch.no_grad():
        for shares in others:
            model(shares[0][0])
    for buffer, expected in zip(ours["buffers"], model.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-4, atol=1e-5)
    assert ours["equal"]


def test_run_of_three_processes_is_that_of_one(three, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "pick_device", lambda: FLOAT32)
    single = training.train(small("layer"), small_data(), tmp_path, report=lambda line: None)
    folder, result = three
    run = load_run(folder / single.folder.name)
    for column in set(HISTORY_COLUMNS) - {"seconds"}:
        np.testing.assert_allclose(run.history[column], single.history[column], rtol=1e-3)
    np.testing.assert_array_equal(run.steps["lr"], single.steps["lr"])
    assert np.sum(run.summary["confusion_matrix"]) == 7
    weights, expected = (torch.load(r.folder / "last.pt", weights_only=True)["model"] for r in (run, single))
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-2, atol=1e-4)
    texts = result["texts"]
    assert texts[0] == texts[1] == texts[2] and run.log.splitlines() == texts[0][2]
    files = {"config.json", "history.csv", "steps.csv", "train.log", "last.pt", "best.pt", "summary.json"}
    assert {path.name for path in run.folder.iterdir() if path.name[0] != "."} == files
    assert sorted(path.name for path in folder.iterdir()) == sorted([run.folder.name, "result.pt"])


# --- shares of a batch


@pytest.mark.parametrize("name", ["custom_resnet", "resnet18_batchnorm", "resnet18_layernorm"])
@pytest.mark.parametrize("kind", ["images one by one", "whole batches"])
def test_shares_together_are_the_batches_of_one_process(monkeypatch, kind, name):
    split = Split(random_images(13), np.arange(13) % 10)
    options = {"augmentation": RECIPES[name].augmentation, "seed": 4}
    make, place = (make_loader, {}) if kind == "images one by one" else (resident_batches, {"device": "cpu"})

    def epoch(rank, processes):
        monkeypatch.setattr(distributed, "RANK", rank)
        monkeypatch.setattr(distributed, "WORLD_SIZE", processes)
        return list(make(split, *channel_statistics(split.images), batch_size=6, **options, **place))

    whole, parts = epoch(0, 1), [epoch(rank, 3) for rank in range(3)]
    assert [len(images) for images, _ in whole] == [6, 6, 1]
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat([share for share, _ in shares]), images, rtol=0, atol=0)
        assert torch.equal(torch.cat([share for _, share in shares]), labels)


# --- GPUs, by a stand-in


def test_every_process_has_its_own_gpu_and_more_processes_are_refused(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1}.items():
        monkeypatch.setattr(distributed, name, value)
    device = pick_device()
    assert device == Device(torch.device("cuda", 1), torch.float16, "4 x Tesla T4") and chosen == [device.device]
    monkeypatch.setattr(distributed, "LOCAL_RANK", 2)
    with pytest.raises(CourseError, match=r"each process needs a GPU, so use --nproc-per-node 2"):
        pick_device()


def test_a_gpu_that_pytorch_was_not_built_for_gets_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100")

    @devices.explain_failures
    def train(recipe):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    with pytest.raises(CourseError, match=r"not support Tesla P100 \(CUDA error: [^)]*device\): choose another GPU"):
        train(get_recipe("custom_resnet"))


def test_batchnorm_is_synchronised_on_gpus_where_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed, "WORLD_SIZE", 2)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model: model)
    model = distributed.data_parallel(training.make_model(get_recipe("custom_resnet"), 10), sync_batchnorm=True)
    kinds = {type(module) for module in model.modules()}
    assert torch.nn.SyncBatchNorm in kinds and torch.nn.BatchNorm2d not in kinds


# --- the command, killed, resumed by other numbers of processes, and refused


@pytest.fixture
def command(tmp_path):
    pictures = random_images(60)
    parts = {
        "train": {"cat": list(pictures[:24]), "dog": list(pictures[24:45])},
        "test": {"cat": list(pictures[45:49]), "dog": list(pictures[49:52])},
    }
    images = write_folder(tmp_path / "pets", parts)
    settings = ["--epochs", "4", "--set", "batch_size=16", "validation_images=8", "lr=0.001", "dropout=0.3", "width=8"]
    settings += ["zero_init_residual=True"]  # what each process drops for itself then hardly moves the losses yet
    return ["-m", "helpers", "train", "resnet18_layernorm", "--data", images, "--runs", tmp_path / "runs", *settings]


def processes_of(torchrun_process):
    """{rank: process id}"""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(torchrun_process.pid):
                environment = (folder / "environ").read_bytes().split(b"\0")
                found |= {int(e[5:]): int(folder.name) for e in environment if e.startswith(b"RANK=")}
        except OSError:
            pass  # ended meanwhile
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")
def test_killed_process_ends_all_and_other_numbers_of_processes_go_on(command, tmp_path):
    folder = tmp_path / "runs" / "resnet18_layernorm-pets-seed0"
    log = folder / "train.log"
    for epoch, processes, rank in ((2, 2, 1), (3, 3, 0)):
        process = torchrun(processes, *command)
        while not (log.exists() and f"EPOCH: {epoch - 1}\n" in log.read_text()):  # written at the end of that epoch
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        everyone = processes_of(process)
        os.kill(everyone[rank], signal.SIGKILL)
        said = process.communicate(timeout=60)[0]  # 1 or 2 seconds where the cores are free
        assert process.returncode != 0 and len(everyone) == processes
        assert not any(Path(f"/proc/{number}").exists() for number in everyone.values())
        assert re.search("goes on after (the|its) last finished epoch", said), said
        assert "SIGKILL" in said and said.count("Traceback") == 1, said  # torchrun's own
        assert said.count("EPOCH: 1\n") == 1
    assert "Resuming resnet18_layernorm-pets-seed0 after epoch" in said
    arguments = [str(word) for word in command[2:]]
    assert cli.main(arguments) == 0
    run = load_run(folder)
    assert list(run.history["epoch"]) == [1, 2, 3, 4] and len(run.steps["step"]) == 4 * 3
    assert [line for line in run.log.splitlines() if line.startswith("EPOCH")] == [f"EPOCH: {k}" for k in range(1, 5)]
    assert np.sum(run.summary["confusion_matrix"]) == 7
    assert run.summary["device"].startswith("2 x ") and " and 3 x " in run.summary["device"]
    assert cli.main([*arguments, "--runs", str(tmp_path / "alone")]) == 0
    single = load_run(tmp_path / "alone" / folder.name)
    np.testing.assert_allclose(run.history["train_loss"], single.history["train_loss"], rtol=0.05)


def test_mistake_is_told_by_each_process_without_a_traceback(command):
    process = torchrun(2, *["custom_resnt" if word == "resnet18_layernorm" else word for word in command])
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert said.count("Error: There is no recipe 'custom_resnt'") in (1, 2), said  # torchrun ends the slower one
    assert said.count("Traceback") == 1, said  # torchrun's own


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
    os._exit(0)  # as helpers/__main__.py does
