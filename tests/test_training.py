import copy
import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn
from torch.nn import functional as F

from helpers import training
from helpers.augmentation import normalise
from helpers.data import Data, Split, channel_statistics, load_data
from helpers.evaluation import confusion_matrix, cross_entropy_of_softmax, loss_and_accuracy, predict
from helpers.loaders import held_out_notes, make_loaders
from helpers.models import make_model
from helpers.plumbing import run_folder, synthetic
from helpers.plumbing.devices import Device, pick_device
from helpers.plumbing.errors import CourseError, Stopped
from helpers.plumbing.files import save_checkpoint
from helpers.plumbing.resume import load_training
from helpers.plumbing.run_files import HISTORY_COLUMNS, folder_name
from helpers.plumbing.run_folder import RunFolder
from helpers.recipes import changed, get_recipe, with_epochs
from helpers.runs import load_model
from helpers.schedules import make_optimizer, plateau_lrs

FLOAT32 = Device(torch.device("cpu"), torch.float32, "test")


@pytest.fixture(scope="module")
def data():
    train, test = Split(*synthetic.draw(70, seed=0)), Split(*synthetic.draw(40, seed=1))
    return Data("synthetic", synthetic.CLASSES, train, test, *channel_statistics(train.images), "0123")


def small(name="custom_resnet", **values):
    """The recipe over three epochs of three steps, the last step being smaller: 70 = 32 + 32 + 6."""
    return changed(with_epochs(get_recipe(name), 3), {"batch_size": 32, "width": 8, **values})


def interrupt_at(place, recipe, data, folder):
    """Train until the log says `place`, or something else interrupts; return what the user is told."""

    def interrupt(line):
        if line == place:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as error:
        training.train(recipe, data, folder, report=interrupt)
    return error.value.sentence


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    lines = []
    run = training.train(small(), data, tmp_path_factory.mktemp("runs"), report=lines.append)
    return run, lines


