import hashlib
import io
import os
import pickle
import socket
import tarfile
import threading
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from conftest import random_images, write_folder
from PIL import Image
from torchvision.datasets import CIFAR10

import helpers.data
from helpers.data import channel_statistics, load_data, stratified_split
from helpers.plumbing.errors import CourseError

GREY_LEVEL = 77


def multiset(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def assert_same_data(a, b):
    assert a.classes == b.classes
    assert a.fingerprint == b.fingerprint
    assert a.notes == b.notes
    for one, other in ((a.train, b.train), (a.test, b.test)):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.labels.dtype == other.labels.dtype
    np.testing.assert_array_equal((a.mean, a.std), (b.mean, b.std))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.suffix in (".npz", ".tmp"))


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was decoded")

    monkeypatch.setattr(helpers.data, "_decode", refuse)


# --- folders of images


def test_folder_holds_exactly_its_pictures_with_labels_in_sorted_class_order(image_folder, pictures):
    data = load_data(str(image_folder))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    for part, split in (("train", data.train), ("test", data.test)):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        for label, name in enumerate(("cat", "dog")):
            assert multiset(split.images[split.labels == label]) == multiset(pictures[part][name])
    assert data.notes == ()


def test_statistics_are_those_of_the_training_images_only(image_folder, pictures):
    pixels = np.concatenate([np.stack(images) for images in pictures["train"].values()]) / 255
    data = load_data(str(image_folder))
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_describe_is_json_and_counts_the_images(image_folder):
    data = load_data(str(image_folder))
    description = data.describe()
    assert (description["train_images"], description["test_images"]) == (10, 4)
    assert description["classes"] == ["cat", "dog"]
    assert description["mean"] == pytest.approx(list(data.mean), abs=5e-7)


def flat(mode: str, colour) -> Image.Image:
    return Image.new(mode, (32, 32), colour)


def palette() -> Image.Image:
    image = flat("P", 3)
    image.putpalette([0, 0, 0] * 3 + [200, 30, 90])
    return image


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "tiff", "ppm", "PNG"])
def test_lossless_formats_give_the_very_pixels(tmp_path, pictures, suffix):
    folder = write_folder(tmp_path / "pets", pictures)
    picture = flat("RGB", (200, 30, 90))
    picture.paste((10, 240, 60), (4, 8, 20, 32))  # two colours: exact in a GIF too
    picture.save(folder / "train" / "cat" / f"extra.{suffix}")
    assert multiset([np.asarray(picture)])[0] in multiset(load_data(str(folder)).train.images)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_lossy_formats_give_nearly_the_pixels(tmp_path, suffix):
    path = tmp_path / f"flat.{suffix}"
    flat("RGB", (200, 30, 90)).save(path)
    image, other_size = helpers.data._decode(path)
    assert not other_size
    assert np.abs(image.astype(int) - (200, 30, 90)).max() <= 4


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (flat("L", GREY_LEVEL), "png", (GREY_LEVEL,) * 3),
        (flat("1", 1), "png", (255,) * 3),
        (palette(), "png", (200, 30, 90)),
        (palette(), "gif", (200, 30, 90)),
        (flat("RGBA", (200, 30, 90, 255)), "png", (200, 30, 90)),
        (flat("RGBA", (200, 30, 90, 255)), "tiff", (200, 30, 90)),
        (flat("LA", (GREY_LEVEL, 255)), "png", (GREY_LEVEL,) * 3),
        (Image.fromarray(np.full((32, 32), GREY_LEVEL * 256 + 5, np.uint16)), "png", (GREY_LEVEL,) * 3),
        (Image.fromarray(np.full((32, 32), GREY_LEVEL * 256 + 5, np.uint16)), "tiff", (GREY_LEVEL,) * 3),
        (flat("CMYK", (0, 255, 255, 0)), "tiff", (255, 0, 0)),
    ],
    ids=[
        "grey",
        "bilevel",
        "palette",
        "palette-gif",
        "rgba",
        "rgba-tiff",
        "grey-alpha",
        "16-bit",
        "16-bit-tiff",
        "cmyk",
    ],
)
def test_every_colour_mode_becomes_8_bit_rgb(tmp_path, image, suffix, expected):
    image.save(tmp_path / f"image.{suffix}")
    decoded, _ = helpers.data._decode(tmp_path / f"image.{suffix}")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.uint8(expected), (32, 32, 3)))


