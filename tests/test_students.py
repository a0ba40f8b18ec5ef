import json
import re
import subprocess

import pytest
from conftest import helpers

from helpers import GITHUB
from helpers.authoring.students import NOTEBOOKS, make_edition, make_student_copies
from helpers.cli import main
from helpers.plumbing.errors import CourseError
from helpers.settings import REPOSITORY


def text(cell):
    return "".join(cell["source"])


def write_notebook(folder, *cells, name="07_shapes.ipynb"):
    folder.mkdir(exist_ok=True)
    cells = [
        {"cell_type": kind, "id": f"shapes-{k}", "metadata": {}, "source": source}
        | (
            {"execution_count": k, "outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]}
            if kind == "code"
            else {}
        )
        for k, (kind, source) in enumerate(cells, start=1)
    ]
    (folder / name).write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return folder


def test_copies_are_the_notebooks_without_solutions_and_outputs(tmp_path):
    """Nothing of a solution is left, and nothing else is lost."""
    for path in make_student_copies(tmp_path / "handout"):
        copied, source = path.read_text(), (NOTEBOOKS / path.name).read_text()
        assert "SOLUTION" not in copied and copied.endswith("}\n")
        copied, source = json.loads(copied), json.loads(source)
        assert {k: v for k, v in copied.items() if k != "cells"} == {k: v for k, v in source.items() if k != "cells"}
        for mine, theirs in zip(copied["cells"], source["cells"], strict=True):
            assert mine["id"] == theirs["id"] and not mine.get("outputs") and mine.get("execution_count") is None
            before, found, rest = text(theirs).partition("SOLUTION")
            if not found:
                assert text(mine) == text(theirs).rstrip("\n")
                continue
            assert text(mine).startswith(before.rpartition("\n")[0].rstrip())
            solution, _, after = rest.partition("END")
            assert text(mine).endswith(after.partition("\n")[2])
            assert not set(solution.split("\n")[1:-1]) & set(text(mine).split("\n"))


def test_solutions_of_every_form_go(tmp_path):
    source = "if 1:\n    a = ...\n    # SOLUTION\n    a = 1\n    # END\n#SOLUTION: a 2nd\na = 2\n# END of it\ncheck(a)"
    reasons = "Why?\n\n<!-- SOLUTION -->\nBecause.\n<!-- END -->"
    cells = [("code", source), ("markdown", reasons), ("raw", "# a word")]
    [path] = make_student_copies(tmp_path / "out", write_notebook(tmp_path / "in", *cells))
    code, markdown, raw = json.loads(path.read_text())["cells"]
    assert text(code) == "if 1:\n    a = ...\ncheck(a)" and code["outputs"] == [] and code["execution_count"] is None
    assert text(markdown) == "Why?" and text(raw) == "# a word" and "Because" not in path.read_text()


@pytest.mark.parametrize(
    ("kind", "source", "problem"),
    [
        ("code", "a = ...\n# SOLUTION\na = 1", "'# SOLUTION' looks like a mark"),
        ("code", "a = 1\n# END", "'# END' looks like a mark"),
        ("code", "# SOLUTION\na = 1\nb = ...\n# SOLUTION\nb = 2\n# END", "'# SOLUTION' looks like a mark"),
        ("code", "# Begin Solution\na = 1\n# End Solution", "'# Begin Solution' looks like a mark"),
        ("markdown", "## Solution\nBecause.", "'## Solution' looks like a mark"),
        ("markdown", "Why? <!-- SOLUTION -->So.<!-- END -->", "'Why? <!-- SOLUTION -->So.<!-- END -->' looks"),
    ],
)
def test_what_looks_like_a_mark_and_is_none_is_named_and_nothing_written(tmp_path, kind, source, problem):
    folder = write_notebook(tmp_path / "in", ("code", "# SOLUTION\n1\n# END"), name="01_fine.ipynb")
    write_notebook(folder, ("markdown", "a solution, # 1 resolution"), (kind, source))
    with pytest.raises(CourseError) as error:
        make_student_copies(tmp_path / "out", folder)
    assert f"07_shapes.ipynb, cell shapes-2: {problem}" in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("code", "resolution = 32  # the resolution\nprint('a solution')"),
        ("markdown", "Other solutions of this assignment, in `# comments` too"),
        ("markdown", "## What the published solutions do"),
    ],
)
def test_what_only_speaks_of_solutions_stays(tmp_path, kind, source):
    [path] = make_student_copies(tmp_path / "out", write_notebook(tmp_path / "in", (kind, source)))
    assert text(json.loads(path.read_text())["cells"][0]) == source


