"""Image data as uint8 arrays: the official CIFAR-10, a folder of images, or synthetic pictures.

Images are decoded once, put into an order that does not depend on where they came from, and cached
beside their source, so that a second start takes a moment and the official archive and a folder of
the same pictures give the same training.
"""

import hashlib
import os
import sys
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from helpers.plumbing import distributed
from helpers.plumbing.errors import UNPRINTABLE, CourseError
from helpers.plumbing.progress import progress_bar
from helpers.recipes import Recipe
from helpers.settings import REPOSITORY

SIZE = 32  # pixels: the networks of the course are made for 32x32 images
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # no others: Pillow runs Ghostscript for EPS, say
SYNTHETIC_COUNTS = {"train": 10_000, "test": 2_000}
CACHE_FORMAT = "1"  # raise it when what is cached changes
CIFAR10_FINGERPRINT = "f84c547c8f0c1dac"  # of the complete set, wherever its pictures come from
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


@dataclass(frozen=True)
class Split:
    """Images (N, 32, 32, 3) uint8 RGB, and their labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: np.ndarray) -> "Split":
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Data:
    """A data set. `mean` and `std` (3,) are what it is normalised by: by default the statistics of all training
    pixels / 255."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray
    fingerprint: str  # the same for the same labelled pictures, wherever they came from
    notes: tuple[str, ...] = ()  # what a reader has to know: synthetic, resized, shortened

    def normalised_by(self, recipe: Recipe) -> "Data":
        """The data with the mean and deviation that a recipe normalises by, if it has its own."""
        if recipe.normalisation is None:
            return self
        mean, std = map(np.array, recipe.normalisation)
        return replace(self, mean=mean, std=std)

    def describe(self) -> dict:
        """What a run records of its data, as JSON types."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "train_images": len(self.train),
            "test_images": len(self.test),
            "mean": [round(float(value), 6) for value in self.mean],
            "std": [round(float(value), 6) for value in self.std],
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


@distributed.first_of_each_machine()  # decodes; the others read what it cached
def load_data(source: str = "cifar10", *, limit: int | None = None) -> Data:
    """Load `cifar10`, `synthetic` or the folder at the path `source`.

    `limit` keeps that many training images at most, and that many test images, each class in proportion;
    the normalisation is then that of the kept images. Raises CourseError.
    """
    if source == "cifar10":
        data = _load_cifar10(REPOSITORY / "data")
    elif source == "synthetic":
        data = _load_synthetic()
    else:
        try:
            folder = Path(source).expanduser()
            if not folder.exists() and (REPOSITORY / folder).exists():
                folder = REPOSITORY / folder  # notebooks run in notebooks/
        except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown ~user, a NUL
            raise CourseError(f"{source[:100]!r} cannot be a data folder ({error}).") from error
        data = _load_folder(folder)
        if data.name == "synthetic" or (data.name == "cifar10" and data.fingerprint != CIFAR10_FINGERPRINT):
            data = replace(data, notes=(f"a folder of that name, not the {data.name} of the course", *data.notes))
    if limit is None or limit >= max(len(data.train), len(data.test)):
        return data
    return _limited(data, limit)


def stratified_split(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `count` images, each class drawn in proportion, and of the rest; each sorted.

    Class k gets its share of `count`, rounded so that the shares add up. The same seed draws the same.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    bounds = np.round(np.cumsum([0] + [len(m) for m in members]) * count / len(labels)).astype(int)
    drawn = np.sort(np.concatenate([m[:k] for m, k in zip(members, np.diff(bounds), strict=True)]))
    return drawn, np.setdiff1d(np.arange(len(labels)), drawn)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (3,) over all pixels / 255, from each channel's histogram.

    The deviation of a constant channel is given as 1, so that it can be divided by.
    """
    counts = np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(3)])
    levels = np.arange(256)
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total
    return mean / 255, np.where(variance > 0, np.sqrt(variance) / 255, 1.0)


def _limited(data: Data, limit: int) -> Data:
    train, test = (
        split[stratified_split(split.labels, min(limit, len(split)), seed=0)[0]] for split in (data.train, data.test)
    )
    if any(len(np.unique(split.labels)) < len(data.classes) for split in (train, test)):
        raise CourseError(f"A limit of {limit} images leaves classes without any: raise it.")
    mean, std = channel_statistics(train.images)
    note = f"limited to {len(train):,} training and {len(test):,} test images"
    return replace(
        data,
        train=train,
        test=test,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(data.classes, train, test),
        notes=(*data.notes, note),
    )


def _digests(split: Split) -> list[bytes]:
    return [
        hashlib.blake2b(image, digest_size=16, salt=int(label).to_bytes(8, "little")).digest()
        for image, label in zip(split.images, split.labels, strict=True)
    ]


