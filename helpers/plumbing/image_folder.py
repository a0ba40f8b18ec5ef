"""Spares the reader folders of images: what lies there is listed and decoded, and what is odd about it is noted."""

import hashlib
import itertools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np

from helpers.plumbing.errors import UNPRINTABLE, CourseError, printable
from helpers.plumbing.image_sources import HOSTS, Pictures, Source
from helpers.plumbing.progress import progress_bar
from helpers.plumbing.synthetic import SIZE

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF")  # Pillow runs Ghostscript for EPS, say
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".avif")
CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx")  # and all that begins with a dot
LISTED = 10  # damaged images that a message names; a note names three files
REMARKS = {  # what may happen to a picture, in the words of a note
    "size": f"{{:,}} images of other sizes were cropped and resized to {SIZE}x{SIZE}",
    "transparent": "{:,} transparent images were laid on a ground: white under dark pixels, black under light ones",
    "range": "{:,} images of other numbers than 0 to 255 were scaled by the range of their type",
    "frames": "{:,} images have several frames, of which the first was taken",
    "nested": "{:,} images lie in folders within class folders: {}",
    "left out": "{:,} files are no images in a class folder and left out: {}",
}


def _mistake(sentence: str) -> CourseError:
    return CourseError(printable(sentence))  # names of files may hold line breaks


def folder_source(folder: Path) -> Source:
    """`folder/train/<class>/**` and `folder/test/<class>/**` (or val, valid, validation). Raises CourseError.

    Labels follow the sorted class names, which are compared and kept in Unicode's composed form (NFC), as systems spell
    one name differently.
    """
    layout = "with train/<class>/* and test/<class>/* images"
    if not folder.is_dir():
        raise _mistake(f"There is no data folder {folder}: give {', '.join(HOSTS)}, synthetic, or a folder {layout}.")
    left_out = []
    try:
        tests = [name for name in ("test", "val", "valid", "validation") if (folder / name).is_dir()]
        if not (tests and (folder / "train").is_dir()):
            raise _mistake(f"{folder} has no {'train' if tests else 'test'}/ folder: it has to be one {layout}.")
        parts = {part: _list_classes(folder / part, left_out) for part in ("train", tests[0])}
    except OSError as error:  # no permission, say
        raise _mistake(f"{error.filename} cannot be read ({error}): fix or remove it.") from error
    notes = [] if tests[0] == "test" else [f"{tests[0]}/ serves as the test set"]
    notes += [f"{name}/ beside {tests[0]}/ is not read" for name in tests[1:]]
    train, test = parts.values()
    if train.keys() != test.keys():
        only = {"train": sorted(train.keys() - test.keys()), tests[0]: sorted(test.keys() - train.keys())}
        listed = "; ".join(f"only in {part}/: {', '.join(names)}" for part, names in only.items() if names)
        raise _mistake(f"{folder} has different classes in train/ and {tests[0]}/ ({listed}): make them the same.")
    for name in (folder.resolve().name, *train):
        if UNPRINTABLE.search(name):
            raise _mistake(f"The name of the folder {name} has characters that cannot be shown: rename it.")
    state = [3, notes, [str(path.relative_to(folder)) for path in left_out]]  # raise 3 when decoding changes
    for path in itertools.chain(*train.values(), *test.values()):
        state.append(path.parts[len(folder.parts) :])
        with suppress(OSError):  # a broken link, or no permission, of which decoding will tell
            state += [(found := os.stat(path)).st_size, found.st_mtime_ns]
    stamp = hashlib.sha256(repr(state).encode()).hexdigest()
    read = partial(_read_folder, folder, parts, notes, left_out)
    return Source(folder.resolve().name, folder / f".images-{SIZE}x{SIZE}.npz", stamp, read)


def _list_classes(part: Path, left_out: list[Path]) -> dict[str, list[Path]]:
    """The files of each class, sorted. Files beside the class folders, and links to folders in them, are left out."""

    def stop(error: OSError) -> None:
        raise error

    def wanted(names: list[str]) -> list[str]:
        return sorted(name for name in names if not name.startswith(".") and name.lower() not in CLUTTER)

    classes = {}
    for directory in (part / name for name in wanted(os.listdir(part))):
        if not directory.is_dir():
            left_out.append(directory)
            continue
        if part.resolve().is_relative_to(directory.resolve()):
            raise _mistake(f"The class folder {directory} is a link to what holds it: remove it.")
        files = classes.setdefault(unicodedata.normalize("NFC", directory.name), [])
        for where, folders, names in os.walk(directory, onerror=stop):
            folders[:] = wanted(folders)
            left_out += [path for path in (Path(where, name) for name in folders) if path.is_symlink()]
            files += [Path(where, name) for name in wanted(names)]
    if len(classes) < 2:
        raise _mistake(f"{part} has fewer than two class folders: a classifier needs two or more.")
    return dict(sorted(classes.items()))


