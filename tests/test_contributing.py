"""The worked examples of CONTRIBUTING.md, carried out in a copy of the course as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.settings import REPOSITORY

SECTIONS = dict(
    re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.M | re.S)
)
BLOCK = re.compile(r"([^\n]*)\n\n```(python|sh)\n(.*?)```\n", re.S)


def run(command, course):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COURSE_")}
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def carry_out(section, course):
    """Insert, add or run every block of a section in order, as the line before it says; return what was printed."""
    printed = ""
    for before, language, code in BLOCK.findall(SECTIONS[section]):
        inserted = re.search(r"In `([^`]+)`, after `([^`]+)`:$", before)
        cell = re.search(r"In `([^`]+\.ipynb)`, as its last cell", before)
        if inserted:
            path, words = course / inserted[1], inserted[2]
            text = path.read_text()
            assert text.count(words) == 1
            path.write_text(text.replace(words, f"{words}\n{code}"))
        elif cell:
            notebook = nbformat.read(course / cell[1], as_version=4)
            notebook.cells.append(nbformat.v4.new_code_cell(code.strip()))
            nbformat.write(notebook, course / cell[1])
        else:
            printed += run([sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code], course)
    return printed


def test_recipe_and_its_assignment(course):
    assert "Training custom_resnet_short on synthetic" in carry_out("A recipe", course)
    (folder,) = (course / "runs" / "fast").iterdir()
    assert (folder / "summary.json").exists() and folder.name == "custom_resnet_short-synthetic-seed0"
    assert "| `custom_resnet_short` | 6,573,130 | 10 |  | not run yet |" in (course / "README.md").read_text()
    printed = carry_out("An assignment", course)
    assert "✅ Weight decay is used\n      0.0005" in printed and "❌ 6,573,130 parameters" in printed
    assert "❌ 10 epochs\n      6 epochs in the history" in printed and "❌ Test accuracy of 85 %" in printed


def test_notebook(course):
    printed = carry_out("A notebook", course)
    assert re.search(r"\b9 passed", printed) and "failed" not in printed
    notebook = nbformat.read(course / "notebooks" / "05_weight_decay.ipynb", as_version=4)
    assert "published_s8_onecycle_sgd               0\n" in notebook.cells[-2].outputs[0].text


def test_exercise(course):
    printed = carry_out("An exercise", course)
    assert re.search(r"\b5 passed", printed) and "failed" not in printed


@pytest.mark.parametrize("section", ["A recipe", "An assignment", "A notebook", "An exercise"])
def test_every_block_of_a_section_is_carried_out(section):
    assert len(BLOCK.findall(SECTIONS[section])) == SECTIONS[section].count("```") / 2
