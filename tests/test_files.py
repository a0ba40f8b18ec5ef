import errno
import io
import os
import pickle
import random
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


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "no model", "malicious", "malicious zip"])
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
                "empty": b"",
                "truncated": good[:middle],
                "flipped": good[:40] + bytes([good[40] ^ 255]) + good[41:middle] + b"\0" * 64 + good[middle + 64 :],
                "text": b"this is no checkpoint",
                "malicious": pickle.dumps(bomb),
            }[damage]
        )
    bad = path.read_bytes()
    with pytest.raises(CourseError, match=r"last\.pt (is damaged or no checkpoint|holds no model).*kept as it is"):
        load_checkpoint(path)
    assert path.read_bytes() == bad and not victim.exists()


def same(state):
    tensors = torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    return tensors and {**state, "model": None} == {**STATE, "model": None}


def test_no_flipped_bit_or_cut_changes_what_is_loaded(tmp_path):
    """Some bits of the file mean nothing; a change of any other is noticed."""
    path, rng, refused = tmp_path / "last.pt", random.Random(0), 0
    save_checkpoint(path, STATE)
    good = path.read_bytes()
    start = good.index(STATE["model"]["weight"].numpy().tobytes())
    places = [*range(8 * start, 8 * start + 24 * 8), *(rng.randrange(8 * len(good)) for _ in range(300))]
    damaged = [good[: k // 8] + bytes([good[k // 8] ^ (1 << k % 8)]) + good[k // 8 + 1 :] for k in places]
    cut = [good[: rng.randrange(len(good))] for _ in range(50)]
    for number, content in enumerate(damaged + cut):
        path.write_bytes(content)
        try:
            assert same(load_checkpoint(path))
        except CourseError:
            refused += 1
        else:
            assert 24 * 8 <= number < len(damaged)  # neither a weight's bit nor a cut
    assert refused > 400


def test_what_is_reported_as_written_is_on_the_disk_with_its_name(tmp_path, monkeypatch):
    """If the power fails: the content is flushed before it gets its name, and the name before the call returns."""
    done, fsync, replace = [], os.fsync, Path.replace

    def note_flush(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def note_name(path, target):
        done.append(target)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(Path, "replace", note_name)
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    assert done == [path.stat().st_ino, path, tmp_path.stat().st_ino]


def test_interrupted_writing_keeps_the_previous_file_and_nothing_else(tmp_path):
    def interrupt(file):
        file.write(b"half")
        raise KeyboardInterrupt

    write_text(tmp_path / "train.log", "first")
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "train.log", interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["train.log"]
    assert (tmp_path / "train.log").read_text() == "first"


def test_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CourseError, match=r"last\.pt could not be written .*No space left.*free space"):
        save_checkpoint(path, STATE | {"epoch": 4})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_said_as_such_and_not_in_the_words_of_torchs_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(files.Path, "open", lambda path, mode: io.FileIO("/dev/full", "w"))
    with pytest.raises(CourseError, match=r"last\.pt could not be written .*No space left"):
        save_checkpoint(tmp_path / "last.pt", {"model": {"weight": torch.zeros(100_000)}})
    assert not (tmp_path / "last.pt").exists()


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "run").mkdir()
    for name in ("summary.json.tmp", "summary.json"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "run" / "summary.json", "new")
    assert (tmp_path / "run" / "summary.json").read_text() == "new"
    assert (tmp_path / "elsewhere").read_text() == "untouched"


def test_what_float16_cannot_hold_stays_float32():
    weights = {"small": torch.tensor([1.5]), "large": torch.tensor([1e6]), "counter": torch.tensor([3])}
    kinds = {key: value.dtype for key, value in in_half_precision(weights).items()}
    assert kinds == {"small": torch.float16, "large": torch.float32, "counter": torch.int64}
