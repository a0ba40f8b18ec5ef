"""CIFAR-10 and the other collections, from small archives made as the real ones are."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import random_images, write_folder
from scipy.io import savemat
from test_data import assert_same_data
from torchvision.datasets import CIFAR10, SVHN, FashionMNIST

import helpers.data
from helpers import settings
from helpers.data import load_data
from helpers.plumbing import downloads, image_sources
from helpers.plumbing.errors import CourseError


def refused(source) -> str:
    with pytest.raises(CourseError) as error:
        load_data(str(source))
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def archive_of(images: np.ndarray, labels: list[int], names: list[str]) -> tuple[bytes, dict[str, str]]:
    """The six batches of CIFAR-10 in its own structure, the last sixth being the test set, and each file's MD5."""
    batches = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    contents = {"batches.meta": {"label_names": names, "num_vis": 3072}}
    for name, rows in zip(batches, np.split(np.arange(len(labels)), 6), strict=True):
        planes = images[rows].transpose(0, 3, 1, 2).reshape(len(rows), 3072)  # red, green, blue, row by row
        contents[name] = {"data": planes, "labels": [labels[row] for row in rows], "batch_label": name}
    archive, sums = io.BytesIO(), {}
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in contents.items():
            raw = pickle.dumps(content, protocol=2)
            sums[name] = hashlib.md5(raw).hexdigest()
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    return archive.getvalue(), sums


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A small archive as torchvision expects it: its bytes, images, labels and class names; no network."""
    images, labels, names = random_images(24, seed=2), [0, 1] * 12, ["airplane", "automobile"]
    archive, sums = archive_of(images, labels, names)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive).hexdigest())
    for batches in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, batches, [[name, sums[name]] for name, _ in getattr(CIFAR10, batches)])
    monkeypatch.setitem(CIFAR10.meta, "md5", sums["batches.meta"])
    return archive, images, np.array(labels), names


@pytest.fixture(autouse=True)
def net(tmp_path, monkeypatch) -> dict[str, bytes]:
    """What there is to download, by its address; and a data folder of the test's own."""
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "course" / "data"))
    monkeypatch.setattr(downloads, "PAUSE", 0)
    contents = {}

    def fetch(address, part, hurry):
        if address not in contents:
            raise OSError("no network in this test")
        part.write_bytes(contents[address])

    monkeypatch.setattr(downloads, "_fetch", fetch)
    return contents


def place(archive: bytes) -> Path:
    path = settings.data_folder() / "cifar-10-python.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive)
    return path


def test_only_archive_and_cache_are_left_and_the_cache_saves_the_download(official, net):
    net[image_sources.BAIDU.format("cifar-10-python.tar.gz")] = official[0]  # the last of the hosts
    first = load_data("CIFAR10")
    names = {path.name for path in settings.data_folder().iterdir()}
    assert {name for name in names if not name.endswith(".lock")} == {"cifar-10-python.tar.gz", "cifar10.npz"}
    net.clear()
    assert_same_data(load_data("cifar10"), first)


def test_own_address_comes_first(official, net, monkeypatch):
    net["http://classroom/cifar.tgz"] = official[0]
    net[CIFAR10.url] = b"the built-in ones are not asked"
    monkeypatch.setenv("COURSE_CIFAR10_URL", "http://classroom/cifar.tgz")
    assert len(load_data("cifar10").train) == 20
    monkeypatch.setenv("COURSE_CIFAR10_URL", "file:///etc/passwd")
    assert "COURSE_CIFAR10_URL has to begin with https:// or http://, not 'file:" in refused("cifar10")


def test_without_network_the_message_names_a_way_by_hand_that_is_not_the_one_dead_host(official):
    message = refused("cifar10")
    for host in image_sources.HOSTS["cifar10"]:
        assert host.format("cifar-10-python.tar.gz") in message
    assert f"put it at {settings.data_folder() / 'cifar-10-python.tar.gz'}" in message
    assert "no network in this test" in message and CIFAR10.tgz_md5 in message


