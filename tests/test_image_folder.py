"""What becomes of single pictures of every kind, and of folders with more in them than pictures of a class."""

import os
import shutil
import struct
import unicodedata

import numpy as np
import pytest
from conftest import random_images, write_folder
from PIL import Image

from helpers.data import load_data
from helpers.plumbing.errors import UNPRINTABLE, CourseError
from helpers.plumbing.image_folder import decode

RAMP = np.linspace(0, 1, 1024).reshape(32, 32)


def tiff(pixels: np.ndarray, bits: int, sample_format: int, photometric: int = 1) -> bytes:
    """A grey or colour TIFF by its specification: SampleFormat 1 unsigned, 2 signed, 3 floating-point."""
    colours, content, bits_at = pixels.size // 1024, pixels.tobytes(), 8 + 2 + 10 * 12 + 4
    fields = {256: (4, 32), 257: (4, 32), 259: (3, 1), 262: (3, 2 if colours == 3 else photometric), 277: (3, colours)}
    fields |= {278: (4, 32), 279: (4, len(content)), 339: (3, sample_format), 273: (4, bits_at + 2 * colours)}
    entries = [struct.pack("<HHII", key, kind, 1, value) for key, (kind, value) in fields.items()]
    entries.append(struct.pack("<HHII", 258, 3, colours, bits if colours == 1 else bits_at))
    directory = b"".join(sorted(entries, key=lambda entry: struct.unpack("<H", entry[:2])))
    return b"II*\0" + struct.pack("<IH", 8, 10) + directory + bytes(4) + struct.pack("<H", bits) * colours + content


def decoded(tmp_path, content: bytes) -> np.ndarray:
    (tmp_path / "picture.dat").write_bytes(content)  # the content decides, not the name
    image, _ = decode(tmp_path / "picture.dat")
    assert image.dtype == np.uint8 and image.shape == (32, 32, 3)
    return image


# --- numbers


@pytest.mark.parametrize(
    ("form", "bits", "sample_format"), [("<u1", 8, 1), ("<u2", 16, 1), ("<u4", 32, 1), ("<f4", 32, 3)]
)
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_every_type_becomes_the_same_ramp(tmp_path, form, bits, sample_format, photometric):
    values = (RAMP * (1 if sample_format == 3 else 2**bits - 1)).astype(form)
    content = tiff(values, bits, sample_format, photometric)
    if form == "<u4" and photometric == 0:  # Pillow reads none such
        content = tiff(~values, bits, sample_format)
    expected = 255 * (RAMP if photometric else 1 - RAMP)  # 0: white is zero
    assert np.abs(decoded(tmp_path, content) - expected[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("values", "bits", "sample_format", "said"),
    [
        (RAMP.astype("<f4") * 255, 32, 3, "from 0 to 255, not from 0 to 1"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype("<f4"), 32, 3, "from nan to nan, not"),
        ((RAMP * 200 - 100).astype("i1"), 8, 2, "signed, from -100 to 100"),
        ((RAMP * 4000 - 1000).astype("<i2"), 16, 2, "signed, from -1000 to 3000"),
    ],
)
def test_other_numbers_are_refused_with_the_range_that_was_found(tmp_path, values, bits, sample_format, said):
    with pytest.raises(ValueError, match=said):
        decoded(tmp_path, tiff(values, bits, sample_format))


# --- transparency


def shape(level: int, ground: int, opaque: int = 255) -> Image.Image:
    """A square of that grey on transparent ground of another."""
    pixels = np.full((32, 32, 2), (ground, 0), np.uint8)
    pixels[8:24, 8:24] = level, opaque
    return Image.fromarray(pixels, "LA")


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize(("level", "expected"), [(0, 255), (100, 255), (127, 255), (128, 0), (200, 0), (255, 0)])
def test_shape_on_transparent_ground_can_be_seen(tmp_path, mode, level, ground, expected):
    picture = shape(level, ground).convert("RGBA")
    path = tmp_path / f"shape.{'gif' if mode == 'P' else 'png'}"
    (picture if mode == "P" else picture.convert(mode)).save(path)
    image, remarks = decode(path)
    assert remarks == ["transparent"]
    assert (image[0, 0] == expected).all() and (image[16, 16] == level).all()


def test_half_transparent_pixels_are_mixed_with_the_ground(tmp_path):
    shape(40, 255, opaque=51).save(tmp_path / "shape.png")
    assert decode(tmp_path / "shape.png")[0][16, 16].tolist() == [212] * 3  # 0.2 x 40 + 0.8 x 255


def test_opaque_pictures_stay_as_they_are_and_invisible_ones_are_refused(tmp_path):
    pixels = random_images(1)[0]
    Image.fromarray(np.dstack([pixels, np.full((32, 32), 255, np.uint8)])).save(tmp_path / "a.png")
    image, remarks = decode(tmp_path / "a.png")
    assert remarks == []
    np.testing.assert_array_equal(image, pixels)
    Image.fromarray(np.dstack([pixels, np.zeros((32, 32), np.uint8)])).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="transparent"):
        decode(tmp_path / "b.png")


# --- what lies in a folder


