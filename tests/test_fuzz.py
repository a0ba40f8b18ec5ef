"""Bad input of every kind: each gives a result or one clear sentence, and nothing is written elsewhere.

The inputs are the same in every run, and few. `FUZZ=5000 pytest tests/test_fuzz.py` draws 5,000 new ones a test.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import stat
import struct
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from conftest import random_folder, random_images
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import helpers.authoring.bench
import helpers.data
import helpers.lr_finder
import helpers.training
from helpers.assignment.checklist import checklist, gallery_checklist
from helpers.cli import main, parse_assignments
from helpers.data import load_data
from helpers.figures import plots
from helpers.loaders import make_loaders
from helpers.plumbing import image_folder
from helpers.plumbing.devices import pick_device
from helpers.plumbing.errors import CourseError
from helpers.plumbing.resume import load_training, save_training
from helpers.recipes import RECIPES, changed, from_dict
from helpers.runs import RangeTest, load_lr, load_run
from helpers.schedules import make_optimizer, make_schedule
from helpers.training import Training, train

MORE = int(os.environ.get("FUZZ", 0))


def examples(few: int):
    """So many examples, the same ones each time, or as many as FUZZ says, new ones each time."""
    quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    quiet["phases"] = [Phase.explicit, Phase.generate]  # a smaller example takes minutes to find
    return settings(max_examples=MORE or few, derandomize=not MORE, **quiet)


def clear(sentence: str) -> None:
    assert sentence.endswith((".", "?")) and len(sentence) > 20, sentence
    assert "Traceback" not in sentence and "object at 0x" not in sentence


def attempt(call, *arguments, **options):
    """What the call returns, or None if it was refused in a clear sentence."""
    try:
        return call(*arguments, **options)
    except CourseError as error:
        clear(str(error))
        return None


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: contents of files, targets of links."""
    found = {}
    for where, folders, files in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *files)):
            kind = path.lstat().st_mode
            content = path.read_bytes() if stat.S_ISREG(kind) else path.is_symlink() and os.readlink(path)
            found[str(path.relative_to(folder))] = content
    return found


# --- the command line


class Accepted(Exception):
    """Raised in place of work that takes long: everything before it was found right."""


@pytest.fixture
def no_work(monkeypatch):
    def accept(*arguments, **options):
        raise Accepted

    monkeypatch.setattr(helpers.training, "train", accept)
    monkeypatch.setattr(helpers.lr_finder, "find_lr", accept)
    monkeypatch.setattr(helpers.authoring.bench, "measure", accept)
    monkeypatch.setattr(helpers.data, "_named_source", accept)


def command(arguments: list[str]) -> int | None:
    """The command line's status, None if it got as far as the work; whatever it refuses, it says so clearly."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as ended:  # argparse
            status = ended.code
        except Accepted:
            return None
    err.seek(0)
    said = err.read()
    if status == 0:
        assert not said
    elif said.startswith("usage:"):
        assert status == 2 and said.count(": error: ") >= 1 and "Traceback" not in said
    else:
        assert status == 2 and said.startswith("Error: ") and said.count("\n") == 1, said
        clear(said[:-1])
    return status


words = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=12)
odd_numbers = st.sampled_from(["9" * 5000, "1e3", "٣", "0x10", " 1"])
numbers = st.integers().map(str) | st.floats().map(str) | odd_numbers
paths = st.sampled_from(["IMAGES", "FILE", "FILE/below", "nowhere", "", ".", "/", "~nobody/x", "x" * 300, "x/" * 3000])
fields = sorted({name for recipe in RECIPES.values() for part in (recipe, recipe.schedule) for name in vars(part)})
values = st.one_of(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | words, st.lists, max_leaves=4).map(repr),
    words,
    numbers,
    st.sampled_from(["(" * 5000, "[" * 90 + "]" * 90, "-" * 5000 + "1", "val_acc", "layer", "Adam", "1_0", "1j"]),
)
assignments = st.builds("{}={}".format, st.sampled_from(fields), values) | words
options = st.one_of(
    st.tuples(st.sampled_from(["--epochs", "--limit", "--seed", "--count"]), numbers | words),
    st.tuples(st.sampled_from(["--data", "--runs", "--out"]), paths | words),
    st.tuples(st.just("--set"), assignments),
    st.tuples(st.sampled_from(["--order", "--method", "--layer"]), words | st.sampled_from(["first", "gradcam"])),
    st.tuples(st.sampled_from(["--fast", "--quick", "--"])),
    st.tuples(words),
)
subcommands = st.one_of(
    st.tuples(st.sampled_from(["train", "lr-find"]), st.sampled_from([*RECIPES, "custom"]) | words),
    st.tuples(st.just("gallery"), paths | words),
    st.tuples(st.just("bench")),
    st.tuples(words),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes, 12 images to train on and 4 to test, cached already."""
    folder = random_folder(tmp_path_factory.mktemp("data") / "pets", train=6, test=2)
    load_data(str(folder))
    return folder


