"""The worked examples of CONTRIBUTING.md, carried out in a copy of the course as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from torchvision.models import mobilenet_v2

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
def test_recipe_and_its_assignment(course):
    assert "Training custom_resnet_short on synthetic" in carry_out("A recipe", course)
    (folder,) = (course / "runs" / "fast").iterdir()
    assert (folder / "summary.json").exists() and folder.name == "custom_resnet_short-synthetic-seed0"
    assert "| `custom_resnet_short` | not run yet | 0 | – | – |" in (course / "README.md").read_text()
    printed = carry_out("An assignment", course)
    assert "✅ Weight decay is used\n      0.0005" in printed and "❌ 6,573,130 parameters" in printed
    assert "❌ 10 epochs\n      6 epochs in the history" in printed and "❌ Test accuracy of 85 %" in printed


@pytest.mark.slow
def test_network(course):
    printed = carry_out("A network", course)
    assert "Training mobilenet on synthetic" in printed and "gradcam.png" in printed
    count = "from helpers.models import make_model as m; from helpers.recipes import RECIPES as R; import torch; "
    count += "n = m(R['mobilenet'], 10); print(sum(p.numel() for p in n.parameters()), "
    count += "*n.features(torch.zeros(1, 3, 32, 32)).shape)"
    theirs = sum(weight.numel() for weight in mobilenet_v2(num_classes=10).parameters())
    assert run([sys.executable, "-c", count], course) == f"{theirs} 1 1280 4 4\n"


@pytest.mark.slow
def test_notebook(course):
    printed = carry_out("A notebook", course)
    assert re.search(r"\b\d+ passed", printed) and "failed" not in printed
    notebook = nbformat.read(course / "notebooks" / "05_weight_decay.ipynb", as_version=4)
    assert "custom_resnet                           0.001\n" in notebook.cells[-2].outputs[0].text


@pytest.mark.slow
def test_exercise(course):
    printed = carry_out("An exercise", course)
    assert re.search(r"\b\d+ passed", printed) and "failed" not in printed
