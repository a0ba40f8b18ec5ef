from pathlib import Path

import numpy as np
import pytest
from conftest import write_folder
from PIL import Image

from helpers import settings
from helpers.data import channel_statistics, load_data, missing_classes, stratified_split
from helpers.plumbing.errors import CourseError


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


def test_other_sizes_are_cropped_in_the_middle_resized_and_counted(image_folder):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = (200, 30, 90)  # the middle square
    Image.fromarray(wide).save(image_folder / "train" / "cat" / "wide.png")
    Image.new("RGB", (8, 8), (200, 30, 90)).save(image_folder / "test" / "dog" / "small.png")
    data = load_data(str(image_folder))
    assert data.notes == ("2 images of other sizes were cropped and resized to 32x32",)
    for split in (data.train, data.test):  # bicubic resizing mixes a little of what was cropped into the border
        assert (split.images[:, 2:-2, 2:-2] == (200, 30, 90)).all(axis=(1, 2, 3)).sum() == 1


def test_photographs_are_turned_as_their_exif_tells(image_folder):
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    Image.fromarray(upright[::-1]).save(image_folder / "train" / "cat" / "photo.png", exif=exif)
    assert upright.tobytes() in multiset(load_data(str(image_folder)).train.images)


def test_pictures_in_both_splits_or_under_two_labels_are_counted(tmp_path, pictures):
    train, test = pictures["train"], pictures["test"]
    train["dog"].append(train["dog"][0])  # twice under one label is no mistake to be named
    assert load_data(str(write_folder(tmp_path / "a", pictures))).notes == ()
    test["cat"].extend(train["cat"][:3])
    train["dog"].append(train["cat"][4])
    test["dog"].append(train["dog"][1])
    test["cat"].append(train["dog"][1])
    assert load_data(str(write_folder(tmp_path / "b", pictures))).notes == (
        "4 pictures are in the training set and in the test set, so its accuracy is too high",
        "2 pictures are there again under another label",
    )


def test_order_and_fingerprint_do_not_depend_on_file_names(tmp_path, pictures):
    reversed_names = {part: {name: images[::-1] for name, images in c.items()} for part, c in pictures.items()}
    a = load_data(str(write_folder(tmp_path / "a" / "pets", pictures)))
    b = load_data(str(write_folder(tmp_path / "b" / "pets", reversed_names, prefix="other")))
    assert_same_data(a, b)


def test_fingerprint_tells_other_data_apart(tmp_path, pictures):
    def fingerprint(name):
        return load_data(str(write_folder(tmp_path / name / "pets", pictures))).fingerprint

    cat, dog = pictures["train"]["cat"], pictures["train"]["dog"]
    found = {fingerprint("before")}
    dog[0][0, 0, 0] ^= 1
    found.add(fingerprint("pixel"))
    cat[0], dog[0] = dog[0], cat[0]
    found.add(fingerprint("labels"))
    for classes in pictures.values():
        classes["fox"] = classes.pop("dog")
    assert len(found | {fingerprint("name")}) == 4


def test_relative_paths_are_also_looked_up_in_the_repository(image_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "REPOSITORY", image_folder.parent)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert len(load_data("pets").train) == 10


# --- the cache of a folder


def test_second_load_does_not_decode_wherever_the_folder_lies_then(image_folder, monkeypatch, tmp_path):
    (image_folder / "train" / "notes.txt").write_text("left out")
    first = load_data(str(image_folder))
    monkeypatch.setattr("helpers.plumbing.image_folder.decode", None)
    assert_same_data(load_data(str(image_folder)), first)
    (tmp_path / "elsewhere").mkdir()
    image_folder.rename(tmp_path / "elsewhere" / "pets")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_same_data(load_data("pets"), first)


def test_cache_is_rebuilt_when_a_file_is_added_changed_or_removed(image_folder):
    load_data(str(image_folder))
    added = image_folder / "train" / "dog" / "added.png"
    for colour in ((1, 2, 3), (200, 2, 3)):
        Image.new("RGB", (32, 32), colour).save(added)
        assert np.full((32, 32, 3), colour, np.uint8).tobytes() in multiset(load_data(str(image_folder)).train.images)
    added.unlink()
    assert len(load_data(str(image_folder)).train) == 10


def test_damaged_cache_is_rebuilt(image_folder, monkeypatch):
    first = load_data(str(image_folder))
    (cache,) = image_folder.glob(".*.npz")
    cache.write_bytes(cache.read_bytes()[:1000])
    assert_same_data(load_data(str(image_folder)), first)
    monkeypatch.setattr("helpers.plumbing.image_folder.decode", None)  # the rebuilt cache is good again
    assert_same_data(load_data(str(image_folder)), first)


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


# --- statistics


def test_channel_statistics_equal_numpys_and_a_constant_channel_can_be_divided_by():
    images = (np.random.default_rng(3).beta(2, 5, (50, 32, 32, 3)) * 255).astype(np.uint8)
    images[0, 0, 0], images[..., 2] = 255, 77
    pixels = images.reshape(-1, 3) / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, [*pixels[:, :2].std(axis=0), 1], rtol=1e-12)


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


def test_split_keeps_the_proportions_of_uneven_classes_and_names_those_without_an_image():
    labels = np.repeat([0, 1, 2], [90, 8, 2])
    drawn, rest = stratified_split(labels, 10, seed=0)
    assert np.bincount(labels[drawn]).tolist() == [9, 1]
    assert missing_classes(labels[drawn], ("a", "b", "c")) == ["c"] and missing_classes(labels[rest], "abc") == []


def test_split_is_drawn_by_its_seed():
    labels = np.repeat(np.arange(10), 100)
    first, again, other = (stratified_split(labels, 100, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 30  # 10 expected by chance


# --- limits


def test_limit_keeps_that_many_evenly_says_so_and_normalises_by_them(image_folder):
    data, limited = load_data(str(image_folder)), load_data(str(image_folder), limit=4)
    np.testing.assert_array_equal(np.bincount(limited.train.labels), [2, 2])
    np.testing.assert_array_equal(np.bincount(limited.test.labels), [2, 2])
    for label in (0, 1):
        kept = multiset(limited.train.images[limited.train.labels == label])
        assert set(kept) <= set(multiset(data.train.images[data.train.labels == label]))
    assert limited.notes == ("limited to 4 training and 4 test images",)
    assert limited.fingerprint != data.fingerprint
    np.testing.assert_array_equal((limited.mean, limited.std), channel_statistics(limited.train.images))


@pytest.mark.parametrize("limit", [10, 11, 10_000])
def test_limit_beyond_the_data_changes_nothing(image_folder, limit):
    assert_same_data(load_data(str(image_folder), limit=limit), load_data(str(image_folder)))


@pytest.mark.parametrize(("limit", "sentence"), [(-1, "has to be 1 or"), (0, "has to be 1 or"), (1, "leaves classes")])
def test_limit_that_empties_classes_is_refused(image_folder, limit, sentence):
    with pytest.raises(CourseError, match=sentence):
        load_data(str(image_folder), limit=limit)
