import sys
from types import SimpleNamespace

import pytest

from helpers import settings
from helpers.plumbing.errors import CourseError


@pytest.mark.parametrize(("fast", "folder"), [("", "cifar10-runs"), ("1", "cifar10-runs/fast")])
def test_runs_are_kept_on_the_drive_when_asked_for(monkeypatch, fast, folder):
    """Colab's own module is stood in for: what counts is what it is asked to mount, and where runs go then."""
    mounted = []
    colab = SimpleNamespace(drive=SimpleNamespace(mount=mounted.append))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("COURSE_FAST", fast)
    monkeypatch.setenv("COURSE_RUNS", "somewhere/else")
    monkeypatch.setenv("COURSE_DATA_DIR", "")
    settings.keep_runs_on_drive()
    assert mounted == ["/content/drive"]
    assert str(settings.runs_folder()) == f"/content/drive/MyDrive/{folder}"
    assert str(settings.data_folder()) == "/content/drive/MyDrive/cifar10-data"
    monkeypatch.setenv("COURSE_DATA_DIR", "/tmp/data")
    settings.keep_runs_on_drive()
    assert str(settings.data_folder()) == "/tmp/data"


@pytest.mark.parametrize(
    ("colab", "sentence"),
    [(None, "in Colab only"), (SimpleNamespace(drive=None), r"was not mounted \(.*'mount'\): run this cell again and")],
)
def test_drive_that_is_not_there_or_refused_is_a_sentence_and_changes_nothing(monkeypatch, colab, sentence):
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("COURSE_RUNS", "somewhere")
    with pytest.raises(CourseError, match=sentence):
        settings.keep_runs_on_drive()
    assert settings.runs_folder().name == "somewhere"


def test_a_run_is_found_by_its_name_among_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "there"))
    assert settings.named_run("a-run", None) == tmp_path / "there" / "a-run"
    assert settings.named_run("a-run", str(tmp_path / "here")) == tmp_path / "here" / "a-run"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-run").mkdir()
    assert str(settings.named_run("a-run", str(tmp_path / "here"))) == "a-run"  # what is there comes first
