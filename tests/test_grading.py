"""A class is graded: honest hand-ins by the demands, and whatever was copied, edited or built to do harm is named."""

import dataclasses
import io
import json
import math
import platform
import re
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import write_folder

from helpers.assignment import grading
from helpers.assignment.checklist import ASSIGNMENTS
from helpers.assignment.commands import CLAIMED
from helpers.assignment.grading import claimed_exercises
from helpers.assignment.hand_in import pack
from helpers.cli import main
from helpers.data import load_data
from helpers.models import make_model
from helpers.plumbing.files import load_checkpoint, save_checkpoint
from helpers.recipes import RECIPES, as_dict, changed, with_epochs
from helpers.runs import load_run
from helpers.settings import REPOSITORY
from helpers.training import train

TINY = changed(with_epochs(RECIPES["custom_resnet"], 3), {"width": 8, "batch_size": 16})
FORGOTTEN = r'"weights": \{[^}]*\}', '"weights": {}'  # the digest of the recorded ones
FOR_TRAINERS = re.compile(r"afresh|move it|put it back|helpers train|it was kept|same command", re.I)


@pytest.fixture(autouse=True)
def no_bars(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The recorded runs of two assignments as hand-ins, and a range test, where no recorded runs are known."""
    monkeypatch.setattr(grading, "REPOSITORY", tmp_path)
    names = [f"{name}-cifar10-seed0" for name in ("custom_resnet", "resnet18_layernorm", "custom_resnet")]
    names[2] += "-lr-find"
    folders = [Path(shutil.copytree(REPOSITORY / "results" / name, tmp_path / name)) for name in names]
    run = load_run(folders[1])  # its weights are too large for the repository: others of the same network
    best = {"model": make_model(run.recipe, 10).state_dict(), "epoch": run.summary["reported"]["epoch"]}
    save_checkpoint(folders[1] / "best.pt", best | {"config": run.config})
    edit("summary.json", FORGOTTEN)(folders[1])
    return folders


def test_class_of_three_of_whom_one_violates_the_assignment(recorded, tmp_path, capsys):
    kept, second, range_test = recorded
    assert main(["check", str(kept), str(second)]) == 0
    passed = []
    for run, more in ((load_run(kept), 0), (load_run(second), 4)):  # four demands on galleries
        count, accuracy = len(ASSIGNMENTS[run.recipe.name]) + more, f"{run.summary['reported']['test_acc']:.2f} %"
        passed.append(f"{run.folder.name} {run.recipe.name} 0 pass {accuracy} {count} of {count}".split())
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == passed

    violating = Path(shutil.copytree(kept, tmp_path / "violating"))  # the range test is of another loss
    edit("summary.json", FORGOTTEN)(violating)
    edit("config.json", ('"cross_entropy"', '"cross_entropy_of_softmax"'))(violating)
    resave(config=lambda config: json.loads((violating / "config.json").read_text()))(violating)
    assert main(["check", str(second), str(violating)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"FAIL +[\d.]+ % +10 of 12\n    ❌ Softmax once", out) and out.count("❌") == 2

    assert main(["check", str(kept)]) == 0  # alone: with the evidence for every demand
    out = capsys.readouterr().out
    assert out.startswith("custom_resnet · cifar10 · seed 0\n✅ PrepLayer 64") and "\n      6,573,130 for 10 cl" in out
    assert main(["check", *map(str, recorded), str(violating)]) == 1  # a range test beside the runs
    assert main(["check", str(range_test)]) == 2 and "is a range test: name" in capsys.readouterr().err
    (second / "summary.json").unlink()
    assert main(["check", str(second), str(tmp_path / "nowhere"), str(kept)]) == 2
    out = capsys.readouterr().out
    assert "summary.json missing: the run was not finished" in out and "there is no such file or folder" in out
    assert not FOR_TRAINERS.search(out)


def test_hand_ins_of_one_name_are_told_apart_and_a_range_test_may_lie_within(trained, tmp_path, capsys):
    folders = [shutil.copytree(trained[k], tmp_path / student / "final" / "run") for k, student in enumerate("ab")]
    (folders[0] / "lr_find.json").write_text("{}")
    assert main(["check", *map(str, folders)]) == 1
    assert re.findall(r"^\w/final/run", capsys.readouterr().out, re.M) == ["a/final/run", "b/final/run"]


def test_a_folder_with_a_folder_for_each_student_is_a_class(trained, tmp_path, capsys):
    for student in ("anna", "bela"):  # one copied from the other
        shutil.copytree(trained[0], tmp_path / "class" / student / "run" / trained[0].name)
    (tmp_path / "class" / "grades.csv").write_text("student\n")  # what else lies there is no hand-in
    (tmp_path / "class" / "__MACOSX").mkdir()
    assert main(["check", str(tmp_path / "class")]) == 1
    out = capsys.readouterr().out
    assert "tables are those of bela" in out and "tables are those of anna" in out
    assert main(["check", str(tmp_path / "class" / "anna")]) == 1
    assert "DOUBTFUL" not in capsys.readouterr().out


def test_own_network_is_a_line(pictures_of_colours, tmp_path, capsys):
    own, data = dataclasses.replace(TINY, name="my_own"), load_data(str(pictures_of_colours))
    assert main(["check", str(train(own, data, tmp_path, report=lambda text: None).folder)]) == 2
    assert "my_own belongs to no assignment of this course" in capsys.readouterr().out


# --- A class


@pytest.fixture(scope="session")
def pictures_of_colours(tmp_path_factory):
    """Three classes of noise, half of each of a colour of its own, so that nobody gets all right."""
    rng, parts = np.random.default_rng(0), {}
    for part, count in (("train", 32), ("test", 40)):
        noise = rng.integers(0, 200, (3, count, 32, 32, 3), dtype=np.uint8)
        for label in range(3):
            noise[label, : count // 2, ..., label] //= 2
        parts[part] = {name: list(images) for name, images in zip("abc", noise, strict=True)}
    return write_folder(tmp_path_factory.mktemp("colours") / "colours", parts)


@pytest.fixture(scope="session")
def trained(pictures_of_colours, tmp_path_factory):
    """Eleven real runs of narrow networks, some longer than others, the last two alike but for the seed."""
    folder, data = tmp_path_factory.mktemp("trained"), load_data(str(pictures_of_colours))
    recipes = [TINY, with_epochs(TINY, 4), changed(TINY, {"batch_size": 24})]
    return [train(recipes[min(k, 9) % 3], data, folder, seed=k, report=lambda text: None).folder for k in range(11)]


def edit(name, *replacements):
    def edited(folder):
        text = (folder / name).read_text()
        for old, new in replacements:
            assert re.search(old, text)
            text = re.sub(old, new, text, count=1)
        (folder / name).write_text(text)

    return edited


def resave(**changes):
    def resaved(folder):
        best = load_checkpoint(folder / "best.pt")
        save_checkpoint(folder / "best.pt", best | {key: change(best[key]) for key, change in changes.items()})

    return resaved


def reseed(folder):
    """As someone would who passes another's run off as their own."""
    edit("config.json", (r'"seed": \d+', '"seed": 77'))(folder)
    edit("summary.json", (r'"seed": \d+', '"seed": 77'))(folder)
    edit("train.log", (r"seed \d+", "seed 77"))(folder)
    resave(config=lambda config: config | {"seed": 77})(folder)


def retouch(folder):
    """As someone would who knows how copies are found: every figure and counter, and one weight, moved by a hair."""
    reseed(folder)
    table = pandas.read_csv(folder / "history.csv")
    table.assign(test_loss=table.test_loss + 1e-7).to_csv(folder / "history.csv", index=False)
    moved = {"fc.bias": 1e-3}
    resave(model=lambda m: {k: v + moved.get(k, 0 if v.is_floating_point() else 1) for k, v in m.items()})(folder)


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def of_folder(folder, under=""):
    return {f"{under}{folder.name}/{file.name}": file.read_bytes() for file in folder.iterdir() if file.is_file()}


def take_recipe(folder):
    other = {"recipe": as_dict(changed(RECIPES["published_s8_onecycle_sgd"], {"width": 8}))}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | other))