@pytest.mark.usefixtures("no_work")
@given(st.tuples(subcommands, st.lists(options, max_size=4)))
@examples(120)
@example((("bench",), [("--out", "")]))
@example((("bench",), [("--out", "IMAGES")]))
@example((("train", "custom_resnet"), [("--set", "epochs=" + "[" * 5000)]))
def test_arguments(images, tmp_path_factory, drawn):
    place = tmp_path_factory.getbasetemp() / "arguments"
    place.mkdir(exist_ok=True)
    (place / "file").write_text("a file")
    named = {"IMAGES": str(images), "FILE": str(place / "file"), "FILE/below": str(place / "file" / "below")}
    arguments = [named.get(word, word) for group in (drawn[0], *drawn[1]) for word in group]
    before, pictures = tree(place), tree(images)
    with contextlib.chdir(place):
        status = command(arguments)
    event(f"{drawn[0][0] if drawn[0][0] in ('train', 'lr-find', 'gallery', 'bench') else 'no command'}: {status}")
    made = {name for name, content in tree(place).items() if before.get(name) != content}
    assert tree(images) == pictures
    assert not made or (arguments[0] == "bench" and status is None)  # the folder of its --out


# --- recipes


@given(st.sampled_from(sorted(RECIPES)), st.lists(assignments, max_size=3))
@examples(150)
def test_recipe_values(name, texts):
    recipe = attempt(lambda: changed(RECIPES[name], parse_assignments(texts)))
    if recipe:
        assert from_dict(json.loads(json.dumps(helpers.recipes.as_dict(recipe)))) == recipe
        make_schedule(recipe, make_optimizer(recipe, torch.nn.Linear(1, 1)), 100)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, most: int | None = None, where: tuple = ()) -> list[tuple]:
    """The place of every value inside a nested one, as keys and indices; of a list's first `most` items only."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:most]) if isinstance(value, list) else ()
    return [where] * bool(where) + [place for key, inner in inside for place in places(inner, most, (*where, key))]


def mutated(value: object, draw) -> object:
    """A copy in which a few values are other ones, missing, or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *where, last = draw(st.sampled_from(places(value)))
        inside = value
        for key in where:
            inside = inside[key]
        action = draw(st.sampled_from(["replace", "replace", "replace", "delete", "double"]))
        if action == "delete":
            del inside[last]
        elif action == "double" and isinstance(inside, list):
            inside.insert(last, inside[last])
        else:
            inside[last] = draw(anything)
        if not places(value):
            break
    return value


# --- folders of images


def encoded(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture_files() -> list[bytes]:
    picture, turned = Image.fromarray(random_images(1)[0, :12, :9]), Image.Exif()
    turned[0x0112] = 6
    forms = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "EPS", "DDS", "ICO")
    files = [encoded(picture, form) for form in forms]
    files += [encoded(picture.convert(mode), "PNG") for mode in ("L", "P", "1", "RGBA", "LA", "I;16")]
    files += [encoded(picture.convert(mode), "TIFF") for mode in ("CMYK", "I", "F", "I;16")]
    files += [encoded(picture.convert("CMYK"), "JPEG"), encoded(picture, "TIFF", compression="tiff_lzw")]
    files += [encoded(picture, form, exif=turned) for form in ("JPEG", "PNG", "WEBP")]
    palette = picture.convert("P")
    files += [encoded(palette, "PNG", transparency=bytes(range(200))), encoded(palette, "GIF", transparency=3)]
    frames = {"save_all": True, "append_images": [picture.rotate(180)]}
    files += [encoded(picture, form, **frames) for form in ("GIF", "PNG", "WEBP", "TIFF", "MPO")]
    files += [encoded(Image.new("RGB", size), "PNG") for size in ((1, 1), (1, 3000), (3000, 1), (2000, 1500))]
    huge = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # more pixels than Pillow decodes
    files.append(encoded(picture, "PNG").replace(struct.pack(">II", 9, 12) + b"\x08\x02\0\0\0", huge))
    return [*files, b"", b"text", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]