def _fingerprint(classes: tuple[str, ...], *splits: Split) -> str:
    """16 hex digits of a SHA-256 over the class names and the sorted digests of each split's images."""
    total = hashlib.sha256("\0".join(classes).encode())
    for split in splits:
        total.update(b"".join(sorted(_digests(split))))
    return total.hexdigest()[:16]


def _prepare(classes: tuple[str, ...], train: Split, test: Split, notes: tuple[str, ...]) -> dict:
    """Everything of a Data but its name, as arrays to cache; images in the order of their digests."""
    train, test = (
        split[np.array(sorted(range(len(split)), key=_digests(split).__getitem__))] for split in (train, test)
    )
    mean, std = channel_statistics(train.images)
    return {
        "classes": np.array(classes),
        "train_images": train.images,
        "train_labels": train.labels,
        "test_images": test.images,
        "test_labels": test.labels,
        "mean": mean,
        "std": std,
        "fingerprint": np.array(_fingerprint(classes, train, test)),
        "notes": np.array(notes, dtype=str),
    }


def _cached(path: Path, stamp: str, build: Callable[[], dict], name: str) -> Data:
    """The data cached at `path` if it was made from the same `stamp`, otherwise built and cached."""
    stamp = f"{CACHE_FORMAT} {stamp}"
    with suppress(Exception), np.load(path, allow_pickle=False) as cache:  # none yet, or damaged: it is only a copy
        if str(cache["stamp"]) == stamp:
            return _as_data(cache, name)
    arrays = build()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{path.name}.*.tmp"):  # by a killed process; a living one does without a cache
            left.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that lies there
            np.savez(file, stamp=np.array(stamp), **arrays)
        temporary.replace(path)
    except OSError as error:
        print(f"The decoded images are not cached ({error}); the next start decodes again.", file=sys.stderr)
    finally:
        with suppress(OSError):  # a read-only file system refuses even what is not there
            temporary.unlink(missing_ok=True)
    return _as_data(arrays, name)


def _as_data(arrays: Mapping[str, np.ndarray], name: str) -> Data:
    return Data(
        name=name,
        classes=tuple(map(str, arrays["classes"])),
        train=Split(arrays["train_images"], arrays["train_labels"]),
        test=Split(arrays["test_images"], arrays["test_labels"]),
        mean=arrays["mean"],
        std=arrays["std"],
        fingerprint=str(arrays["fingerprint"]),
        notes=tuple(map(str, arrays["notes"])),
    )


def _load_synthetic() -> Data:
    from helpers.plumbing import synthetic

    def drawn() -> dict:
        train, test = (
            Split(*synthetic.draw(SYNTHETIC_COUNTS[part], seed)) for seed, part in enumerate(("train", "test"))
        )
        return _prepare(synthetic.CLASSES, train, test, ("synthetic pictures, not CIFAR-10",))

    code = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()  # other code may draw other pictures
    return _cached(REPOSITORY / "data" / "synthetic.npz", f"{code} {SYNTHETIC_COUNTS}", drawn, "synthetic")


def _load_cifar10(root: Path) -> Data:
    """The official archive, read by torchvision, which checks the MD5 of each batch before it is unpickled."""
    return _cached(root / "cifar10.npz", "cifar-10-python", lambda: _decode_cifar10(root), "cifar10")


def _decode_cifar10(root: Path) -> dict:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    archive = root / CIFAR10.filename
    by_hand = f"download {CIFAR10_URL} by hand (MD5 {CIFAR10.tgz_md5}), put it at {archive}, and run this again"

    def read() -> list[CIFAR10]:
        return [CIFAR10(str(root), train=train) for train in (True, False)]

    try:
        train, test = read()
    except RuntimeError:  # nothing is unpacked, or it is damaged
        try:
            if not archive.exists():
                _download(archive, CIFAR10.tgz_md5)
            if not check_integrity(str(archive), CIFAR10.tgz_md5):
                raise CourseError(
                    f"{archive} is truncated or damaged (its MD5 is wrong): delete it, then {by_hand}."
                ) from None
            extract_archive(str(archive), str(root))
            train, test = read()
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            raise CourseError(
                f"CIFAR-10 could not be had ({error}): {by_hand}; or use --data synthetic, or a folder of images."
            ) from error
    splits = (  # torchvision's arrays are transposed views: digests need their bytes in order
        Split(np.ascontiguousarray(part.data), np.array(part.targets, dtype=np.int64)) for part in (train, test)
    )
    return _prepare(tuple(train.classes), *splits, notes=())