def logged(folder):
    """(epoch, value) of every scalar, as TensorBoard reads the log."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def test_tensorboard_log_is_the_history_once_also_after_an_interruption(data, tmp_path, monkeypatch, finished):
    monkeypatch.setenv("COURSE_TENSORBOARD", "1")
    interrupt_at("EPOCH: 3", small(), data, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert [step for step, _ in logged(folder)["loss/train"]] == [1, 2]
    run = training.train(small(), data, tmp_path, report=lambda line: None)
    scalars = logged(folder)
    names = {f"{figure}/{part}": f"{part}_{figure}" for figure in ("loss", "acc") for part in ("train", "test")}
    names |= {"lr": "lr", "seconds": "seconds"}
    assert scalars.keys() == names.keys()
    for tag, column in names.items():
        assert [step for step, _ in scalars[tag]] == [1, 2, 3]
        np.testing.assert_allclose([value for _, value in scalars[tag]], run.history[column], rtol=1e-6)
    assert list(run.history["test_loss"]) == list(finished[0].history["test_loss"])  # the log changes nothing


def test_tensorboard_that_is_not_installed_gets_a_sentence(data, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_TENSORBOARD", "1")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(CourseError, match="TensorBoard is not installed: `pip install tensorboard`"):
        training.train(small(), data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_run_folder_holds_what_is_promised(finished, data):
    run, lines = finished
    files = ".lock .lock-owner config.json history.csv steps.csv train.log last.pt best.pt summary.json"
    assert {path.name for path in run.folder.iterdir()} == set(files.split())
    assert run.folder.name == "custom_resnet-synthetic-seed0"
    assert tuple(run.history) == HISTORY_COLUMNS and list(run.history["epoch"]) == [1, 2, 3]
    assert (run.folder / "train.log").read_text().splitlines() == lines
    network = make_model(run.recipe, 10)
    shapes = {k: v.shape for k, v in network.state_dict().items()}
    for part in ("last", "best"):
        state = torch.load(run.folder / f"{part}.pt", weights_only=True)
        assert {k: v.shape for k, v in state["model"].items()} == shapes
    assert {"device", "torch", "precision", "data", "seed", "code"} <= run.summary.keys()
    assert run.summary["data"]["train_images"] == 70 and run.summary["data"]["fingerprint"] == data.fingerprint
    assert run.summary["best_test_acc"] == max(run.history["test_acc"])
    assert run.summary["parameters"] == sum(p.numel() for p in network.parameters())


def test_log_lines_are_those_of_the_assignments(finished):
    run, lines = finished
    accuracy = run.history["test_acc"][1]
    correct = round(accuracy * 40 / 100)
    assert "EPOCH: 2" in lines
    expected = f"Test set: Average loss: {run.history['test_loss'][1]:.4f}, Accuracy: {correct}/40 ({accuracy:.2f}%)"
    assert expected in lines


def test_learning_rates_are_recorded_as_the_optimizer_had_them(finished):
    run, _ = finished
    schedule, total = run.recipe.schedule, 9
    k, top = np.arange(total), max(schedule.peak_epoch * 3, 2) - 1
    up = schedule.lr_min + (schedule.lr_max - schedule.lr_min) * k / top
    down = schedule.lr_max - (schedule.lr_max - schedule.lr_min) * (k - top) / (total - 1 - top)
    np.testing.assert_allclose(run.steps["lr"], np.where(k <= top, up, down), rtol=1e-6)
    np.testing.assert_allclose(run.history["lr"], run.steps["lr"][2::3], rtol=1e-6)


def test_reported_figures_are_those_of_the_saved_model(finished, data):
    run, _ = finished
    mean, std = (np.asarray(v, dtype=np.float32) for v in (data.mean, data.std))
    x = torch.from_numpy((data.test.images / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad(), pick_device().autocast():
        logits = load_model(run)(x.contiguous(memory_format=torch.channels_last)).float()
    labels = torch.from_numpy(data.test.labels)
    assert run.summary["reported"]["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=0.02)
    predicted = logits.argmax(1).numpy()
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (data.test.labels, predicted), 1)
    assert np.abs(np.array(run.summary["confusion_matrix"]) - expected).sum() <= 2  # a rounding apart at most
    assert np.trace(run.summary["confusion_matrix"]) / 40 * 100 == run.summary["reported"]["test_acc"]


def test_training_averages_are_over_images_not_batches(data):
    """With a learning rate that changes nothing, the epoch's figures are those of its batches by hand."""
    recipe = small(lr_max=2e-12, lr_min=1e-12, ema_decay=0.0, weight_decay=0.0, label_smoothing=0.3)
    device = pick_device()
    loader = make_loaders(recipe, data, 0, device)["train"]
    torch.manual_seed(0)
    state = training.Training(recipe, 10, len(loader), device)
    row = state.train_epoch(loader)
    loss_sum = correct = 0
    loader.sampler.epoch = state.epoch
    with torch.no_grad(), device.autocast():
        for images, labels in loader:
            logits = state.model(images).float()
            loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
    assert row["images"] == 70 and row["correct"] == correct
    assert row["loss"] == pytest.approx(loss_sum / 70, rel=1e-4)
    assert row["acc"] == pytest.approx(100 * correct / 70)


def test_loss_accuracy_and_confusion_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 0, 1])
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1)), math.log(1 + math.exp(3))]
    loss, correct = loss_and_accuracy(logits, labels)
    assert loss == pytest.approx(sum(losses) / 3) and correct == 1
    assert confusion_matrix(logits, labels).tolist() == [[1, 1], [1, 0]]


def test_softmax_before_the_cross_entropy_has_a_floor():
    logits = torch.zeros(1, 10)
    logits[0, 3] = 1000.0
    assert cross_entropy_of_softmax(logits, torch.tensor([3])).item() == pytest.approx(math.log(math.e + 9) - 1)


@pytest.mark.parametrize("epoch", [1, 2])
def test_interrupted_run_ends_like_an_undisturbed_one(finished, data, tmp_path, epoch):
    run, _ = finished
    sentence = interrupt_at(f"EPOCH: {epoch}", small(), data, tmp_path)
    saved = f"epoch {epoch - 1} is saved" if epoch > 1 else "no epoch was finished yet"
    assert sentence == f"Stopped in epoch {epoch} of 3; {saved}. Run this again to go on."
    resumed = training.train(small(), data, tmp_path, report=lambda line: None)
    for name in ("train.log", "steps.csv"):
        assert (resumed.folder / name).read_text() == (run.folder / name).read_text()
    for column in set(HISTORY_COLUMNS) - {"seconds"}:
        np.testing.assert_array_equal(resumed.history[column], run.history[column])
    ours, theirs = (torch.load(r.folder / "last.pt", weights_only=True) for r in (resumed, run))
    for part in ("model", "trained_model"):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in theirs[part])