PICTURES = picture_files()


names = st.text(st.characters(exclude_characters="\0/", exclude_categories=()), min_size=1, max_size=8)
names |= st.sampled_from(
    ["cat", "CAT", "c" * 255, "ü" * 127, "الفئة", "猫", "$x^2$", "<b>", "a b", ".hidden", "..", "-rf", "|"]
)
suffixes = st.sampled_from([*image_folder.SUFFIXES, ".PNG", ".txt", ""])


@st.composite
def odd_folders(draw, root: Path) -> Path:
    """A folder of images with something odd in it; files and folders that the system refuses are left out."""
    folder = root / "data"
    classes = draw(st.lists(names, min_size=1, max_size=4, unique=True)) + draw(st.sampled_from([[], ["cat", "dog"]]))
    for part in ("train", "test"):
        for name in dict.fromkeys(classes):
            with contextlib.suppress(OSError, ValueError):  # ".." exists, too long a name
                (folder / part / name).mkdir(parents=True)
                (folder / part / name / "a.png").write_bytes(PICTURES[0])
    for _ in range(draw(st.integers(0, 3))):
        part, name = draw(st.sampled_from(["train", "test", "other"])), draw(st.sampled_from(classes) | names)
        path = folder / part / name / (draw(names) + draw(suffixes))
        action = draw(st.sampled_from(["image", "image", "folder", "pipe", "loop", "link", "remove", "rename"]))
        with contextlib.suppress(OSError, ValueError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if action == "image":
                path.write_bytes(draw(st.sampled_from(PICTURES)))
            elif action == "folder":
                path.mkdir()
            elif action == "pipe":
                os.mkfifo(path)
            elif action == "loop":
                path.symlink_to(path.name)
            elif action == "link":
                path.symlink_to(draw(st.sampled_from(["..", "nowhere", "/dev/zero", "/", str(folder)])))
            elif action == "remove":
                shutil.rmtree(path.parent)
            else:
                path.parent.rename(path.parent.with_name(draw(names)))
    return folder


@pytest.mark.slow
@given(st.data())
@examples(60)
def test_folders_of_images(data):
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = Path(place)
        folder = data.draw(odd_folders(place / "somewhere"))
        before = tree(place)
        loaded = attempt(load_data, str(folder), limit=data.draw(st.none() | st.integers(1, 9)))
        after = tree(place)
        event("loaded" if loaded else "refused")
        cache = f"somewhere/data/.images-{helpers.data.SIZE}x{helpers.data.SIZE}.npz"
        assert {name: content for name, content in after.items() if name.removesuffix(".lock") != cache} == before
        if loaded:
            assert cache in after and len(loaded.classes) >= 2
            assert set(loaded.train.labels) == set(loaded.test.labels) == set(range(len(loaded.classes)))
            json.dumps(loaded.describe()).encode()


# --- run folders


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    """The folder of a short run, its range test beside it, and what a gallery records; its checkpoints are left out."""
    runs = tmp_path_factory.mktemp("runs")
    recipe = changed(RECIPES["custom_resnet"], {"batch_size": 6, "epochs": 2, "peak_epoch": 1, "width": 8})
    run = train(recipe, load_data(str(images)), runs, report=lambda line: None)
    beside = runs / f"{run.folder.name}-lr-find"
    beside.mkdir()
    curve = RangeTest(
        **{"title": "a title", "notes": [], "lrs": [0.01, 0.1, 1.0], "losses": [3.0, 2.0, 9.0], "lr_min": 0.01},
        **{"lr_max": 0.1, "steepest": None, "ended": "the range was swept", "provenance": "CPU"},
        settings={"recipe": run.config["recipe"], "data": run.config["data"], "seed": 0, "steps": 100},
    )
    (beside / "lr_find.json").write_text(json.dumps(vars(curve)))
    shown = {"correct": [0], "misclassified": [1, 2], "gradcam": [1, 2], "order": "first", "layer": "layer2"}
    shown |= {"map_size": [8, 8], "method": "gradcam", "accuracy": 50.0}
    (run.folder / "gallery.json").write_text(json.dumps(shown))
    return run.folder


JSONS = ("config.json", "summary.json", "gallery.json", "lr_find.json")


@st.composite
def damaged_texts(draw, name: str, good: str) -> bytes:
    """A file of a run that was edited, by values if it is JSON or a table, or by bytes."""
    action = draw(st.sampled_from(["values", "values", "values", "bytes", "other"]))
    if action == "other":
        return draw(
            st.sampled_from([b"", b"\xff\xfe", b"null", b"[]", b"{}", b"3", b"[" * 9999, b'{"a":' * 9999, b"NaN"])
            | anything.map(json.dumps).map(str.encode)
        )
    if action == "values" and name in JSONS:
        return json.dumps(mutated(json.loads(good), draw)).encode()
    if action == "values" and name.endswith(".csv"):
        cells = mutated([line.split(",") for line in good.splitlines()], draw)
        odd = st.sampled_from(["", "nan", "inf", "-1", "1e308", "x" * 200_000, '"', "\0", "٣"])
        rows = [[str(cell) for cell in row] if isinstance(row, list) else [draw(odd)] for row in cells]
        return "\n".join(",".join(row) for row in rows).encode(errors="replace")
    content = bytearray(good.encode())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content)


