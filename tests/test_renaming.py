"""A user of the template puts the name of the own repository everywhere, or nowhere."""

import json
import subprocess
import sys

import pytest

from helpers import GITHUB
from helpers.authoring.renaming import FILES, rename
from helpers.plumbing.errors import CourseError


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_command_changes_every_address_and_nothing_else(course):
    before = contents(course)
    command = [sys.executable, "-m", "helpers", "rename"]
    done = subprocess.run([*command, "Some-One/deep.course_2"], cwd=course, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "The repository is Some-One/deep.course_2 now." in done.stdout
    new, after = b"Some-One/deep.course_2", {p: c for p, c in contents(course).items() if "__pycache__" not in p.parts}
    assert after == {path: content.replace(GITHUB.encode(), new) for path, content in before.items()}
    changed = {str(path.relative_to(course)) for path in before if after[path] != before[path]}
    assert {"README.md", "helpers/__init__.py"} <= changed
    for path in course.glob("notebooks/*.ipynb"):
        assert f"{path.relative_to(course)}: 2" in done.stdout
        cells = json.loads(path.read_text())["cells"]
        badge = f"https://colab.research.google.com/github/{new.decode()}/blob/main/notebooks/{path.name}"
        assert badge in cells[0]["source"][0]
        setup = next(cell["source"] for cell in cells if cell["cell_type"] == "code")
        assert f'course = "{new.decode()}"\n' in setup

    again = subprocess.run([*command, new.decode()], cwd=course, capture_output=True, text=True, timeout=60)
    assert again.stdout == "Nothing to change: it is Some-One/deep.course_2 already.\n"


def test_interrupted_renaming_can_be_repeated(course, monkeypatch):
    """The package tells the old name, so it is the last file that is written."""
    from helpers.authoring import renaming

    written = []

    def dies(path, write):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        with path.open("wb") as file:
            write(file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(renaming, "write_atomically", dies)
        rename("a/b", course)
    assert GITHUB in (course / "helpers" / "__init__.py").read_text()
    rename("a/b", course)
    left = [path for pattern in FILES for path in course.glob(pattern) if GITHUB in path.read_text()]
    assert left == []


@pytest.mark.parametrize(
    "name",
    [
        *("", "alone", "a/b/c", "a b/c", "-a/b", "a-/b", "a--b/c", "a/..", "a/.", "a/b.git", "a/b\n", "ä/b"),
        *("a" * 40 + "/b", "https://github.com/a/b", '"/b', "a/" + "b" * 101, "a/$(touch x)", "x" * 5000),
    ],
)  # fmt: skip
def test_bad_name_is_refused_and_nothing_changed(name, tmp_path):
    (tmp_path / "README.md").write_text(GITHUB)
    with pytest.raises(CourseError, match="cannot be a repository on GitHub: give its name as OWNER/REPO"):
        rename(name, tmp_path)
    assert (tmp_path / "README.md").read_text() == GITHUB


def test_longer_names_are_other_repositories(tmp_path):
    (tmp_path / "README.md").write_text(f"{GITHUB}-2 x{GITHUB} {GITHUB}.\r\n{GITHUB}/blob")
    assert [count for _, count in rename("a/b", tmp_path)] == [2]
    assert (tmp_path / "README.md").read_bytes() == f"{GITHUB}-2 x{GITHUB} a/b.\r\na/b/blob".encode()