TAMPERED = {  # what is done to a copy of an own run, and what is said of it
    "summary": (edit("summary.json", (r'("reported": \{[^}]*"test_acc": )[\d.]+', r"\g<1>94.60")), "reports 94.60 %"),
    "history": (edit("history.csv", (r"\n2,([^,]*),[^,]*", r"\n2,\1,0.1234")), "train.log has other figures"),
    "log": (edit("train.log", (r"Accuracy: \d+", "Accuracy: 95")), "train.log has other figures"),
    "rates": (edit("steps.csv", (r"\n1,[^,]*", "\n1,0.05")), "steps.csv does not follow the schedule"),
    "epoch": (resave(epoch=lambda epoch: 1), "best.pt is of epoch 1"),
    "smoothing": (edit("config.json", (r'("label_smoothing": )[\d.]+', r"\g<1>0.9")), "label_smoothing: "),
    "network": (resave(model=lambda m: make_model(RECIPES["custom_resnet"], 3).state_dict()), "another network"),
    "nan": (resave(model=lambda m: m | {"fc.bias": m["fc.bias"] * math.nan}), "not finite"),
    "digest": (edit("summary.json", (r"\{", '{"weights": {"sha256": "0"},')), "not the file that summary.json names"),
    "no weights": (lambda folder: (folder / "best.pt").unlink(), "best.pt is missing"),
    "no notebook": (lambda folder: (folder / "w.ipynb").write_text("{}"), "w.ipynb cannot be read as a notebook"),
    "no checkpoint": (lambda folder: (folder / "best.pt").write_text("none"), "best.pt is damaged or no checkpoint"),
    "other recipe": (take_recipe, "train.log is not of published_s8_onecycle_sgd on colours"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TAMPERED)
def test_each_tampering_is_named(kind, trained, tmp_path, capsys):
    folder = Path(shutil.copytree(trained[0], tmp_path / kind))
    change, said = TAMPERED[kind]
    change(folder)
    assert main(["check", str(folder)]) in (1, 2)
    out = capsys.readouterr().out
    assert ("DOUBTFUL" in out or "UNUSABLE" in out) and said in out and "demands  exercises" in out.splitlines()[0]
    assert not FOR_TRAINERS.search(out) and "✅" not in out and not re.search(r" of 12\b", out)


def test_accuracy_is_measured_again_whatever_the_files_agree_on(trained, pictures_of_colours, tmp_path, capsys):
    best = max(trained, key=lambda folder: load_run(folder).summary["reported"]["test_acc"])  # no constant answer
    folder = Path(shutil.copytree(best, tmp_path / "run"))
    run = load_run(folder)
    assert main(["check", str(folder), "--data", str(pictures_of_colours)]) == 1
    assert f"{run.summary['reported']['test_acc']:.2f} %" in capsys.readouterr().out
    resave(model=lambda m: m | {"fc.weight": -m["fc.weight"], "fc.bias": -m["fc.bias"]})(folder)
    assert main(["check", str(folder)]) == 1 and "FAIL" in capsys.readouterr().out  # nothing contradicts it
    assert main(["check", str(folder), "--data", str(pictures_of_colours)]) == 1
    out = capsys.readouterr().out
    assert "DOUBTFUL" in out and re.search(r"its weights reach [\d.]+ %, summary.json reports", out)


def test_a_class_of_thirty(trained, pictures_of_colours, tmp_path, capsys, monkeypatch):
    """Honest hand-ins in every packaging, and all kinds of tampering, each with its verdict."""
    course, room = tmp_path / "course", tmp_path / "class"
    room.mkdir()
    recorded = Path(shutil.copytree(trained[10], course / "results" / trained[10].name))
    monkeypatch.setattr(grading, "REPOSITORY", course)
    solved = {"cell_type": "code", "source": 'check("bounds", b)', "outputs": [{"text": "✅ bounds: right\n"}]}
    still_open = {"cell_type": "code", "source": ["b = ...\n", 'check("sweep", b)'], "outputs": []}
    honest = ["Anna", "Bela Kiss", "चंद्र", "李明", "dora_1 (1)", "emil", "fay", "gus", "hal"]
    shutil.copytree(trained[0], room / honest[0] / trained[0].name)  # unpacked beside its zip
    for k, (name, folder) in enumerate(zip(honest, trained, strict=False)):
        if k % 4 == 0:
            pack(folder, room / f"{name}.zip")
        elif k % 4 == 1:  # as macOS packs, and deeper
            junk = {f"__MACOSX/{folder.name}/._config.json": b"x", f"{folder.name}/.DS_Store": b"x"}
            zipped(room / f"{name}.zip", of_folder(folder, "my work/final/") | junk)
        elif k % 4 == 2:
            shutil.copytree(folder, room / name / "submission" / folder.name)
        else:  # a zip in a zip
            inner = zipped(tmp_path / "inner.zip", of_folder(folder)).read_bytes()
            zipped(room / f"{name}.zip", {"attempt/run.zip": inner})
    (room / "Anna.ipynb").write_text(json.dumps({"cells": [solved, still_open]}))
    verdicts = dict.fromkeys(honest, "ok")

    def tamper(name, *changes, source=trained[9]):
        folder = Path(shutil.copytree(source, tmp_path / "work" / name / source.name))
        for change in changes:
            change(folder)
        zipped(room / f"{name}.zip", of_folder(folder))

    def swap(folder):
        shutil.copy(recorded / "history.csv", folder / "history.csv")

    tamper("t01 copied run", reseed, source=recorded)
    verdicts["t01 copied run"] = f"weights and tables are those of the recorded results/{recorded.name}, but for "
    for kind in ("summary", "log", "rates", "smoothing", "network", "other recipe", "no weights", "no checkpoint"):
        tamper(f"t02 {kind}", TAMPERED[kind][0])
        verdicts[f"t02 {kind}"] = TAMPERED[kind][1]
    tamper("t03 swapped tables", swap)
    verdicts["t03 swapped tables"] = "train.log has other figures"
    shutil.copy(room / "emil.zip", room / "t04 copy.zip")
    verdicts |= {"t04 copy": "weights and tables are those of emil", "emil": "and tables are those of t04 copy"}
    tamper("t05 reseeded copy", reseed, source=trained[6])
    verdicts |= {"t05 reseeded copy": "of fay, but for the seed 6", "fay": "of t05 reseeded copy, but for the seed 77"}
    tamper("t05 retouched copy", retouch, source=trained[7])
    verdicts |= {"t05 retouched copy": "weights and tables are those of gus", "gus": "of t05 retouched copy, but for"}
    zipped(room / "t06 empty.zip", {})
    (room / "t06 empty folder").mkdir()
    verdicts |= dict.fromkeys(("t06 empty", "t06 empty folder"), "empty: no run and no notebook in it")
    zipped(room / "t07 bomb.zip", {"x/history.csv": bytes(2**26)})
    nested = zipped(tmp_path / "b.zip", {"history.csv": bytes(2**26)}).read_bytes()
    zipped(room / "t07 nested bomb.zip", {"a/b.zip": nested})
    verdicts |= dict.fromkeys(("t07 bomb", "t07 nested bomb"), "would unpack to 64 MiB in 1 files: a zip bomb?")
    zipped(room / "t08 outside.zip", {"../../escaped/config.json": "{}"})
    zipped(room / "t08 windows.zip", {"..\\..\\escaped\\config.json": "{}"})
    zipped(room / "t08 absolute.zip", {str(tmp_path / "escaped" / "config.json"): "{}"})
    link = zipfile.ZipInfo("run/best.pt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped(room / "t09 link.zip", {link: "/etc/passwd"})
    outside = ("t08 outside", "t08 windows", "t08 absolute", "t09 link")
    verdicts |= dict.fromkeys(outside, "holds a link or a path that leads outside")
    (room / "t09 links").mkdir()
    (room / "t09 links" / "config.json").symlink_to(trained[0] / "config.json")
    (room / "t10 damaged.zip").write_bytes(b"PK" + bytes(100))
    verdicts |= {"t09 links": "it holds a link, config.json", "t10 damaged": "cannot be unpacked"}

    files, table = sorted(map(str, room.iterdir())), tmp_path / "class.csv"
    assert main(["check", *files, "--csv", str(table), "--data", str(pictures_of_colours)]) == 2
    out = capsys.readouterr().out
    frame = pandas.read_csv(table)
    assert len(verdicts) >= 30 and list(frame.student) == sorted(verdicts, key=str.casefold)
    by_name = frame.set_index("student")
    for name, verdict in verdicts.items():
        assert verdict in by_name.integrity[name], name
        assert (by_name.integrity[name] == "ok") == (verdict == "ok") and f"{name} " in out
    assert not (tmp_path / "escaped").exists() and not (room / "escaped").exists()
    assert not FOR_TRAINERS.search(out)

    good = by_name[by_name.integrity == "ok"]
    assert (good["accuracy measured"] - good["accuracy claimed"]).abs().max() <= 1.7 and len(good) == 6
    assert (good.demands == 12).all() and set(good["24 epochs"]) == {"no"} and good["accuracy measured"].nunique() > 2
    assert (good["failed demands"].str.count("24 epochs") == 1).all() and (good["demands met"] < 12).all()
    assert by_name[by_name.integrity != "ok"]["demands met"].isna().all()
    assert (by_name[CLAIMED]["Anna"], by_name["exercises in it"]["Anna"]) == (1, 2)


# --- One hand-in


def test_hand_in_is_complete_small_and_says_nothing_of_the_machine(trained, tmp_path, capsys, monkeypatch):
    home = tmp_path / "home" / "zoltán"
    monkeypatch.setenv("HOME", str(home))
    text = f"saved in {home}/runs on {platform.node()} by zoltán; {REPOSITORY}/runs"
    cells = [{"cell_type": "code", "source": f"open('{home}/x')", "outputs": [{"text": [text]}]}]
    (tmp_path / "work.ipynb").write_text(json.dumps({"cells": cells}, ensure_ascii=False))
    shutil.copytree(trained[1], tmp_path / trained[1].name)
    beside = tmp_path / f"{trained[1].name}-lr-find"
    beside.mkdir()
    (beside / "lr_find.json").write_text("{}")
    out = tmp_path / "hand in.zip"
    run, notebook = tmp_path / trained[1].name, tmp_path / "work.ipynb"
    command = ["hand-in", str(run), "--out", str(out), "--notebook", str(notebook)]
    assert main(command) == 0 and capsys.readouterr().out.startswith(f"Written: {out} (")
    first = out.read_bytes()
    assert main(command) == 0 and out.read_bytes() == first  # the same again
    with zipfile.ZipFile(out) as archive:
        names = {name.split("/")[-1] for name in archive.namelist()}
        assert names == {"config.json", "history.csv", "steps.csv", "train.log", "summary.json", "best.pt",
                         "lr_find.json", "work.ipynb"}  # fmt: skip
        everything = b"".join(archive.read(name) for name in archive.namelist())
        best = torch.load(io.BytesIO(archive.read(f"{trained[1].name}/best.pt")), weights_only=True)
    assert {value.dtype for value in best["model"].values()} == {torch.float16, torch.int64}
    for word in (home, REPOSITORY, tmp_path, platform.node(), "zoltán"):
        assert str(word).encode() not in everything
    assert json.dumps(load_run(trained[1]).summary["device"]).encode() in everything


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "holds no run"),
        (["RUN", "--notebook", "nowhere.ipynb"], "cannot be read as a notebook"),
        (["RUN", "--out", "RUN/best.pt"], "a file that ends in .zip"),  # it is one, by its form
        (["RUN", "--out", "nowhere/a.zip"], "in a folder that is there"),
    ],
)
def test_hand_in_refuses_with_a_sentence_and_writes_nothing(words, sentence, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = of_folder(trained[2])
    assert main(["hand-in", *(word.replace("RUN", str(trained[2])) for word in words)]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert of_folder(trained[2]) == before


def test_folder_of_hand_ins_is_a_class_and_a_table_overwrites_no_hand_in(trained, tmp_path, capsys):
    room = tmp_path / "room"
    room.mkdir()
    mine = Path(shutil.copytree(trained[0], tmp_path / "mine" / trained[0].name))
    reseed(mine)
    pack(mine, room / "bela.zip")
    zipped(room / "anna.zip", of_folder(trained[0]) | {f".venv/{k}.py": "" for k in range(20_001)})
    assert main(["check", str(room)]) == 1
    out = capsys.readouterr().out
    assert re.findall(r"^(\w+) .* DOUBTFUL", out, re.M) == ["anna", "bela"]
    before = (room / "anna.zip").read_bytes()
    assert main(["check", "--csv", str(room / "anna.zip"), str(room / "bela.zip")]) == 2
    assert "a file that ends in .csv" in capsys.readouterr().err and (room / "anna.zip").read_bytes() == before


def test_formulas_and_escapes_of_strangers_do_nothing(trained, tmp_path, capsys):
    name = "=1+1\x1b[31m\udce1"
    shutil.copytree(trained[0], tmp_path / name)
    main(["check", str(tmp_path / name), "--csv", str(tmp_path / "o.csv")])
    assert "\x1b" not in capsys.readouterr().out
    assert pandas.read_csv(tmp_path / "o.csv").student[0].startswith("'=1+1")


@pytest.mark.parametrize(
    ("source", "printed", "solved"),
    [
        ('check("bounds", b)', "✅ bounds: right\n", {"bounds": True}),
        ('check("bounds", b)', "❌ bounds: no\n", {"bounds": False}),
        ('b = ...\nb = (3e-3, 0.05)\ncheck("bounds", b)', "✅ bounds: right\n", {"bounds": True}),
        ('b = (1, 2)\ncheck("bounds", b)', "✅ bounds: right\n", {"bounds": False}),  # its check says so
        ('b = []\nb.append(3e-3)\nb.append(0.05)\ncheck("bounds", b)', "✅ bounds: right\n", {"bounds": True}),
        ('%time\nb = f()\ncheck("bounds", b)', "✅ bounds: right\n", {"bounds": True}),
        ('print("✅ bounds: right")', "✅ bounds: right\n", {}),
        ('check("own", b)', "✅ own: right\n", {}),
    ],
)
def test_exercises_are_taken_from_saved_outputs_without_executing(source, printed, solved, tmp_path):
    cell = {"cell_type": "code", "source": source, "outputs": [{"output_type": "stream", "text": [printed]}]}
    path = tmp_path / "work.ipynb"
    path.write_text(json.dumps({"cells": [cell, {"cell_type": "markdown", "source": []}]}))
    assert claimed_exercises(path) == solved


def test_a_resnet_is_asked_for_its_galleries(recorded, capsys):
    gallery = recorded[1] / "gallery.json"
    made = json.loads(gallery.read_text())
    gallery.unlink()
    assert main(["check", str(recorded[1])]) == 1
    out = capsys.readouterr().out
    assert "❌ Galleries, and GradCAM of the same images: gallery.json is missing" in out
    assert not FOR_TRAINERS.search(out)
    wrong = made["misclassified"]
    for correct, status in (([-1], 1), (wrong[:1], 1), (made["correct"], 0)):  # no image; a misclassified one
        gallery.write_text(json.dumps(made | {"correct": correct}))
        assert main(["check", str(recorded[1] / "best.pt")]) == status  # a file named for its folder
        out = capsys.readouterr().out
        assert f"{'❌' if status else '✅'} Chosen from the whole test set" in out
    assert "✅ GradCAM of the same images\n" in out and out.count("✅") == 14
