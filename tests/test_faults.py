"""Runs that are really killed, starved and cut: what was saved is never lost, and each failure is one sentence.

The processes are those of `python -m helpers ...`, forked from one that has imported everything already, so that
a start takes a moment.
"""

import csv
import errno
import itertools
import json
import multiprocessing.forkserver
import os
import random
import runpy
import signal
import sys
import time
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import random_folder
from torch.optim.optimizer import register_optimizer_step_pre_hook

from helpers import lr_finder, training
from helpers.data import load_data
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import load_checkpoint
from helpers.plumbing.run_folder import locked
from helpers.recipes import changed, get_recipe, with_epochs
from helpers.settings import REPOSITORY

resource = pytest.importorskip("resource")  # Windows has none, and no fork
processes = multiprocessing.get_context("forkserver")
# Two steps per epoch, and a narrow network: its checkpoint has 2 MB. Everything that can be lost is in it: held-out
# images, a plateau, averaged weights, a best epoch, dropout's random numbers.
SMALL = {"batch_size": 8, "validation_images": 4, "patience": 0, "ema_decay": 0.5, "dropout": 0.3, "width": 8}
RECIPE = "resnet18_layernorm"
NAME = f"{RECIPE}-pets-seed0"


@pytest.fixture(scope="module", autouse=True)
def warm_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # one number for all, so that sums are equal to the bit
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests"))))
        processes.set_forkserver_preload(["test_faults", "helpers.figures.galleries", "torch._dynamo"])
        multiprocessing.forkserver.ensure_running()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return random_folder(tmp_path_factory.mktemp("data") / "pets", train=8, test=4)


def python_m_helpers(arguments):
    sys.argv[1:] = arguments
    runpy.run_module("helpers", run_name="__main__")


class Command:
    """`python -m helpers ...` in a process of its own; `prepare` is called in it first."""

    def __init__(self, *arguments, folder, prepare=None, command=python_m_helpers):
        self.log = folder / f"{time.monotonic_ns()}.out"
        self.log.touch()
        arguments = [str(argument) for argument in arguments]
        self.process = processes.Process(target=_run, args=(command, arguments, str(self.log), prepare))
        self.process.start()

    @property
    def output(self):
        return self.log.read_text()

    def wait_for(self, happened, seconds=600):
        """Wait until the output holds a text, or a function is true; the process has to live until then."""
        holds = happened if callable(happened) else lambda: happened in self.output
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.is_alive() and time.monotonic() < deadline, self.output
            time.sleep(0.002)
        return self

    def send(self, number):
        os.kill(self.process.pid, number)
        return self

    def end(self, seconds=600):
        """Its exit status; minus the signal's number if one killed it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            pytest.fail(f"still running after {seconds} s: {self.output}")
        return self.process.exitcode


def _run(command, arguments, log, prepare):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests are a shell's background job
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    if prepare:
        prepare()
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", 1, closefd=False) for descriptor in (1, 2))  # as in a new one
    command(arguments)


def train(images, folder, *, epochs=6, width=8, **options):
    values = [f"{key}={value}" for key, value in (SMALL | {"width": width}).items()]
    words = ("train", RECIPE, "--data", images, "--runs", folder, "--epochs", epochs, "--set", *values)
    return Command(*words, folder=folder, **options)


def slowly():
    """The third step, the first of epoch 2, takes ten seconds: time for a test, on a busy machine too."""
    steps = itertools.count(1)
    register_optimizer_step_pre_hook(lambda *_: time.sleep(10) if next(steps) == 3 else None)


def in_its_second_epoch(images, folder):
    return train(images, folder, epochs=2, prepare=slowly).wait_for("EPOCH: 2")


def goes_on(images, folder):
    """The same command goes on after the first of its two epochs, to the last figures; drawing is not waited for."""
    command = train(images, folder, epochs=2).wait_for("Reported:")
    assert f"Resuming {NAME} after epoch 1 of 2." in command.output
    assert command.send(signal.SIGKILL).end() == -signal.SIGKILL
    return True


def outcome(folder):
    """Everything a run leaves but the seconds."""
    with (folder / "history.csv").open() as file:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    texts = [(folder / name).read_text() for name in ("train.log", "steps.csv", "config.json")]
    summary = json.loads((folder / "summary.json").read_text())
    return history, texts, {key: value for key, value in summary.items() if key != "seconds"}


def weights(folder):
    states = [torch.load(folder / name, weights_only=True) for name in ("last.pt", "best.pt")]
    return [state[part] for state in states for part in ("model", "trained_model") if part in state]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".lock")}


def saved_epochs(folder):
    """How many finished epochs the folder's checkpoint holds. It has to be whole, whenever it is looked at."""
    return load_checkpoint(folder / "last.pt")["epoch"] if (folder / "last.pt").exists() else 0


