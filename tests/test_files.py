import os
import pickle
from pathlib import Path

import pytest
import torch

from helpers.plumbing import files
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import in_half_precision, load_checkpoint, save_checkpoint, write_text

STATE = {"model": {"weight": torch.arange(6.0).view(2, 3)}, "epoch": 3, "log": ["a line"], "lr": 0.1, "none": None}


class Malicious:
    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no model", "malicious", "malicious zip"])
def test_damaged_foreign_or_malicious_checkpoint_is_refused_and_kept(tmp_path, damage):
    path, victim = tmp_path / "last.pt", tmp_path / "executed"
    save_checkpoint(path, STATE)
    good = path.read_bytes()
    bomb = Malicious()
    bomb.folder = str(victim)
    if damage == "malicious zip":
        torch.save({"model": bomb}, path)
    elif damage == "no model":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        middle = len(good) // 2
        path.write_bytes(
            {
                "truncated": good[:middle],
                "flipped": good[:40] + bytes([good[40] ^ 255]) + good[41:middle] + b"\0" * 64 + good[middle + 64 :],
                "malicious": pickle.dumps(bomb),
            }[damage]
        )
    bad = path.read_bytes()
    with pytest.raises(CourseError, match=r"last\.pt (is damaged or no checkpoint|holds no model).*kept as it is"):
        load_checkpoint(path)
    assert path.read_bytes() == bad and not victim.exists()


def test_content_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    """So that a power failure leaves the old file or the new one."""
    done, fsync, replace = [], os.fsync, Path.replace

    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_ino) or fsync(number))
    monkeypatch.setattr(Path, "replace", lambda path, target: done.append(target) or replace(path, target))
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    assert done == [path.stat().st_ino, path]


def test_interrupted_writing_keeps_the_previous_file_and_nothing_else(tmp_path):
    def interrupt(file):
        file.write(b"half")
        raise KeyboardInterrupt

    write_text(tmp_path / "train.log", "first")
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "train.log", interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["train.log"]
    assert (tmp_path / "train.log").read_text() == "first"


def test_what_float16_cannot_hold_stays_float32():
    weights = {"small": torch.tensor([1.5]), "large": torch.tensor([1e6]), "counter": torch.tensor([3])}
    kinds = {key: value.dtype for key, value in in_half_precision(weights).items()}
    assert kinds == {"small": torch.float16, "large": torch.float32, "counter": torch.int64}