def test_photographs_are_turned_as_their_exif_tells(tmp_path):
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    Image.fromarray(upright[::-1]).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(helpers.data._decode(tmp_path / "photo.png")[0], upright)


def test_other_sizes_are_cropped_in_the_middle_resized_and_counted(image_folder):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = (200, 30, 90)  # the middle square
    Image.fromarray(wide).save(image_folder / "train" / "cat" / "wide.png")
    Image.new("RGB", (8, 8), (200, 30, 90)).save(image_folder / "test" / "dog" / "small.png")
    data = load_data(str(image_folder))
    assert data.notes == ("2 images of other sizes were cropped and resized to 32x32",)
    for split in (data.train, data.test):  # bicubic resizing mixes a little of what was cropped into the border
        assert (split.images[:, 2:-2, 2:-2] == (200, 30, 90)).all(axis=(1, 2, 3)).sum() == 1


@pytest.mark.parametrize("form", ["DDS", "EPS", "TGA"])
def test_formats_that_are_not_listed_are_not_opened_whatever_the_name_says(tmp_path, form):
    Image.fromarray(random_images(1)[0]).save(tmp_path / "image.png", format=form)
    with pytest.raises(CourseError, match="cannot identify image file"):
        helpers.data._decode(tmp_path / "image.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_with_the_name_of_an_image_is_refused_and_not_waited_for(image_folder):
    os.mkfifo(image_folder / "train" / "cat" / "pipe.png")
    assert "pipe.png cannot be read (it is no file)" in refused(image_folder)


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", "caf\udce9"])
def test_class_whose_name_cannot_be_shown_is_refused_in_one_line(tmp_path, pictures, name):
    splits = {part: {**classes, name: classes["cat"]} for part, classes in pictures.items()}
    message = refused(write_folder(tmp_path / "pets", splits))
    assert ascii(name)[1:-1] in message and "rename it" in message


@pytest.mark.parametrize("name", [".DS_Store", "notes.txt", "Thumbs.db", "._image-0.png", "labels.csv"])
def test_files_that_are_no_images_are_ignored(image_folder, name):
    before = load_data(str(image_folder))
    (image_folder / "train" / "cat" / name).write_bytes(b"no image")
    (image_folder / "train" / name).write_bytes(b"no class")
    assert_same_data(load_data(str(image_folder)), before)


def test_hidden_folders_are_no_classes(image_folder):
    (image_folder / "train" / ".ipynb_checkpoints").mkdir()
    assert load_data(str(image_folder)).classes == ("cat", "dog")


def test_order_and_fingerprint_do_not_depend_on_file_names(tmp_path, pictures):
    reversed_names = {part: {name: images[::-1] for name, images in c.items()} for part, c in pictures.items()}
    a = load_data(str(write_folder(tmp_path / "a" / "pets", pictures)))
    b = load_data(str(write_folder(tmp_path / "b" / "pets", reversed_names, prefix="other")))
    assert_same_data(a, b)


def one_pixel(pictures):
    image = pictures["test"]["dog"][0].copy()
    image[0, 0, 0] ^= 1
    pictures["test"]["dog"][0] = image


def swap_labels(pictures):
    cat, dog = pictures["train"]["cat"], pictures["train"]["dog"]
    cat[0], dog[0] = dog[0], cat[0]


def swap_splits(pictures):
    train, test = pictures["train"]["cat"], pictures["test"]["cat"]
    train[0], test[0] = test[0], train[0]


def rename_class(pictures):
    for classes in pictures.values():
        classes["fox"] = classes.pop("dog")


def twice(pictures):
    pictures["train"]["cat"].append(pictures["train"]["cat"][0])


@pytest.mark.parametrize("change", [one_pixel, swap_labels, swap_splits, rename_class, twice])
def test_fingerprint_tells_other_data_apart(tmp_path, pictures, image_folder, change):
    before = load_data(str(image_folder)).fingerprint
    change(pictures)
    assert load_data(str(write_folder(tmp_path / "changed", pictures))).fingerprint != before


def test_relative_paths_are_also_looked_up_in_the_repository(image_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(helpers.data, "REPOSITORY", image_folder.parent)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert len(load_data("pets").train) == 10


# --- the cache of a folder


def test_second_load_does_not_decode(image_folder, request):
    first = load_data(str(image_folder))
    request.getfixturevalue("no_decoding")
    assert_same_data(load_data(str(image_folder)), first)


def test_resize_note_survives_the_cache(image_folder, request):
    Image.new("RGB", (8, 8)).save(image_folder / "train" / "cat" / "small.png")
    first = load_data(str(image_folder))
    request.getfixturevalue("no_decoding")
    assert load_data(str(image_folder)).notes == first.notes != ()


def test_cache_is_rebuilt_when_a_file_is_added_or_removed(image_folder):
    load_data(str(image_folder))
    added = image_folder / "train" / "dog" / "added.png"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(added)
    data = load_data(str(image_folder))
    assert np.full((32, 32, 3), (1, 2, 3), np.uint8).tobytes() in multiset(data.train.images)
    added.unlink()
    assert len(load_data(str(image_folder)).train) == 10


def test_cache_is_rebuilt_when_a_file_changes_even_to_one_of_the_same_size(image_folder):
    path = image_folder / "train" / "cat" / "image-0.png"
    images = random_images(2, seed=1)
    paths = [path.with_suffix(".bmp"), path.with_name("later.bmp")]  # bitmaps of one size
    for image, name in zip(images, paths, strict=True):
        Image.fromarray(image).save(name)
    paths[1].unlink()
    load_data(str(image_folder))
    before = paths[0].stat()
    Image.fromarray(images[1]).save(paths[0])
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert paths[0].stat().st_size == before.st_size
    assert images[1].tobytes() in multiset(load_data(str(image_folder)).train.images)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def encrypted(content: bytes) -> bytes:
    at = content.index(b"PK\x01\x02") + 8  # the first entry's flags in the zip directory
    return content[:at] + b"\x01" + content[at + 1 :]


def flipped(content: bytes) -> bytes:
    return content[:2000] + bytes([content[2000] ^ 255]) + content[2001:]


def without_labels(content: bytes) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    del arrays["train_labels"]
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def plain_array(content: bytes) -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(3))
    return out.getvalue()


@pytest.mark.parametrize(
    "damage", [truncated, encrypted, flipped, without_labels, plain_array, lambda _: b"", lambda _: b"garbage" * 99]
)
def test_damaged_cache_is_rebuilt(image_folder, damage, request):
    first = load_data(str(image_folder))
    (cache,) = image_folder.glob(".*.npz")
    cache.write_bytes(damage(cache.read_bytes()))
    assert_same_data(load_data(str(image_folder)), first)
    request.getfixturevalue("no_decoding")  # the rebuilt cache is good again
    assert_same_data(load_data(str(image_folder)), first)


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_cache_never_unpickles(image_folder, tmp_path):
    load_data(str(image_folder))
    (cache,) = image_folder.glob(".*.npz")
    arrays = dict(np.load(cache)) | {"notes": np.array([Trap(tmp_path / "sprung")], dtype=object)}
    np.savez(cache, **arrays)
    assert load_data(str(image_folder)).notes == ()
    assert not (tmp_path / "sprung").exists()


def test_directory_in_the_place_of_the_cache_still_loads(image_folder, capsys):
    expected = load_data(str(image_folder))
    (cache,) = image_folder.glob(".*.npz")
    cache.unlink()
    cache.mkdir()
    assert_same_data(load_data(str(image_folder)), expected)
    assert "not cached" in capsys.readouterr().err
    assert leftovers(image_folder) == [cache.name]


def test_read_only_file_system_still_loads(image_folder, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise OSError(30, "Read-only file system", str(self))

    real_open = Path.open

    def read_only(self, mode="r", *args, **kwargs):
        return refuse(self) if {*mode} & {*"wx"} else real_open(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "unlink", refuse)  # such a system refuses even what is not there
    assert len(load_data(str(image_folder)).train) == 10
    assert "Read-only file system" in capsys.readouterr().err


def test_what_a_killed_process_left_of_a_cache_is_removed(image_folder):
    (image_folder / ".images-32x32.npz.4711.tmp").write_bytes(b"half")
    load_data(str(image_folder))
    assert leftovers(image_folder) == [".images-32x32.npz"]


def test_interrupted_caching_leaves_nothing(image_folder, monkeypatch):
    def interrupt(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_data(str(image_folder))
    assert leftovers(image_folder) == []


# --- mistakes in a folder


def refused(source) -> str:
    with pytest.raises(CourseError) as error:
        load_data(str(source))
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def remove(folder: Path):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()


@pytest.mark.parametrize("name", ["nowhere", "cifar-10", "a file"])
def test_missing_folder_is_named(tmp_path, name):
    (tmp_path / "a file").write_text("")
    assert f"no data folder {tmp_path / name}:" in refused(tmp_path / name)


@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_part_is_named(image_folder, part):
    remove(image_folder / part)
    assert f"{image_folder} has no {part}/ folder" in refused(image_folder)
    assert leftovers(image_folder) == []


@pytest.mark.parametrize("part", ["train", "test"])
def test_empty_class_is_named(image_folder, part):
    (image_folder / part / "empty").mkdir()
    (image_folder / part / "empty" / "notes.txt").write_text("no image")
    assert f"{image_folder / part / 'empty'} holds no image" in refused(image_folder)
    assert leftovers(image_folder) == []


@pytest.mark.parametrize("part", ["train", "test"])
def test_class_of_one_part_only_is_named(image_folder, part):
    (image_folder / part / "fox").mkdir()
    Image.new("RGB", (32, 32)).save(image_folder / part / "fox" / "1.png")
    message = refused(image_folder)
    assert f"(only in {part}/: fox)" in message
    assert leftovers(image_folder) == []


def test_different_names_on_both_sides_are_named(image_folder):
    (image_folder / "test" / "dog").rename(image_folder / "test" / "Dog")
    assert "(only in train/: dog; only in test/: Dog)" in refused(image_folder)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_classes_are_refused(image_folder, count):
    for part in ("train", "test"):
        for name in ("cat", "dog")[count:]:
            remove(image_folder / part / name)
    message = refused(image_folder)
    assert str(image_folder / "train") in message
    assert "two or more" in message
    assert leftovers(image_folder) == []


def half_png(path):
    image = io.BytesIO()
    Image.fromarray(random_images(1)[0]).save(image, "png")
    path.write_bytes(image.getvalue()[:1500])


@pytest.mark.parametrize(
    "break_it",
    [
        half_png,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: path.symlink_to("nowhere.png"),
        lambda path: path.mkdir(),
    ],
    ids=["truncated", "empty", "text", "dangling-link", "folder"],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_broken_image_is_named_and_nothing_is_cached(image_folder, part, break_it):
    broken = image_folder / part / "dog" / "broken.png"
    break_it(broken)
    assert f"The image {broken} cannot be read" in refused(image_folder)
    assert leftovers(image_folder) == []


# --- the official archive


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
    monkeypatch.setattr(helpers.data, "REPOSITORY", tmp_path / "course")

    def offline(*args, **kwargs):
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    return archive, images, np.array(labels), names


def place(archive: bytes) -> Path:
    path = helpers.data.REPOSITORY / "data" / "cifar-10-python.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(archive)
    return path


def test_archive_put_there_by_hand_loads_without_network(official):
    archive, images, labels, names = official
    place(archive)
    data = load_data("cifar10")
    assert (data.name, data.classes, data.notes) == ("cifar10", tuple(names), ())
    for split, rows in ((data.train, slice(0, 20)), (data.test, slice(20, 24))):
        for label in (0, 1):
            expected = images[rows][labels[rows] == label]
            assert multiset(split.images[split.labels == label]) == multiset(expected)
    np.testing.assert_allclose(data.mean, (images[:20] / 255).mean(axis=(0, 1, 2)), rtol=1e-12)


def test_archive_is_read_once_and_then_not_needed(official, monkeypatch):
    path = place(official[0])
    first = load_data("cifar10")
    path.unlink()
    monkeypatch.setattr(CIFAR10, "__init__", None)
    assert_same_data(load_data("cifar10"), first)


class Answer(io.BytesIO):
    """What urlopen returns, of that content; `problem` is raised in place of its end."""

    url, problem = helpers.data.CIFAR10_URL, None

    def __init__(self, content: bytes, **attributes):
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content))}
        vars(self).update(attributes)

    def read(self, size: int = -1) -> bytes:
        block = super().read(size)
        if self.problem and not block:
            raise self.problem
        return block


def answer(monkeypatch, content: bytes, **attributes):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer(content, **attributes))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_download_is_taken(official, monkeypatch):
    answer(monkeypatch, official[0])
    assert len(load_data("cifar10").train) == 20


