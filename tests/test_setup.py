"""The notebooks' first cell, as Colab meets it: a notebook that comes alone, into a folder without a repository."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import nbformat
import packaging
import pytest
from nbclient import NotebookClient

from helpers.authoring.renaming import rename
from helpers.settings import REPOSITORY

NOTEBOOKS = sorted(REPOSITORY.glob("notebooks/*.ipynb"))
NAME = "someone/their-course"
# The first cell of the notebook given, as often as asked for, and where its `helpers` came from
RUN_CELL = """
import json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
source = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))
for _ in range(int(sys.argv[2])):
    exec(compile(source, "first cell", "exec"), {})
print("helpers:", sys.modules["helpers"].__file__)
"""


def git(*arguments):
    identity = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
    done = subprocess.run(["git", *identity, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def colab(course, tmp_path):
    """An empty working folder, and an environment that has `google.colab` and a GitHub with this course on it.

    The repository was renamed, as by someone who uses the template; GitHub's address leads to it by git's own means.
    """
    rename(NAME, course)
    git("init", "--quiet", course)
    git("-C", course, "add", "--all")
    for message in ("The course", "A second commit, which a shallow clone leaves out"):
        git("-C", course, "commit", "--quiet", "--allow-empty", "--message", message)
    (tmp_path / "stub" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "stub" / "google" / "colab" / "__init__.py").touch()
    (tmp_path / "content").mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("COURSE_")},
        **{"PYTHONPATH": str(tmp_path / "stub"), "CUDA_VISIBLE_DEVICES": "", "PIP_NO_INDEX": "1"},
        **{"COURSE_DATA": "synthetic", "COURSE_FAST": "1", "GIT_CONFIG_COUNT": "1"},
        "GIT_CONFIG_KEY_0": f"url.file://{course}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{NAME}",
    }
    return tmp_path / "content", environment


def run_cell(notebook, folder, environment, times=1, before=""):
    command = [sys.executable, "-c", before + RUN_CELL, str(notebook), str(times)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_first_cells_are_the_same_in_all_notebooks():
    notebooks = [json.loads(path.read_text(encoding="utf-8")) for path in NOTEBOOKS]
    cells = [next(cell["source"] for cell in n["cells"] if cell["cell_type"] == "code") for n in notebooks]
    assert len(cells) >= 4 and all(cell == cells[0] for cell in cells)


def test_first_cell_in_colab_once_twice_and_after_a_restart(colab, course):
    content, environment = colab
    first, *_, last = sorted((course / "notebooks").iterdir())
    done = run_cell(first, content, environment, times=2)
    assert done.returncode == 0, done.stderr
    clone = content / "someone-their-course"
    assert [path.name for path in content.iterdir()] == [clone.name]
    assert git("-C", clone, "rev-list", "--count", "HEAD") == "1"
    for words in (
        *("bfloat16" if "bfloat16" in done.stdout else "float32", "torch", "Data: synthetic, in fast mode\n"),
        "No GPU", "Runtime > Change runtime type > T4 GPU", f"helpers: {clone}/helpers/__init__.py",
    ):  # fmt: skip
        assert words in done.stdout
    assert done.stdout.count("No GPU") == 2  # once for each time

    (clone / "mine.txt").touch()
    restarted = run_cell(last, content, environment | {"COURSE_FAST": "0"})
    assert restarted.returncode == 0, restarted.stderr
    assert "Data: synthetic\n" in restarted.stdout and f"helpers: {clone}" in restarted.stdout
    assert (clone / "mine.txt").exists()  # not cloned anew


def test_helpers_of_another_project_are_told(colab, course, tmp_path):
    _, environment = colab
    (tmp_path / "other" / "helpers").mkdir(parents=True)
    (tmp_path / "other" / "helpers" / "__init__.py").touch()
    environment["PYTHONPATH"] = str(tmp_path / "other")
    done = run_cell(NOTEBOOKS[0], course / "notebooks", environment, before="import helpers")
    assert f"`helpers` came from {tmp_path}/other/helpers, not from this course: restart the kernel" in done.stderr
    assert run_cell(NOTEBOOKS[0], course / "notebooks", environment).returncode == 0  # where ours comes first


def test_no_network_gets_a_sentence_and_leaves_nothing(colab, course):
    content, environment = colab
    environment["GIT_CONFIG_KEY_0"] = "url.file:///nowhere.insteadOf"
    done = run_cell(course / "notebooks" / NOTEBOOKS[0].name, content, environment)
    assert f"https://github.com/{NAME} could not be fetched: is it public" in done.stderr
    assert list(content.iterdir()) == []


def test_whole_notebook_from_another_folder(colab, course, monkeypatch):
    content, environment = colab
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(course / "notebooks" / NOTEBOOKS[0].name, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": content}}).execute()
    made = content / "someone-their-course" / "runs" / "fast" / "custom_resnet-synthetic-seed0-lr-find" / "lr_find.json"
    assert made.exists()


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"version = '{version}'\n")
        needs = f"Requires-Dist: {requires}\n" * bool(requires)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def test_missing_packages_are_installed_and_no_other_is_replaced(tmp_path):
    """The newest `missing` would replace what is there, so an older one is taken; what cannot be had is told."""
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "preinstalled", "1.0")
    wheel(index, "preinstalled", "2.0")
    wheel(index, "missing", "1.0", "preinstalled>=1")
    wheel(index, "missing", "2.0", "preinstalled>=2")
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    environment["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(tmp_path / "packaging")))
    (tmp_path / "packaging").mkdir()  # Jupyter brings it along
    (tmp_path / "packaging" / "packaging").symlink_to(Path(packaging.__file__).parent)

    def python(*arguments):
        command = [str(tmp_path / "venv" / "bin" / "python"), *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    def install(*requirements):
        (tmp_path / "requirements.txt").write_text("\n".join(("# of a test", *requirements)))
        script = "import pathlib, helpers.plumbing.setup as s; s.install_missing(pathlib.Path('requirements.txt'))"
        done = python("-c", script)
        versions = python("-c", "import preinstalled, missing; print(preinstalled.version, missing.version)").stdout
        return done, versions.strip()

    assert python("-m", "pip", "install", "--quiet", "preinstalled==1.0").returncode == 0
    done, versions = install("preinstalled>=1", "missing>=1", "jupyter", "nbval>=0.11  # neither is in the index")
    assert done.returncode == 0 and versions == "1.0 1.0", done.stderr
    done, versions = install("preinstalled>=1.5", "missing>=1")
    assert "without replacing an installed package" in done.stderr and versions == "1.0 1.0"
    assert "CourseError" in done.stderr and "(ERROR: Cannot install preinstalled" in done.stderr