def save(path, seed: int = 99, form: str = "PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_images(1, seed)[0]).save(path, form)


def notes(folder) -> list[str]:
    return list(load_data(str(folder)).notes)


@pytest.mark.parametrize(("name", "form"), [("a.jfif", "JPEG"), ("a", "PNG"), ("a.png", "JPEG"), ("é.b.PNG", "PNG")])
def test_pictures_are_known_by_their_content(image_folder, name, form):
    save(image_folder / "train" / "cat" / name, form=form)
    data = load_data(str(image_folder))
    assert (len(data.train), data.notes) == (11, ())


def test_pictures_in_folders_within_a_class_belong_to_it_and_are_counted(image_folder):
    save(image_folder / "train" / "cat" / "more" / "even more" / "a.png")
    save(image_folder / "train" / "cat" / "b.png" / "b.png", seed=98)
    data = load_data(str(image_folder))
    assert np.bincount(data.train.labels).tolist() == [7, 5]
    listed = "train/cat/b.png/b.png, train/cat/more/even more/a.png"
    assert data.notes == (f"2 images lie in folders within class folders: {listed}",)


def test_what_is_left_out_is_counted_and_named(image_folder):
    (image_folder / "train" / "dog" / "notes.txt").write_text("no image")
    (image_folder / "test" / "cat" / "other").symlink_to("../dog")  # its pictures are none of this class
    save(image_folder / "test" / "a.png")
    listed = "test/a.png, test/cat/other, train/dog/notes.txt"
    assert notes(image_folder) == [f"3 files are no images in a class folder and left out: {listed}"]


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "._image-0.png", "desktop.ini", ".ipynb_checkpoints/a.png"])
def test_hidden_files_and_clutter_are_passed_over(image_folder, name):
    before = load_data(str(image_folder))
    for folder in (image_folder / "train" / "cat", image_folder / "train"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")
    data = load_data(str(image_folder))
    assert (data.fingerprint, data.notes) == (before.fingerprint, ())


def test_every_remark_is_a_note_of_its_own(image_folder):
    shape(0, 0).save(image_folder / "test" / "cat" / "a.png")
    Image.fromarray(np.full((8, 8), 999, np.uint16)).save(image_folder / "test" / "dog" / "b.png")
    assert notes(image_folder) == [
        "1 images of other sizes were cropped and resized to 32x32",
        "1 transparent images were laid on a ground: white under dark pixels, black under light ones",
        "1 images of other numbers than 0 to 255 were scaled by the range of their type",
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_folder_stands_in_for_a_missing_test_folder(image_folder, name):
    fingerprint = load_data(str(image_folder)).fingerprint
    (image_folder / "test").rename(image_folder / name)
    data = load_data(str(image_folder))
    assert (data.fingerprint, data.notes) == (fingerprint, (f"{name}/ serves as the test set",))
    shutil.copytree(image_folder / name, image_folder / "test")
    assert notes(image_folder) == [f"{name}/ beside test/ is not read"]


def test_both_spellings_of_a_name_are_one_class(tmp_path, pictures):
    composed, split = (unicodedata.normalize(form, "ágeis") for form in ("NFC", "NFD"))
    assert composed != split
    train, test = ({"dog": part["dog"], composed: part["cat"]} for part in pictures.values())
    mixed = {"dog": test["dog"], split: test[composed]}
    a = load_data(str(write_folder(tmp_path / "0" / "pets", {"train": train, "test": test})))
    b = load_data(str(write_folder(tmp_path / "1" / "pets", {"train": train, "test": mixed})))
    assert a.classes == b.classes == ("dog", composed) and a.fingerprint == b.fingerprint
    folder = tmp_path / "1" / "pets" / "train"
    if (folder / split).exists():  # to macOS they are one name
        return
    (folder / split).mkdir()
    (folder / composed / "image-0.png").rename(folder / split / "a.png")
    assert load_data(str(tmp_path / "1" / "pets")).fingerprint == a.fingerprint


# --- mistakes


def refused(folder) -> str:
    with pytest.raises(CourseError) as error:
        load_data(str(folder))
    assert not UNPRINTABLE.search(str(error.value)) and str(error.value).endswith(".")
    assert not [*folder.rglob("*.npz"), *folder.rglob("*.tmp")]
    return str(error.value)


def test_damaged_images_are_named_at_once(image_folder):
    for number in range(20):
        (image_folder / "train" / "dog" / f"broken-{number}.png").write_bytes(b"")
    message = refused(image_folder)
    assert message.startswith(f"20 images in {image_folder} cannot be read: train/dog/broken-0.png (")
    assert message.count("(no image of a known kind)") == 10 and ", …;" in message


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: (save(path), path.write_bytes(path.read_bytes()[:1500])),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: path.symlink_to("nowhere.png"),
        lambda path: os.mkfifo(path),
        lambda path: save(path, form="EPS"),  # Pillow would run Ghostscript
    ],
    ids=["truncated", "text", "dangling-link", "pipe", "eps"],
)
def test_broken_image_is_named(image_folder, break_it):
    break_it(image_folder / "test" / "dog" / "broken.png")
    assert f"1 image in {image_folder} cannot be read: test/dog/broken.png (" in refused(image_folder)


@pytest.mark.parametrize("name", ["nowhere", "cifar-10", "a file"])
def test_missing_folder_is_named(tmp_path, name):
    (tmp_path / "a file").write_text("")
    with pytest.raises(CourseError, match=r"There is no data folder .*: give cifar10, cifar100"):
        load_data(str(tmp_path / name))


@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_part_empty_class_and_class_of_one_part_are_named(image_folder, part):
    (image_folder / part / "empty").mkdir()
    assert f"(only in {part}/: empty)" in refused(image_folder)
    other = {"train": "test", "test": "train"}[part]
    save(image_folder / other / "empty" / "a.png")
    (image_folder / part / "empty" / "notes.txt").write_text("no image")
    assert f"{image_folder / part / 'empty'} holds no image" in refused(image_folder)
    shutil.rmtree(image_folder / part)
    assert f"{image_folder} has no {part}/ folder" in refused(image_folder)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_classes_are_refused(image_folder, count):
    for name in ("cat", "dog")[count:]:
        shutil.rmtree(image_folder / "train" / name)
    assert f"{image_folder / 'train'} has fewer than two class folders" in refused(image_folder)
