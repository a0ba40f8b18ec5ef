"""A run folder, written and read again: tables, seeds, provenance."""

import subprocess

import numpy as np
import pytest

from helpers.plumbing import run_files
from helpers.plumbing.errors import CourseError
from helpers.plumbing.resume import checked_seed, seed_everything
from helpers.plumbing.run_files import STEP_COLUMNS, from_csv, to_csv
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


@pytest.mark.parametrize("seed", [0, 20231234567, np.int64(7), np.uint8(7), 2**63 - 1])
def test_seeds_of_every_size_seed_everything(seed):
    number = checked_seed(seed)
    assert type(number) is int and number == seed
    draws = []
    for _ in range(2):
        seed_everything(number)
        draws.append(np.random.random())
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