def test_archive_with_a_wrong_md5_is_named_and_never_opened(official, monkeypatch):
    path = place(official[0][:-100])
    monkeypatch.setattr(tarfile, "open", None)
    monkeypatch.setattr(pickle, "load", None)
    message = refused("cifar10")
    assert f"{path} is truncated or damaged (its MD5 is wrong): delete it" in message and CIFAR10.tgz_md5 in message
    assert not [*path.parent.rglob("*.npz"), *path.parent.rglob("*.tmp")] and path.exists()


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_altered_batch_is_read_from_the_archive_and_never_unpickled(official, name, tmp_path):
    path = place(official[0])
    with tarfile.open(path) as archive:  # as torchvision leaves it in the same folder
        archive.extractall(path.parent, filter="data")
    path.rename(tmp_path / "archive")
    first = load_data("cifar10")
    (path.parent / CIFAR10.base_folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (path.parent / "cifar10.npz").unlink()
    assert "no network in this test" in refused("cifar10")
    (tmp_path / "archive").rename(path)
    assert_same_data(load_data("cifar10"), first)
    assert not (tmp_path / "sprung").exists()


def test_archive_and_png_folder_of_the_same_pictures_give_the_same_data(official, tmp_path, monkeypatch):
    archive, images, labels, names = official
    place(archive)
    splits = {
        part: {name: list(images[rows][labels[rows] == k]) for k, name in enumerate(names)}
        for part, rows in (("train", slice(0, 20)), ("test", slice(20, 24)))
    }
    complete = load_data("cifar10")  # put there by hand: without network
    assert (complete.name, complete.notes) == ("cifar10", ())
    monkeypatch.setattr(helpers.data, "CIFAR10_FINGERPRINT", complete.fingerprint)
    assert_same_data(complete, load_data(str(write_folder(tmp_path / "cifar10", splits))))


def test_fashion_mnist_gets_a_border_and_three_channels(net, monkeypatch):
    rng, resources, images, labels = np.random.default_rng(0), [], {}, {}
    for part, count in (("train", 20), ("t10k", 10)):
        images[part], labels[part] = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count) % 10
        head = struct.pack(">IIII", 0x803, count, 28, 28), struct.pack(">II", 0x801, count)
        for kind, content in (
            ("images-idx3", head[0] + images[part].tobytes()),
            ("labels-idx1", head[1] + labels[part].astype(np.uint8).tobytes()),
        ):
            packed = gzip.compress(content)
            resources.append((f"{part}-{kind}-ubyte.gz", hashlib.md5(packed).hexdigest()))
            net[image_sources.HOSTS["fashionmnist"][0].format(resources[-1][0])] = packed
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    data = load_data("FashionMNIST")
    assert (data.name, data.classes[0], len(data.train), len(data.test)) == ("fashionmnist", "T-shirt/top", 20, 10)
    assert data.notes == ("grey images of 28x28 in three equal channels, with a black border to 32x32",)
    order = [np.flatnonzero((images["t10k"] == image[2:30, 2:30, 0]).all(axis=(1, 2)))[0] for image in data.test.images]
    np.testing.assert_array_equal(labels["t10k"][order], data.test.labels)
    assert (data.test.images == data.test.images[..., :1]).all() and not data.test.images[:, [0, 1, 30, 31]].any()


def test_svhn_has_the_digits_in_their_order(net, monkeypatch):
    images, content = random_images(11, seed=5), {}
    for part, digits in (("train", [*range(1, 11), 10]), ("test", range(1, 11))):  # 10 stands for the digit 0
        file = io.BytesIO()
        savemat(file, {"X": images[: len(digits)].transpose(1, 2, 3, 0), "y": np.array(digits)[:, None]})
        content[part] = ["", f"{part}_32x32.mat", hashlib.md5(file.getvalue()).hexdigest()]
        net[image_sources.HOSTS["svhn"][0].format(content[part][1])] = file.getvalue()
    monkeypatch.setattr(SVHN, "split_list", content)
    data = load_data("svhn")
    assert data.classes == tuple("0123456789") and np.bincount(data.train.labels).tolist() == [2] + [1] * 9
    assert data.test.images[data.test.labels == 3].tobytes() == images[2].tobytes()
    assert "10 pictures are in the training set and in the test set" in data.notes[0]