@pytest.mark.parametrize("attributes", [{"url": "http://mirror.example/cifar.tar.gz"}, {}])
def test_download_without_tls_or_of_another_content_is_refused(official, monkeypatch, attributes):
    answer(monkeypatch, official[0] if attributes else official[0] + b"more", **attributes)
    assert ("without TLS" if attributes else "its MD5 is wrong") in refused("cifar10")
    assert files(helpers.data.REPOSITORY) == []


def test_download_that_fails_over_tls_is_never_tried_without(official, monkeypatch, tmp_path):
    """A server that hangs up; the first byte of each connection tells TLS (22) from plain HTTP ("G")."""
    first_bytes = []

    def serve():
        while connection := server.accept()[0]:
            first_bytes.append(connection.recv(1))
            connection.close()

    monkeypatch.undo()  # the network that the fixture took away: here it is this machine's own
    monkeypatch.setattr(helpers.data, "REPOSITORY", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setattr(helpers.data, "CIFAR10_URL", f"https://127.0.0.1:{server.getsockname()[1]}/cifar.tar.gz")
        assert "could not be had" in refused("cifar10")
    assert first_bytes and set(first_bytes) == {b"\x16"}


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_altered_batch_is_unpacked_again_and_never_unpickled(official, name, tmp_path):
    path = place(official[0])
    first = load_data("cifar10")
    unpacked = path.parent / CIFAR10.base_folder / name
    good = unpacked.read_bytes()
    unpacked.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (path.parent / "cifar10.npz").unlink()
    assert_same_data(load_data("cifar10"), first)
    assert unpacked.read_bytes() == good and not (tmp_path / "sprung").exists()
    unpacked.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (path.parent / "cifar10.npz").unlink()
    path.unlink()
    assert "no network in this test" in refused("cifar10")
    assert not (tmp_path / "sprung").exists()


def test_archive_and_png_folder_of_the_same_pictures_give_the_same_data(official, tmp_path, monkeypatch):
    archive, images, labels, names = official
    place(archive)
    splits = {
        part: {name: list(images[rows][labels[rows] == k]) for k, name in enumerate(names)}
        for part, rows in (("train", slice(0, 20)), ("test", slice(20, 24)))
    }
    complete = load_data("cifar10")
    monkeypatch.setattr(helpers.data, "CIFAR10_FINGERPRINT", complete.fingerprint)
    assert_same_data(complete, load_data(str(write_folder(tmp_path / "cifar10", splits))))


def test_archive_with_a_wrong_md5_is_named_and_never_opened(official, monkeypatch):
    path = place(official[0][:-100])
    monkeypatch.setattr(tarfile, "open", None)
    monkeypatch.setattr(pickle, "load", None)
    message = refused("cifar10")
    assert f"{path} is truncated or damaged" in message
    assert CIFAR10.tgz_md5 in message
    assert leftovers(path.parent) == []


def test_without_network_the_message_says_where_to_put_the_archive(official):
    message = refused("cifar10")
    assert "no network in this test" in message
    assert f"put it at {helpers.data.REPOSITORY / 'data' / 'cifar-10-python.tar.gz'}" in message
    assert helpers.data.CIFAR10_URL in message
    assert files(helpers.data.REPOSITORY) == []


@pytest.mark.parametrize(
    ("problem", "raised"), [(ConnectionResetError("gone"), CourseError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_interrupted_download_is_removed_and_tried_again(official, monkeypatch, problem, raised):
    answer(monkeypatch, official[0][:500], problem=problem)
    with pytest.raises(raised):
        load_data("cifar10")
    assert files(helpers.data.REPOSITORY) == []
    answer(monkeypatch, official[0])
    assert len(load_data("cifar10").train) == 20


def test_official_address_is_that_of_torchvision():
    assert CIFAR10.url == helpers.data.CIFAR10_URL


# --- statistics


@pytest.mark.parametrize("shape", [(50, 32, 32, 3), (1, 1, 1, 3), (3, 5, 7, 3)])
def test_channel_statistics_equal_numpys(shape):
    images = (np.random.default_rng(3).beta(2, 5, shape) * 255).astype(np.uint8)
    images[..., 1] //= 20  # a channel of few levels
    images[0, 0, 0, :] = 255
    pixels = images.reshape(-1, 3) / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    expected = pixels.std(axis=0) if len(pixels) > 1 else np.ones(3)
    np.testing.assert_allclose(std, expected, rtol=1e-12)


@pytest.mark.parametrize("level", [0, 1, 77, 200, 255])
def test_a_constant_channel_can_be_divided_by(level):
    images = random_images(3)
    images[..., 2] = level
    mean, std = channel_statistics(images)
    assert mean[2] == pytest.approx(level / 255, rel=1e-15)
    assert std[2] == 1


# --- splits


@pytest.mark.parametrize("count", [0, 1, 7, 25, 50, 99, 100])
def test_split_is_disjoint_complete_sorted_and_even(count):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 10))
    drawn, rest = stratified_split(labels, count, seed=1)
    assert len(drawn) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([drawn, rest])), np.arange(100))
    for part in (drawn, rest):
        assert (np.diff(part) > 0).all()
        assert np.issubdtype(part.dtype, np.integer)
    per_class = np.bincount(labels[drawn], minlength=10)
    assert per_class.max() - per_class.min() <= (count % 10 > 0)