def test_sources_are_never_overwritten(tmp_path):
    folder = write_notebook(tmp_path / "in", ("code", "# SOLUTION\n1\n# END"))
    before = (folder / "07_shapes.ipynb").read_bytes()
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, tmp_path / "link", tmp_path / "in" / ".." / "in"):
        with pytest.raises(CourseError, match="with their solutions: choose another folder"):
            make_student_copies(out, folder)
    assert (folder / "07_shapes.ipynb").read_bytes() == before


def test_edition_is_a_repository_of_its_own(tmp_path):
    out = tmp_path / "student"
    first, second = (helpers("students", "--out", out, "--repo", "anna/shapes-2") for _ in range(2))
    assert first.returncode == second.returncode == 0 and first.stdout == second.stdout, first.stderr
    assert first.stdout.startswith(f"Written: {out}. Its badges and") and "anna/shapes-2, on GitHub:" in first.stdout
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"Makefile", "README.md", "LICENSE", "requirements.txt", "pyproject.toml", "helpers/recipes.py"} < files
    notebooks = {f"notebooks/{path.name}" for path in NOTEBOOKS.glob("*.ipynb")}
    assert {name for name in files if name.endswith(".ipynb")} == notebooks
    assert not any(re.match(r"(results|tests|images|helpers/authoring)/", name) for name in files)
    assert not any(name.endswith((".pt", ".log", ".csv", ".pyc")) for name in files)
    everything = "\n".join((out / name).read_text() for name in files)
    assert GITHUB not in everything.replace("anna/shapes-2", "") and "# SOLUTION" not in everything
    readme = (out / "README.md").read_text()
    for path in sorted((out / "notebooks").iterdir()):
        cells = json.loads(path.read_text())["cells"]
        head, first_cell = text(cells[0]), next(text(cell) for cell in cells if cell["cell_type"] == "code")
        assert f"github/anna/shapes-2/blob/main/notebooks/{path.name})" in head and path.name in readme
        assert 'course = "anna/shapes-2"' in first_cell

    shown = helpers("--help", cwd=out)
    assert shown.returncode == 0 and "hand-in" in shown.stdout and "reproduce" not in shown.stdout, shown.stderr
    targets = subprocess.run(["make", "--dry-run", "run"], cwd=out, capture_output=True, text=True)
    assert targets.returncode == 0 and "01_lr_range_test.ipynb" in targets.stdout
    makefile = (out / "Makefile").read_text()
    assert makefile.startswith("# make run ") and not re.search(r"pytest|helpers report|reproduce --data", makefile)
    (out / "README.md").write_text("my own words")
    make_edition(out, "anna/shapes-3")
    assert (out / "README.md").read_text() == "my own words" and "shapes-3" in (out / "helpers/__init__.py").read_text()


@pytest.mark.slow
def test_the_edition_trains_and_hands_in(tmp_path):
    make_edition(tmp_path / "student", "anna/shapes")
    words = ("custom_resnet", "--data", "synthetic", "--fast", "--runs", "runs", "--set", "width=8")
    for command in (("lr-find", *words), ("train", *words), ("hand-in", "runs/custom_resnet-synthetic-seed0")):
        done = helpers(*command, cwd=tmp_path / "student")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "student" / "custom_resnet-synthetic-seed0.zip").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--repo", "anna"], "cannot be a repository on GitHub"),
        (["--out", "."], "holds the course with its solutions"),
        (["--out", "notebooks"], "holds the notebooks with their solutions"),
        (["--out", "requirements.txt"], "cannot be made"),
    ],
)
def test_command_refuses_with_a_sentence(words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    before = {path: path.stat().st_mtime_ns for path in REPOSITORY.glob("[hn]*/*")}
    assert main(["students", "--out", str(tmp_path / "out"), *words]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert before == {path: path.stat().st_mtime_ns for path in REPOSITORY.glob("[hn]*/*")}