def _read_folder(folder: Path, parts: dict[str, dict], notes: list[str], left_out: list[Path]) -> Pictures:
    damaged, empty, splits = [], [], []
    happened = defaultdict(list, {"left out": [*left_out]})
    for part, classes in parts.items():
        paths = [path for files in classes.values() for path in files]
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in classes.values()])
        images, kept = np.empty((len(paths), SIZE, SIZE, 3), np.uint8), np.zeros(len(paths), bool)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = progress_bar(pool.map(_try_to_decode, paths), f"Decoding {part}", len(paths), " images")
            for i, (path, (image, remarks, problem)) in enumerate(zip(paths, decoded, strict=True)):
                if image is not None:
                    images[i], kept[i] = image, True
                    if path.parents[2] != folder:
                        remarks = [*remarks, "nested"]
                if problem:
                    damaged.append(f"{path.relative_to(folder)} ({problem})")
                for remark in remarks:
                    happened[remark].append(path)
        splits.append((images[kept], labels[kept]))
        empty += [folder / part / name for label, name in enumerate(classes) if label not in labels[kept]]
    if damaged:
        count = "1 image" if len(damaged) == 1 else f"{len(damaged):,} images"
        listed = ", ".join(damaged[:LISTED]) + ", …" * (len(damaged) > LISTED)
        raise _mistake(f"{count} in {folder} cannot be read: {listed}; fix or remove what is damaged.")
    if empty:
        raise _mistake(f"The class folder {empty[0]} holds no image: add some, or remove the folder.")
    for remark in (remark for remark in REMARKS if happened[remark]):
        names = [printable(path.relative_to(folder).as_posix()) for path in happened[remark][:3]]
        count = len(happened[remark])
        notes = [*notes, REMARKS[remark].format(count, ", ".join(names) + ", …" * (count > 3))]
    return Pictures(tuple(parts["train"]), *splits, tuple(notes))


@cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # not every Pillow has AVIF


def _try_to_decode(path: Path) -> tuple[np.ndarray | None, list[str], str]:
    """The image if it is one, remarks on it, and why it cannot be read if its name or content promises an image."""
    from PIL import UnidentifiedImageError

    try:
        if path.is_file():  # reading a pipe would wait forever
            return *decode(path), ""
        problem = "no file"
    except UnidentifiedImageError:
        problem = "no image of a known kind"
    except Exception as error:  # damage can surface as anything
        return None, [], (str(error) or repr(error))[:100]
    return (None, [], problem) if path.suffix.lower() in SUFFIXES else (None, ["left out"], "")


def decode(path: Path) -> tuple[np.ndarray, list[str]]:
    """An image file as uint8 (32, 32, 3) in RGB, and which REMARKS apply. Raises ValueError, or what Pillow raises."""
    from PIL import Image, ImageOps

    remarks = []
    with Image.open(path, formats=_formats()) as image:
        tags = dict(getattr(image, "tag_v2", {}))  # of a TIFF
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's, with a preview
            remarks.append("frames")
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF" or 2 in tags.get(339, ()):
        image = _scaled_to_8_bits(image, tags)
        remarks.append("range")
    transparency = image.info.get("transparency")
    if transparency is not None or image.mode in ("LA", "PA", "RGBA", "RGBa"):
        if isinstance(transparency, tuple) and max(transparency) > 255:  # 16 bits, of which Pillow kept the upper 8
            image.info["transparency"] = tuple(level >> 8 for level in transparency)
        image = image.convert("RGBA")
        opaque = np.asarray(image)[..., 3]
        if not opaque.any():
            raise ValueError("all of it is transparent")
        if opaque.min() < 255:
            # Black or white, whichever is farther from what is seen: on mid grey, a grey shape would vanish.
            level = 255 * int(np.average(np.asarray(image.convert("L")), weights=opaque) < 128)
            image = Image.alpha_composite(Image.new("RGBA", image.size, (level, level, level, 255)), image)
            remarks.append("transparent")
    image = image.convert("RGB")
    if image.size != (SIZE, SIZE):
        image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)
        remarks.append("size")
    return np.asarray(image), remarks


def _scaled_to_8_bits(image, tags: Mapping[int, tuple]):
    """A grey image of 9 to 32-bit integers, or of floating-point numbers from 0 to 1, as an 8-bit one.

    Integers keep their upper 8 bits, as Pillow does with 16-bit colours. Raises ValueError with the range found if the
    numbers are signed or beyond 0 to 1: which of them means white is then anyone's guess.
    """
    from PIL import Image

    values, bits = np.asarray(image), tags.get(258, (16,))[0]
    if 2 in tags.get(339, ()):  # SampleFormat: signed
        values = values.view(np.int8) if bits == 8 else values
        raise ValueError(f"its numbers are signed, from {values.min()} to {values.max()}, not unsigned")
    if image.mode != "F":
        levels = (values.view(np.uint32) if bits == 32 else values) >> (bits - 8)
    elif values.min() >= 0 and values.max() <= 1:  # NaN is neither
        levels = np.rint(values * 255)
    else:
        raise ValueError(f"its numbers go from {values.min():g} to {values.max():g}, not from 0 to 1")
    levels = levels.astype(np.uint8)
    grey = Image.fromarray(255 - levels if tags.get(262) == 0 else levels)  # PhotometricInterpretation: white is zero
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