@given(st.data())
@examples(18)
def test_files_of_a_run(finished, data):
    name = data.draw(st.sampled_from(["history.csv", "steps.csv", "train.log", *JSONS]))
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fonts without some character
        folder = Path(place, "runs", finished.name)
        leave_out = shutil.ignore_patterns("*.pt")
        shutil.copytree(finished.parent, folder.parent, ignore=leave_out)
        damaged = folder.parent / f"{folder.name}-lr-find" / name if name == "lr_find.json" else folder / name
        damaged.write_bytes(data.draw(damaged_texts(name, damaged.read_text())))
        before = tree(Path(place))
        run = attempt(load_run, folder)
        curve = attempt(load_lr, folder.parent / f"{folder.name}-lr-find" / "lr_find.json")
        if curve and name == "lr_find.json":
            plots.plot_range_test(curve).canvas.draw()
        if run:
            attempt(lambda: [str(demand) for demand in checklist(run)])
            attempt(lambda: [str(demand) for demand in gallery_checklist(run)])
        assert tree(Path(place)) == before
        if run and name != "gallery.json":
            figures = attempt(plots.save_run_figures, run) or []
            assert all(path.parent == folder for path in figures)
            allowed = {f"runs/{folder.name}/{path.name}" for path in figures}
            assert {place: content for place, content in tree(Path(place)).items() if place not in allowed} == before
        event(f"{name}: {'read' if run else 'refused'}")
        plots.plt.close("all")


# --- checkpoints


@pytest.fixture(scope="module")
def half_done(images):
    """The state of a run after its first epoch, and what makes a training that can take it up."""
    recipe = changed(RECIPES["custom_resnet"], {"batch_size": 6, "epochs": 2, "peak_epoch": 1, "width": 8})
    loaded = load_data(str(images))
    device = pick_device()
    loaders = make_loaders(recipe, loaded, 0, device)

    def begin() -> Training:
        return Training(recipe, 2, len(loaders["train"]), device)

    training = begin()
    training.begin_session({"data": {"name": "pets"}, "seed": 0, "notes": []}, 12, lambda line: None)
    training.run_epoch(loaders)
    return copy.deepcopy(save_training(training)), begin, loaders


@given(st.data())
@examples(8)
def test_contents_of_a_checkpoint(half_done, data):
    state, begin, loaders = half_done
    part = data.draw(st.sampled_from(sorted(state)))
    small = {key: value for key, value in state.items() if key not in ("model", "trained_model", "optimizer")}
    state = state | copy.deepcopy(small | {part: state[part]})  # a training goes on with the lists that it is given
    *where, last = data.draw(st.sampled_from(places({part: state[part]}, most=3)))
    inside = state
    for key in where:
        inside = inside[key]
    tensors = [torch.zeros(2), torch.zeros(0), torch.tensor(1), torch.zeros(3, dtype=torch.uint8)]
    inside[last] = data.draw(anything | st.sampled_from(tensors))
    training, lines = begin(), []
    taken = attempt(lambda: [load_training(training, state, Path("last.pt"))])
    if taken:
        training.report = lines.append
        attempt(training.run_epoch, loaders)
        training.is_best()
        json.dumps([training.history, training.steps, training.sessions, training.log + lines])
    event(f"{part}: {'taken' if taken else 'refused'}")
