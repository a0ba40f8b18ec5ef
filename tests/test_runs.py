"""A run folder, written, damaged and read again: tables, seeds, provenance."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.assignment.checklist import gallery_checklist
from helpers.plumbing import run_files
from helpers.plumbing.errors import CourseError
from helpers.plumbing.resume import seed_everything
from helpers.plumbing.run_files import STEP_COLUMNS, checked_seed, from_csv, to_csv
from helpers.runs import load_run
from helpers.settings import REPOSITORY

RECORDED = REPOSITORY / "results" / "custom_resnet-cifar10-seed0"


@pytest.mark.parametrize(
    "change", [lambda t: "\ufeff" + t, lambda t: t.replace(",", ";"), lambda t: t.replace("\n", "\r\n")]
)
def test_a_table_saved_by_a_spreadsheet_is_read(change):
    text = to_csv(STEP_COLUMNS, [{"step": k, "lr": 0.1 / (k + 1), "momentum": 0.9} for k in range(3)])
    table = from_csv(change(text), STEP_COLUMNS)
    np.testing.assert_allclose(table["lr"], [0.1, 0.05, 0.1 / 3], rtol=1e-7)
    with pytest.raises(ValueError, match="is not made of the columns"):
        from_csv(change(text.replace("momentum", "velocity")), STEP_COLUMNS)


def test_a_file_of_a_run_that_is_named_for_its_folder_is_told_apart_from_damage():
    with pytest.raises(CourseError, match=f"is a file of a run folder: name the folder, {RECORDED}"):
        load_run(RECORDED / "summary.json")


def places(value, where=()):
    """The place of every value inside a nested one, as keys and indices; of a list's first two alone."""
    if isinstance(value, list):
        value = dict(enumerate(value[:2]))
    for key, part in value.items() if isinstance(value, dict) else ():
        yield (*where, key)
        yield from places(part, (*where, key))


@pytest.mark.parametrize("name", ["config.json", "summary.json", "gallery.json"])
def test_whatever_stands_in_the_files_of_a_run_is_read_or_refused_in_a_sentence(name, tmp_path):
    run = Path(shutil.copytree(RECORDED, tmp_path / RECORDED.name))
    text = (run / name).read_text()
    texts = ["", "null", "[]", "{}", text[: len(text) // 2]]
    for *where, last in places(json.loads(text)):
        for odd in (None, -1, "x", [], 1e308):
            changed = json.loads(text)
            inside = changed
            for key in where:
                inside = inside[key]
            inside[last] = odd
            texts.append(json.dumps(changed))
    for content in texts:
        (run / name).write_text(content)
        try:
            gallery_checklist(load_run(run))
        except CourseError as error:
            assert str(error).endswith(".") and "\n" not in str(error)


@pytest.mark.parametrize("name", ["history.csv", "steps.csv"])
@pytest.mark.parametrize("old_new", [(",", ""), ("\n2,", "\n3,"), ("\n1,0", "\n1,x"), ("lr", "rate")])
def test_a_damaged_table_is_named(name, old_new, tmp_path):
    run = Path(shutil.copytree(RECORDED, tmp_path / RECORDED.name))
    (run / name).write_text((run / name).read_text().replace(*old_new, 1))
    with pytest.raises(CourseError, match="is damaged"):
        load_run(run)


@pytest.mark.parametrize("seed", [0, 20231234567, np.int64(7), 2**63 - 1])
def test_seeds_of_every_size_seed_everything(seed):
    draws = []
    for _ in range(2):
        seed_everything(checked_seed(seed))
        draws.append((np.random.random(), random.random(), torch.rand(1).item()))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "123", True, None])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(CourseError, match="seed has to be a whole number from 0"):
        checked_seed(seed)


def test_unpacked_inside_another_repository_the_course_has_no_commit_of_its_own(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "other work"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "course").mkdir()
    monkeypatch.setattr(run_files, "REPOSITORY", tmp_path)
    assert "(" in run_files.code_version()
    monkeypatch.setattr(run_files, "REPOSITORY", tmp_path / "course")
    assert "(" not in run_files.code_version()