def test_split_keeps_the_proportions_of_uneven_classes():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    drawn, _ = stratified_split(labels, 100, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[drawn]), [60, 30, 10])


def test_split_is_drawn_by_its_seed():
    labels = np.repeat(np.arange(10), 100)
    first, again, other = (stratified_split(labels, 100, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 30  # 10 expected by chance


def test_split_draws_every_image_equally_often():
    labels = np.repeat([0, 1], 10)
    counts = sum(np.bincount(stratified_split(labels, 10, seed)[0], minlength=20) for seed in range(400))
    assert counts.sum() == 4000
    assert abs(counts - 200).max() < 50  # five standard deviations


# --- limits


def test_limit_keeps_that_many_evenly_and_says_so(image_folder):
    data, limited = load_data(str(image_folder)), load_data(str(image_folder), limit=4)
    np.testing.assert_array_equal(np.bincount(limited.train.labels), [2, 2])
    np.testing.assert_array_equal(np.bincount(limited.test.labels), [2, 2])
    for label in (0, 1):
        kept = multiset(limited.train.images[limited.train.labels == label])
        assert set(kept) <= set(multiset(data.train.images[data.train.labels == label]))
    assert limited.notes == ("limited to 4 training and 4 test images",)
    assert limited.fingerprint != data.fingerprint


def test_limited_statistics_are_those_of_the_kept_images(image_folder):
    limited = load_data(str(image_folder), limit=4)
    pixels = limited.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(limited.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(limited.std, pixels.std(axis=0), rtol=1e-12)


def test_limit_is_repeatable_and_leaves_the_cache_whole(image_folder):
    first = load_data(str(image_folder), limit=6)
    assert_same_data(load_data(str(image_folder), limit=6), first)
    assert len(load_data(str(image_folder)).train) == 10


@pytest.mark.parametrize("limit", [10, 11, 10_000])
def test_limit_beyond_the_data_changes_nothing(image_folder, limit):
    assert_same_data(load_data(str(image_folder), limit=limit), load_data(str(image_folder)))


@pytest.mark.parametrize("limit", [-1, 0, 1])
def test_limit_that_empties_classes_is_refused(image_folder, limit):
    with pytest.raises(CourseError, match=f"limit of {limit} images leaves classes without any"):
        load_data(str(image_folder), limit=limit)


@pytest.mark.parametrize("name", ["cifar10", "synthetic"])
def test_a_folder_that_has_the_name_of_other_data_says_so(name, tmp_path, pictures):
    data = load_data(str(write_folder(tmp_path / name, pictures)))
    assert data.notes == (f"a folder of that name, not the {name} of the course",)