def reported_epochs(folder):
    """How many finished epochs its table shows."""
    path = folder / "history.csv"
    return max(len(path.read_text().splitlines()) - 1, 0) if path.exists() else 0


def undisturbed_run(images, folder, width=8):
    """The folder of a run of six epochs, and the seconds per epoch."""
    command = train(images, folder, width=width).wait_for("EPOCH: 1")
    started = time.monotonic()
    command.wait_for("EPOCH: 6")
    pace = (time.monotonic() - started) / 5
    assert command.end() == 0
    return folder / NAME, pace


def stopped_while_saving(command, folder):
    """Hold it where it is, and let it go on unless that is within the writing of a checkpoint."""
    command.send(signal.SIGSTOP)
    saving = any(folder.glob("*.pt.tmp"))
    if not saving:
        command.send(signal.SIGCONT)
    return saving


@pytest.mark.parametrize(("kills", "width"), [(3, 32), pytest.param(25, 64, marks=pytest.mark.slow)])
def test_run_killed_at_random_moments_ends_like_an_undisturbed_one(images, tmp_path, kills, width):
    """The moments are spread over the start and five of six epochs, every fifth while a checkpoint is written, and one
    at the end. In between the files get times of other years, as if the clock was wrong."""
    rng = random.Random(25)
    (tmp_path / "undisturbed").mkdir()
    (complete, pace), folder = undisturbed_run(images, tmp_path / "undisturbed", width), tmp_path / NAME
    train_again = partial(train, images, tmp_path, width=width)
    saved, while_saving = 0, 0
    for kill, moment in enumerate(sorted(rng.uniform(0, 6) for _ in range(kills - 1))):
        command, epoch = train_again(), int(moment)
        command.wait_for(f"EPOCH: {epoch}" if epoch else "")
        late = time.monotonic() + moment % 1 * pace
        command.wait_for(lambda: time.monotonic() > late or f"EPOCH: {epoch + 1}" in command.output)  # noqa: B023
        if kill % 5 == 0:
            command.wait_for(lambda: stopped_while_saving(command, folder))  # noqa: B023
        while_saving += any(folder.glob("*.pt.tmp"))
        assert command.send(signal.SIGKILL).end() == -signal.SIGKILL, command.output
        assert saved_epochs(folder) >= max(saved, reported_epochs(folder)), "a saved epoch was lost"
        saved = saved_epochs(folder)
        for path in folder.iterdir():
            os.utime(path, (rng.randrange(2**31), rng.randrange(2**31)))
    assert while_saving >= max(1, kills // 5)
    command = train_again().wait_for("Reported:")
    assert f"Resuming {NAME} after epoch {saved} of 6." in command.output
    assert command.send(signal.SIGKILL).end() == -signal.SIGKILL
    assert train_again().end() == 0
    assert outcome(folder) == outcome(complete)
    for ours, theirs in zip(weights(folder), weights(complete), strict=True):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_command_says_so_in_one_sentence_and_goes_on(images, tmp_path, number, status):
    command = in_its_second_epoch(images, tmp_path).send(number)
    time.sleep(0.002)
    command.send(number)  # impatient
    assert command.end() == status
    sentence = "Interrupted. A training goes on after its last finished epoch with the same command."
    assert command.output.endswith(f"\n{sentence}\n")
    assert "Traceback" not in command.output and not list(tmp_path.rglob("*.tmp"))
    assert goes_on(images, tmp_path)


# --- two processes


def hold(arguments):
    """Keep a folder locked, beside a child that outlives this process as loading processes may."""
    with locked(Path(arguments[0])):
        child = os.fork()
        if child:
            print(f"holding, child {child}.", flush=True)
        time.sleep(60)


def test_second_process_is_refused_until_the_first_one_is_dead(images, tmp_path):
    first = in_its_second_epoch(images, tmp_path).send(signal.SIGSTOP)
    before = {path.name: path.read_bytes() for path in (tmp_path / NAME).iterdir()}
    second = train(images, tmp_path, epochs=2)
    assert second.end() == 2
    assert second.output.startswith(f"Error: {tmp_path / NAME} is in use by process {first.process.pid} on ")
    assert "wait until that ends or stop it" in second.output and second.output.count("\n") == 1
    other = train(images, tmp_path, epochs=3)  # not even a word of another configuration
    assert other.end() == 2 and "is in use by" in other.output
    assert before == {path.name: path.read_bytes() for path in (tmp_path / NAME).iterdir()}
    first.send(signal.SIGKILL).end()
    assert goes_on(images, tmp_path)


def test_lock_of_a_dead_process_does_not_block_though_its_children_live(tmp_path):
    holder = Command(tmp_path / "run", folder=tmp_path, command=hold).wait_for("holding")
    child = int(holder.output.split()[-1].rstrip("."))
    with pytest.raises(CourseError, match=f"in use by process {holder.process.pid}"), locked(tmp_path / "run"):
        pass
    assert holder.send(signal.SIGKILL).end() == -signal.SIGKILL
    os.kill(child, 0)  # it lives
    with locked(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock-owner").read_text()
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_used_without(tmp_path, monkeypatch, code):
    def unsupported(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", unsupported)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


# --- disks


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))


def test_quota_stops_a_run_which_goes_on_when_it_is_raised(images, tmp_path):
    in_its_second_epoch(images, tmp_path).send(signal.SIGKILL).end()
    command, folder = train(images, tmp_path, epochs=2, prepare=small_files), tmp_path / NAME
    assert command.end() == 2, command.output
    last = command.output.splitlines()[-1]
    assert last.startswith("Error: ") and "could not be written" in last and "File too large" in last
    assert "Traceback" not in command.output and not list(folder.glob("*.tmp"))
    assert saved_epochs(folder) == reported_epochs(folder) == 1  # the checkpoint is as it was
    assert goes_on(images, tmp_path)


# --- damaged and lost files


def flip(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


@pytest.fixture
def unfinished(images, tmp_path_factory):
    """A run with one of its two epochs."""
    folder = tmp_path_factory.mktemp("unfinished")
    in_its_second_epoch(images, folder).send(signal.SIGKILL).end()
    return folder


def test_a_flipped_bit_of_a_weight_is_noticed_before_training_goes_on(unfinished, images):
    for path in (unfinished / NAME / "last.pt", unfinished / NAME / "best.pt"):
        flip(path, path.stat().st_size // 2)
        before = path.read_bytes()
        command = train(images, unfinished, epochs=2)
        assert command.end() == 2
        assert f"Error: {path} is damaged or no checkpoint: it was kept as it is; put back a good" in command.output
        assert path.read_bytes() == before
        flip(path, path.stat().st_size // 2)
    assert goes_on(images, unfinished)


def test_finished_run_that_lost_its_tables_or_summary_makes_them_again(images, tmp_path):
    folder, _ = undisturbed_run(images, tmp_path)
    before = outcome(folder)
    for lost in ("history.csv", "steps.csv", "train.log", "config.json"):
        (folder / lost).unlink()
    (folder / "summary.json").write_text("{}")
    assert train(images, tmp_path).end() == 0
    assert outcome(folder) == before


def test_lost_checkpoint_is_not_taken_for_a_fresh_start(unfinished, images):
    (unfinished / NAME / "last.pt").rename(unfinished / "elsewhere")
    before = files_of(unfinished / NAME)
    command = train(images, unfinished, epochs=2)
    assert command.end() == 2 and "last.pt is missing: put it back" in command.output
    assert before == files_of(unfinished / NAME)
    (unfinished / "elsewhere").rename(unfinished / NAME / "last.pt")
    assert goes_on(images, unfinished)


# --- memory, processes, the clock


@pytest.mark.parametrize("function", [training.train, lr_finder.find_lr])
def test_gpu_memory_that_runs_out_is_said_and_is_free_afterwards(images, tmp_path, monkeypatch, function):
    """In a notebook, a traceback would keep the tensors of the failed step, and then nothing would fit any more."""
    held = []

    def exhausted(*arguments):
        model = make_model(*arguments)
        held.append(weakref.ref(model))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...")

    make_model = training.make_model
    for module in (training, lr_finder):
        monkeypatch.setattr(module, "make_model", exhausted)
    half = f"batch_size=4 lr={get_recipe(RECIPE).schedule.lr / 2:g}"
    with pytest.raises(CourseError, match=f"CUDA out of memory.*--set {half}") as caught:
        function(changed(with_epochs(get_recipe(RECIPE), 2), SMALL), load_data(str(images)), tmp_path)
    assert caught.value.__context__ is None and held[0]() is None
