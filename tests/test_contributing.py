"""The worked examples of CONTRIBUTING.md, carried out in a copy of the course as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.settings import REPOSITORY

SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", (REPOSITORY / "CONTRIBUTING.md").read_text()))
WORKED = ["A recipe", "An assignment", "A network", "A notebook", "An exercise"]
BLOCK = re.compile(r"([^\n]*)\n\n```(python|sh)\n(.*?)```\n", re.S)


def run(command, course):
    environment = os.environ | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def carry_out(section, course, commands=True):
    """Insert, replace, add or run every block of a section in order, as the line before it says; return the output."""
    printed = ""
    for before, language, code in BLOCK.findall(SECTIONS[section]):
        inserted = re.search(r"In `([^`]+)`, (after|in place of) `([^`]+)`:$", before)
        cell = re.search(r"In `([^`]+\.ipynb)`, as its last cell", before)
        if inserted:
            path, words = course / inserted[1], inserted[3]
            text = path.read_text()
            assert text.count(words) == 1, words
            path.write_text(text.replace(words, f"{words}\n{code}" if inserted[2] == "after" else code.rstrip("\n")))
            compile(path.read_text(), path, "exec")
        elif cell:
            notebook = nbformat.read(course / cell[1], as_version=4)
            notebook.cells.append(nbformat.v4.new_code_cell(code.strip()))
            nbformat.write(notebook, course / cell[1])
        elif commands:
            printed += run([sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code], course)
    return printed


@pytest.mark.parametrize("section", WORKED)
def test_every_block_of_a_section_has_its_place(section, course):
    assert len(BLOCK.findall(SECTIONS[section])) == SECTIONS[section].count("```") / 2
    carry_out(section, course, commands=False)
    run([sys.executable, "-c", "import helpers.recipes"], course)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (["A recipe", "An assignment"], "❌ 10 epochs\n      6 epochs in the history"),
        (["A network"], "gradcam.png"),
        (["A notebook"], " passed"),
        (["An exercise"], " passed"),
    ],
)
def test_worked_example(sections, expected, course):
    printed = "".join(carry_out(section, course) for section in sections)
    assert expected in printed and "failed" not in printed