def test_finished_run_is_loaded_not_trained(finished, data, monkeypatch):
    run, lines = finished
    monkeypatch.setattr(training.Training, "run_epoch", None)
    again = []
    loaded = training.train(small(), data, run.folder.parent, report=again.append)
    assert loaded.summary == run.summary and lines[-1] in again[0]


def test_other_configuration_is_refused_with_the_difference(finished, data):
    run, _ = finished
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(CourseError, match=rf"lr_max: {small().schedule.lr_max:g} there, 0\.25 asked for"):
        training.train(small(lr_max=0.25), data, run.folder.parent)
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


def test_learning_rate_per_epoch_where_the_recipe_steps_per_epoch(data, tmp_path):
    run = training.train(small("published_s8_onecycle_sgd"), data, tmp_path, report=lambda line: None)
    lr = run.steps["lr"].reshape(3, 3)
    assert (lr == lr[:, :1]).all() and len(set(lr[:, 0])) == 3


@pytest.mark.usefixtures("linear_network")
def test_figures_are_of_the_loss_that_is_trained_with(data):
    recipe = small("published_s8_onecycle_sgd", batch_size=70)
    loaders = make_loaders(recipe, data, 0, FLOAT32)
    state = training.Training(recipe, 10, 1, FLOAT32)
    logits, labels, row = state.evaluate("test", loaders["test"])
    assert row["test_loss"] == pytest.approx(cross_entropy_of_softmax(logits, labels).item())
    assert abs(row["test_loss"] - F.cross_entropy(logits, labels).item()) > 0.01
    assert state.train_epoch(loaders["train"])["loss"] == pytest.approx(row["test_loss"], rel=0.02)  # untrained yet


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"batch_size": 71}, r"batch_size=71 is larger than the training set \(70 images\)"),
        ({"validation_images": 70}, "larger than the training set"),
        ({"validation_images": 64, "batch_size": 6}, "validation_images=64 takes every training image of"),
    ],
)
def test_impossible_requests_leave_nothing_behind(data, tmp_path, values, sentence):
    with pytest.raises(CourseError, match=sentence):
        training.train(small(**values), data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_loss_that_is_not_finite_stops_the_run_and_keeps_its_checkpoint(data, tmp_path):
    """Learning rates by the epoch: 0.001, then far too much."""
    recipe = small(epochs=4, lr_max=1e30, lr_min=1e-3, ema_decay=0.0, peak_epoch=2, step="epoch")
    with pytest.raises(CourseError, match=r"not finite in epoch 2: .*; epochs before are kept, so use another"):
        training.train(recipe, data, tmp_path, report=lambda line: None)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("summary.json"))
    (path,) = tmp_path.rglob("last.pt")
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 1 and all(v.isfinite().all() for v in state["model"].values())


@pytest.mark.slow
def test_the_network_learns_the_synthetic_pictures(tmp_path):
    """Three passes over 3,000 pictures, measured on 500 others: a minute on two cores with bfloat16."""
    values = {"batch_size": 64, "lr_max": 0.1, "ema_decay": 0.9}
    recipe = changed(with_epochs(get_recipe("custom_resnet"), 3), values)
    data = load_data("synthetic", limit=3000)
    run = training.train(recipe, dataclasses.replace(data, test=data.test[:500]), tmp_path, report=print)
    assert run.summary["reported"]["test_acc"] > 90


# --- ResNet18 with ReduceLROnPlateau, and what a run may be equipped with


@pytest.fixture(scope="module")
def plateau(data, tmp_path_factory):
    """Four epochs on which the learning rate falls after every epoch that is not better than the best so far."""
    recipe = changed(
        with_epochs(get_recipe("resnet18_layernorm"), 4),
        {"batch_size": 25, "validation_images": 20, "patience": 0, "factor": 0.5, "ema_decay": 0.9, "dropout": 0.3}
        | {"width": 8}
        | {"threshold": 0.6},  # so large that some better epochs are not better enough
    )
    lines = []
    return training.train(recipe, data, tmp_path_factory.mktemp("runs"), report=lines.append), lines, recipe


def test_plateau_run_follows_its_monitored_values(plateau):
    run, lines, recipe = plateau
    *expected, after = plateau_lrs(recipe.schedule, [*run.history["val_acc"], 0], run.steps_per_epoch)
    np.testing.assert_allclose(run.history["lr"], expected, rtol=1e-6)
    drops = np.flatnonzero(np.diff([*expected, after]) < 0) + 1
    logged = [int(line.split()[1].rstrip(":")) for line in lines if "reducing learning rate of group 0" in line]
    assert logged == list(drops) != []


