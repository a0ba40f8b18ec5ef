import json
import os
import subprocess
import sys

import pytest

from helpers.assignment.students import NOTEBOOKS, make_student_copies
from helpers.plumbing.errors import CourseError
from helpers.settings import REPOSITORY


def text(cell):
    return "".join(cell["source"])


def write_notebook(folder, *cells, name="07_shapes.ipynb"):
    folder.mkdir(exist_ok=True)
    cells = [
        {"cell_type": kind, "id": f"shapes-{k}", "metadata": {}, "source": source}
        | ({"execution_count": k, "outputs": [{"output_type": "stream", "text": "1"}]} if kind == "code" else {})
        for k, (kind, source) in enumerate(cells, start=1)
    ]
    (folder / name).write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return folder


def test_copies_are_the_notebooks_without_solutions(tmp_path):
    """Nothing of a solution is left, and nothing else is lost."""
    for path in make_student_copies(tmp_path / "handout"):
        copied, source = path.read_text(), (NOTEBOOKS / path.name).read_text()
        assert "SOLUTION" not in copied and f"/blob/main/handout/{path.name}" in copied and copied.endswith("}\n")
        copied, source = json.loads(copied), json.loads(source)
        assert {k: v for k, v in copied.items() if k != "cells"} == {k: v for k, v in source.items() if k != "cells"}
        for mine, theirs in zip(copied["cells"], source["cells"], strict=True):
            before, found, rest = text(theirs).partition("SOLUTION")
            if not found:
                assert text(mine) == text(theirs).replace("/blob/main/notebooks/", "/blob/main/handout/")
                assert {**mine, "source": 0} == {**theirs, "source": 0}
                continue
            assert mine["id"] == theirs["id"] and not mine.get("outputs") and mine.get("execution_count") is None
            assert text(mine).startswith(before.rpartition("\n")[0].rstrip())
            solution, _, after = rest.partition("END")
            assert text(mine).endswith(after.partition("\n")[2])
            assert not set(solution.split("\n")[1:-1]) & set(text(mine).split("\n"))


@pytest.mark.parametrize("as_text", [False, True])
def test_solutions_of_every_form_go(tmp_path, as_text):
    source = (
        "if True:\n    a = ...\n    # SOLUTION\n    a = 1\n    # END\n#solution: a second\na = 2\n# END of it\ncheck(a)"
    )
    reasons = "Why?\n\n<!-- SOLUTION -->\nBecause.\n<!-- END -->"
    cells = [("code", source), ("markdown", reasons), ("raw", "# SOLUTION")]
    if not as_text:
        cells = [(kind, lines.splitlines(keepends=True)) for kind, lines in cells]
    [path] = make_student_copies(tmp_path / "out", write_notebook(tmp_path / "in", *cells))
    code, markdown, raw = json.loads(path.read_text())["cells"]
    assert text(code) == "if True:\n    a = ...\ncheck(a)" and code["outputs"] == [] and code["execution_count"] is None
    assert text(markdown) == "Why?" and text(raw) == "# SOLUTION" and "Because" not in path.read_text()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("a = ...\n# SOLUTION\na = 1", "07_shapes.ipynb, cell shapes-2: a solution has no end"),
        ("a = 1\n# END", "07_shapes.ipynb, cell shapes-2: '# END' ends no solution"),
        ("# SOLUTION\na = 1\n# SOLUTION\n# END", "cell shapes-2: '# SOLUTION' begins a solution inside another one"),
        ("# Solution\na = 1", "cell shapes-2: a solution has no end"),
    ],
)
def test_wrong_markers_are_told_and_nothing_is_written(tmp_path, source, problem):
    folder = write_notebook(tmp_path / "in", ("code", "# SOLUTION\n1\n# END"), name="01_fine.ipynb")
    write_notebook(folder, ("markdown", "fine"), ("code", source))
    with pytest.raises(CourseError) as error:
        make_student_copies(tmp_path / "out", folder)
    assert problem in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_sources_are_never_overwritten_and_bad_ones_are_told(tmp_path):
    folder = write_notebook(tmp_path / "in", ("code", "# SOLUTION\n1\n# END"))
    before = (folder / "07_shapes.ipynb").read_bytes()
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, tmp_path / "link", tmp_path / "in" / ".." / "in"):
        with pytest.raises(CourseError, match="with their solutions: choose another folder"):
            make_student_copies(out, folder)
    assert (folder / "07_shapes.ipynb").read_bytes() == before
    with pytest.raises(CourseError, match="There are no notebooks in"):
        make_student_copies(tmp_path / "out", tmp_path)
    for damaged in ("{", "[]", '{"cells": [{}]}', '{"cells": [{"cell_type": "code", "source": 1}]}'):
        (folder / "08_damaged.ipynb").write_text(damaged)
        with pytest.raises(CourseError, match=r"08_damaged.ipynb cannot be read as a notebook .*: mend or remove it"):
            make_student_copies(tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


def test_the_command_can_be_run_again(tmp_path):
    command = [sys.executable, "-m", "helpers", "students", "--out", str(tmp_path / "student")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    first, second = (subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
                     for _ in range(2))  # fmt: skip
    assert first.returncode == second.returncode == 0 and first.stdout == second.stdout
    assert first.stdout.split() == [str(tmp_path / "student" / path.name) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    assert {path.name for path in (tmp_path / "student").iterdir()} == {path.name for path in NOTEBOOKS.glob("*.ipynb")}
    for out in (NOTEBOOKS, tmp_path / "student" / "01_lr_range_test.ipynb" / "x"):
        command[-1] = str(out)
        refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert refused.returncode == 2 and refused.stderr.startswith("Error: ") and refused.stderr.count("\n") == 1
        assert "--out" in refused.stderr