def _download(archive: Path, md5: str) -> None:
    """The archive over TLS alone: torchvision tries a download that failed again without. Raises OSError."""
    unfinished = archive.with_name(f"{archive.name}.{os.getpid()}.tmp")
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(CIFAR10_URL, timeout=60) as response, unfinished.open("xb") as file:
            if not response.url.startswith("https://"):
                raise OSError(f"it was redirected to {response.url}, without TLS")
            total, got = int(response.headers.get("Content-Length") or 0) >> 20, hashlib.md5()
            for block in progress_bar(iter(partial(response.read, 2**20), b""), "Downloading", total, " MB"):
                got.update(block)
                file.write(block)
        if got.hexdigest() != md5:
            raise OSError("what came is truncated or damaged: its MD5 is wrong")
        unfinished.replace(archive)
    finally:
        unfinished.unlink(missing_ok=True)


def _load_folder(folder: Path) -> Data:
    """`folder/train/<class>/*` and `folder/test/<class>/*`; a class's label is its place in sorted order."""
    if not folder.is_dir():
        raise CourseError(
            f"There is no data folder {folder}: give `cifar10`, `synthetic`, or a folder that holds "
            "train/<class>/* and test/<class>/* images."
        )
    try:
        files = {part: _list_images(folder, part) for part in ("train", "test")}
    except OSError as error:  # no permission, say
        raise CourseError(f"{error.filename} cannot be read ({error}): mend or remove it.") from error
    for name in (folder.resolve().name, *files["train"]):
        if UNPRINTABLE.search(name):
            raise CourseError(f"The name of the folder {name} has characters that cannot be shown: rename it.")
    if files["train"].keys() != files["test"].keys():
        both_ways = (("train", "test"), ("test", "train"))
        only = {part: sorted(files[part].keys() - files[other].keys()) for part, other in both_ways}
        listed = "; ".join(f"only in {part}/: {', '.join(names)}" for part, names in only.items() if names)
        raise CourseError(f"{folder} has different classes in train/ and test/ ({listed}): make them the same.")
    stamp = hashlib.sha256()
    for part, classes in files.items():
        for name, entries in classes.items():
            for file, size, modified in entries:
                stamp.update(f"{part}\0{name}\0{file}\0{size}\0{modified}\n".encode(errors="surrogateescape"))
    return _cached(
        folder / f".images-{SIZE}x{SIZE}.npz",
        stamp.hexdigest(),
        lambda: _decode_folder(folder, files),
        folder.resolve().name,
    )


def _list_images(folder: Path, part: str) -> dict[str, list[tuple[str, int, int]]]:
    """{class: [(file name, bytes, modification time in ns)]} of `folder/part`, sorted."""
    if not (folder / part).is_dir():
        raise CourseError(f"{folder} has no {part}/ folder: it has to hold train/<class>/* and test/<class>/*.")
    classes = {}
    for directory in sorted((folder / part).iterdir()):
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        with os.scandir(directory) as entries:
            images = [e for e in entries if Path(e.name).suffix.lower() in SUFFIXES and e.name[0] != "."]
        if not images:
            raise CourseError(f"The class folder {directory} holds no image: add some, or remove the folder.")
        for entry in images:
            if not entry.is_file():  # reading a pipe would wait forever
                raise CourseError(f"The image {entry.path} cannot be read (it is no file): mend or remove it.")
        classes[directory.name] = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in images)
    if len(classes) < 2:
        raise CourseError(f"{folder / part} has fewer than two class folders: a classifier needs two or more.")
    return classes


def _decode(path: Path) -> tuple[np.ndarray, bool]:
    """An image file as (32, 32, 3) uint8 RGB, and whether it had another size."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith("I"):  # 16-bit grey: convert() would clip instead of scale
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = ImageOps.exif_transpose(image).convert("RGB")
        resize = image.size != (SIZE, SIZE)
        if resize:
            image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)
        return np.asarray(image), resize
    except Exception as error:  # damage can surface as anything
        raise CourseError(f"The image {path} cannot be read ({error}): mend or remove it.") from error


def _decode_folder(folder: Path, files: dict) -> dict:
    splits, resized = [], 0
    for part, classes in files.items():
        paths = [folder / part / name / entry[0] for name, entries in classes.items() for entry in entries]
        images = np.empty((len(paths), SIZE, SIZE, 3), dtype=np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(_decode, paths)
            for i, (image, other_size) in enumerate(progress_bar(decoded, f"Decoding {part}", len(paths), " images")):
                images[i] = image
                resized += other_size
        labels = np.repeat(np.arange(len(classes)), [len(entries) for entries in classes.values()])
        splits.append(Split(images, labels))
    notes = (f"{resized:,} images of other sizes were cropped and resized to {SIZE}x{SIZE}",) if resized else ()
    return _prepare(tuple(files["train"]), *splits, notes=notes)