def test_best_checkpoint_is_that_of_the_best_monitored_epoch(plateau):
    run, lines, _ = plateau
    values = run.history["val_acc"]
    best = int(values.argmax())  # the first, as a later tie does not replace it
    assert run.summary["reported"]["epoch"] == best + 1
    assert run.summary["reported"]["test_acc"] == pytest.approx(run.history["test_acc"][best])
    assert torch.load(run.folder / "best.pt", weights_only=True)["epoch"] == best + 1
    records = [v for k, v in enumerate(values) if v > max(values[:k], default=-1)]
    saved = [line for line in lines if line.endswith("has increased: saving the model")]
    assert saved == [f"Validation accuracy {v:.2f} has increased: saving the model" for v in records]


def test_flip_averaging_is_the_mean_of_two_passes(plateau, data, monkeypatch):
    """Every image is classified wrongly by a little, and its mirror image correctly by more."""
    run, _, recipe = plateau
    right = torch.eye(10)[torch.from_numpy(data.test.labels)]

    def predict(model, loader, device, *, flip=False):
        return (3 * right if flip else right.roll(1, dims=1)), torch.from_numpy(data.test.labels)

    state = training.Training(recipe, 10, 2, pick_device())
    state.history, state.sessions = [{"seconds": 1.0, "test_acc": 50.0}], [{"device": "CPU"}]
    monkeypatch.setattr(training, "predict", predict)
    reported = training._final_figures(state, RunFolder(run.folder, run.config), None)["reported"]
    assert (reported["test_acc"], reported["test_acc_flip_averaging"]) == (0, 100)


def test_mirrored_prediction_mirrors_the_images(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    loader = make_loaders(small(), data, 0, FLOAT32)["test"]
    logits, labels = predict(model, loader, FLOAT32, flip=True)
    expected = model(normalise(data.test.images[:, :, ::-1].copy(), data.mean, data.std))
    torch.testing.assert_close(logits, expected.detach())
    assert not torch.allclose(logits, predict(model, loader, FLOAT32)[0], atol=0.1) and model.training
    assert labels.tolist() == data.test.labels.tolist()


def test_held_out_images_are_not_trained_on(data):
    loaders = make_loaders(small(validation_images=20, select="val_acc"), data, 0, FLOAT32)
    train, val = ({image.tobytes() for image in loaders[name].dataset.split.images} for name in ("train", "val"))
    assert len(val) == 20 and not train & val
    assert train | val == {image.tobytes() for image in data.train.images}
    for name in ("val", "test"):  # as they are, in their order
        ((images, labels),), split = loaders[name], loaders[name].dataset.split
        torch.testing.assert_close(images, normalise(split.images, data.mean, data.std))
        assert labels.tolist() == split.labels.tolist()


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("last.pt", lambda state: state["config"]["recipe"].update(factor=0.3), r"factor: 0\.3 there, 0\.5 asked for"),
        ("last.pt", lambda state: state.pop("epoch"), "belongs to another network or version"),
        ("best.pt", lambda state: state.update(model=3), "belongs to another network"),
        ("best.pt", lambda state: state["model"].popitem(), "belongs to another network"),
        ("best.pt", lambda state: state.pop("config"), "does not say which run it belongs to"),
        ("best.pt", None, "best.pt is missing"),
    ],
)
def test_a_bad_checkpoint_is_refused_before_training_goes_on_and_kept(plateau, data, tmp_path, name, change, sentence):
    run, _, recipe = plateau
    values = list(run.history["val_acc"])
    worse = next(k for k in range(1, len(values)) if values[k] <= max(values[:k]))  # no record, so best.pt is needed
    interrupt_at(f"EPOCH: {worse + 2}", recipe, data, tmp_path)
    path, lines = tmp_path / folder_name(recipe, data, 0) / name, []
    state = torch.load(path, weights_only=True)
    path.unlink()
    if change:
        change(state)
        torch.save(state, path)
    before = path.read_bytes() if change else None
    with pytest.raises(CourseError, match=sentence):
        training.train(recipe, data, tmp_path, report=lines.append)
    assert f"EPOCH: {worse + 2}" not in lines and before == (path.read_bytes() if change else None)


def test_best_checkpoint_follows_from_the_last_one(plateau, data, tmp_path, monkeypatch):
    """Interrupted between the two, the run goes on from the epoch that is in its history, and reports that one."""
    run, _, recipe = plateau

    def stop(path, state):
        if path.name == "best.pt":
            raise KeyboardInterrupt
        save_checkpoint(path, state)

    monkeypatch.setattr(run_folder, "save_checkpoint", stop)
    interrupt_at(None, recipe, data, tmp_path)
    monkeypatch.undo()
    best = tmp_path / folder_name(recipe, data, 0) / "best.pt"
    assert torch.load(best.with_name("last.pt"), weights_only=True)["epoch"] == 1 and not best.exists()
    interrupt_at("EPOCH: 2", recipe, data, tmp_path)
    assert torch.load(best, weights_only=True)["epoch"] == 1
    again = training.train(recipe, data, tmp_path, report=lambda line: None)
    assert again.summary["reported"] == run.summary["reported"]


def test_log_that_cannot_be_written_is_one_sentence(data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("COURSE_TENSORBOARD", "1")
    interrupt_at("EPOCH: 2", small(), data, tmp_path)
    folder = tmp_path / folder_name(small(), data, 0) / "tensorboard"
    folder.rename(folder.with_name("old"))
    folder.write_text("a file")
    with pytest.raises(CourseError, match=r"The TensorBoard log in .* cannot be written"):
        training.train(small(), data, tmp_path, report=lambda line: None)


def test_average_of_the_weights_follows_its_formula(data):
    recipe, device = small(ema_decay=0.5), pick_device()
    loader = make_loaders(recipe, data, 0, device)["train"]
    torch.manual_seed(0)
    state = training.Training(recipe, 10, len(loader), device)
    weights = []
    state.optimizer.register_step_post_hook(lambda *_: weights.append(state.model.fc.weight.detach().clone()))
    state.train_epoch(loader)
    expected = weights[0]  # the average starts with the first weights
    for step, weight in enumerate(weights[1:], start=1):
        decay = min(0.5, step / (9 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(state.evaluated.fc.weight.detach(), expected)


def test_vectors_are_spared_weight_decay_where_the_recipe_says_so():
    recipe = get_recipe("resnet18_layernorm")
    model = make_model(recipe, 10)
    decayed, spared = make_optimizer(recipe, model).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (recipe.weight_decay, 0)
    assert {p.ndim for p in spared["params"]} == {1} and 1 not in {p.ndim for p in decayed["params"]}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


@dataclasses.dataclass(frozen=True)
class Float16(Device):
    """As on GPUs before Ampere, such as Colab's T4."""

    loss_scale: float = 2.0**10

    def scaler(self):
        return torch.amp.GradScaler("cpu", init_scale=self.loss_scale)


FLOAT16 = Float16(torch.device("cpu"), torch.float16, "test")
OVERFLOWING = dataclasses.replace(FLOAT16, loss_scale=2.0**30)  # until it has been halved often enough


@pytest.fixture
def linear_network(monkeypatch):
    """One that is fast in float16 without a GPU."""
    monkeypatch.setattr(training, "make_model", lambda _, n: nn.Sequential(nn.Flatten(), nn.Linear(3072, n)))


@pytest.mark.usefixtures("linear_network")
def test_steps_whose_float16_gradients_overflow_are_left_out_and_the_others_clipped_unscaled(data):
    recipe = small(clip_norm=0.01, nesterov=False, momentum=0.0, weight_decay=0.0, lr_min=1.0, lr_max=1.5)
    loader = make_loaders(recipe, data, 0, OVERFLOWING)["train"]
    state = training.Training(recipe, 10, len(loader), OVERFLOWING)
    before = state.model[1].weight.detach().clone()
    state.train_epoch(loader)
    assert state.scaler.get_scale() == 2.0**27  # halved after each of the three steps
    assert torch.equal(state.model[1].weight, before) and torch.equal(state.evaluated[1].weight, before)
    state.scaler.update(1024.0)
    loader = make_loaders(recipe, dataclasses.replace(data, train=data.train[:32]), 0, OVERFLOWING)["train"]
    before, lr = [p.detach().clone() for p in state.model.parameters()], state.optimizer.param_groups[0]["lr"]
    state.train_epoch(loader)  # one step
    moved = torch.sqrt(sum((p - q).pow(2).sum() for p, q in zip(state.model.parameters(), before, strict=True)))
    assert moved.item() == pytest.approx(0.01 * lr, rel=1e-3)


@pytest.mark.usefixtures("linear_network")
def test_float16_with_scaled_losses_trains_as_float32_does_and_resumes(data, tmp_path, monkeypatch):
    # 18 steps an epoch: where gradients overflow at first, the scaling still falls when the first epoch has ended.
    recipe = small(batch_size=4, lr_min=1e-5, lr_max=3e-3)

    def train(device, folder):
        monkeypatch.setattr(training, "pick_device", lambda: device)
        return training.train(recipe, data, tmp_path / folder, report=lambda line: None)

    losses = [train(device, device.precision).history["test_loss"] for device in (FLOAT32, FLOAT16)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert abs(losses[0][2] / losses[0][0] - 1) > 0.01  # something was trained

    whole = train(OVERFLOWING, "whole")
    interrupt_at("EPOCH: 2", recipe, data, tmp_path / "parts")
    parts = train(OVERFLOWING, "parts")
    states = [torch.load(run.folder / "last.pt", weights_only=True) for run in (whole, parts)]
    assert states[0]["scaler"] == states[1]["scaler"] and states[0]["scaler"]["scale"] < 2.0**20
    assert all(torch.equal(states[0]["model"][key], states[1]["model"][key]) for key in ("1.weight", "1.bias"))
    assert whole.log == parts.log and whole.summary["precision"] == "float16"

    states[0]["scaler"]["scale"] = "high"
    with pytest.raises(CourseError, match="scaler has values of other types"):
        load_training(training.Training(recipe, 10, 18, OVERFLOWING), states[0], tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("augmentation", "gave"),
    [
        ((("Normalize", {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "p": 0.1}),), "float32 of shape"),
        ((("RandomCrop", {"height": 28, "width": 28}),), r"uint8 of shape \(28, 28, 3\)"),
        ((("RandomCrop", {"height": 40, "width": 40}),), "an error"),
    ],
)
def test_augmentation_that_gives_other_images_is_refused_before_anything_is_written(data, tmp_path, augmentation, gave):
    recipe = dataclasses.replace(small(), augmentation=augmentation)
    with pytest.raises(CourseError, match=f"makes of an image, uint8 of shape .*, {gave}"):
        training.train(recipe, data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_recipe_normalises_by_its_own_mean_and_deviation(data, tmp_path):
    """With the same figures as the data's own nothing changes, with others the network sees other images."""
    own = (tuple(map(float, data.mean)), tuple(map(float, data.std)))
    losses = []
    for k, normalisation in enumerate((None, own, ((0.5,) * 3, (0.5,) * 3))):
        recipe = dataclasses.replace(small(epochs=1, peak_epoch=0.5), normalisation=normalisation)
        run = training.train(recipe, data, tmp_path / str(k), report=lambda line: None)
        losses.append(run.history["test_loss"].tolist())
    assert losses[0] == losses[1] != losses[2]
    assert run.config["data"]["mean"] == [0.5] * 3


@pytest.mark.usefixtures("linear_network")
def test_every_step_is_that_of_the_recipe_written_out(data):
    recipe = small(ema_decay=0.0, label_smoothing=0.3, weight_decay=0.1)
    loader = make_loaders(recipe, data, 0, FLOAT32)["train"]
    state = training.Training(recipe, 10, len(loader), FLOAT32)
    twin = copy.deepcopy(state.model)
    optimizer = torch.optim.SGD(twin.parameters(), momentum=0.9, nesterov=True, weight_decay=0.1)
    state.train_epoch(loader)
    loader.sampler.epoch = 0
    for (images, labels), step in zip(loader, state.steps, strict=True):
        optimizer.param_groups[0]["lr"] = step["lr"]
        optimizer.zero_grad()
        F.cross_entropy(twin(images), labels, label_smoothing=0.3).backward()
        optimizer.step()
    torch.testing.assert_close(state.model.state_dict(), twin.state_dict())


def test_classes_of_which_no_image_is_held_out_are_noted(data):
    (note,) = held_out_notes(small(validation_images=5, select="val_acc"), data, 0)
    assert note.startswith("no image of ") and note.endswith(" is held out: raise validation_images")
    assert note.count(",") == 4 and not held_out_notes(small(validation_images=20, select="val_acc"), data, 0)


def test_a_notebook_shows_mistakes_and_stops_as_a_line(capsys):
    shell = InteractiveShell()
    for error, line in ((CourseError("Raise it."), "Error: Raise it."), (Stopped(2, 3), Stopped(2, 3).sentence)):
        shell.push({"error": error})
        shell.run_cell("raise error")
        assert capsys.readouterr().out.strip() == line
