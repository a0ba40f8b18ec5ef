"""The notebooks' first cell, as Colab meets it: a notebook that comes alone, into a folder without a repository."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import packaging
import pytest
from conftest import helpers

from helpers import __version__
from helpers.authoring.renaming import rename
from helpers.plumbing import setup
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
    """An empty working folder, and an environment that says Colab and has a GitHub with this course on it.

    The repository was renamed, as by someone who uses the template; GitHub's address leads to it by git's own means.
    """
    rename(NAME, course)
    git("init", "--quiet", course)
    git("-C", course, "add", "--all")
    for message in ("The course", "A second commit, which a shallow clone leaves out"):
        git("-C", course, "commit", "--quiet", "--allow-empty", "--message", message)
    (tmp_path / "content").mkdir()
    environment = {
        **os.environ,
        **{"COLAB_RELEASE_TAG": "release-colab", "CUDA_VISIBLE_DEVICES": "", "PIP_NO_INDEX": "1", "PYTHONPATH": ""},
        **{"COURSE_DATA": "synthetic", "COURSE_FAST": "1", "GIT_CONFIG_COUNT": "1"},
        "GIT_CONFIG_KEY_0": f"url.file://{course}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{NAME}",
    }
    return tmp_path / "content", environment


def run_cell(notebook, folder, environment, times=1, before="", python=(sys.executable,)):
    command = [*python, "-c", before + RUN_CELL, str(notebook), str(times)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_first_cells_are_the_same_in_all_notebooks_and_of_this_version():
    notebooks = [json.loads(path.read_text(encoding="utf-8")) for path in NOTEBOOKS]
    cells = [next(cell for cell in n["cells"] if cell["cell_type"] == "code") for n in notebooks]
    assert all(cell["source"] == cells[0]["source"] for cell in cells)
    assert {cell["metadata"]["cellView"] for cell in cells} == {"form"}  # folded
    assert f'version = "{__version__}"  # of this notebook\n' in cells[0]["source"]


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


def test_notebook_gets_the_package_of_its_own_version(colab, course):
    """Where the repository has a tag of it; else the newest, and the difference is printed."""
    content, environment = colab
    package, notebook = course / "helpers" / "__init__.py", course / "notebooks" / NOTEBOOKS[0].name
    git("-C", course, "tag", f"v{__version__}")
    package.write_text(package.read_text().replace(__version__, "7.0"))
    git("-C", course, "commit", "--quiet", "--all", "--message", "A newer version")
    done = run_cell(notebook, content, environment)
    assert done.returncode == 0 and "of version" not in done.stdout, done.stderr
    clone = content / "someone-their-course"
    assert f'"{__version__}"' in (clone / "helpers" / "__init__.py").read_text() and done.stderr == ""

    clone.rename(content.parent / "moved")
    git("-C", course, "tag", "--delete", f"v{__version__}")  # as in a fork, which leaves tags out
    done = run_cell(notebook, content, environment)
    assert done.returncode == 0 and done.stderr == ""
    assert f"notebook is of version {__version__}, its package of 7.0: see https://github.com/{NAME}." in done.stdout


def test_elsewhere_nothing_is_fetched_or_installed_unasked(colab, course):
    content, environment = colab
    del environment["COLAB_RELEASE_TAG"]
    notebook = course / "notebooks" / NOTEBOOKS[0].name
    alone = run_cell(notebook, content, environment)
    assert f"No course around here: git clone https://github.com/{NAME} and open the notebook in it." in alone.stderr
    wrong = run_cell(notebook, course / "notebooks", environment, python=(sys.executable, "-S"))  # without packages
    assert f"\nhelpers.plumbing.errors.CourseError: This kernel is {sys.executable}, Python 3" in wrong.stderr
    assert "lacks torch, torchvision, albumentations" in wrong.stderr and "Select Kernel" in wrong.stderr
    assert f"or run `%pip install -r {course}/requirements.txt` and restart" in wrong.stderr
    assert not [*content.iterdir()]
    (course / ".venv").mkdir()
    wrong = run_cell(notebook, course / "notebooks", environment, python=(sys.executable, "-S"))
    assert f"choose the kernel of an environment that has all, here {course}/.venv, (VS Code" in wrong.stderr


def test_helpers_of_another_project_are_told(colab, course, tmp_path):
    _, environment = colab
    (tmp_path / "other" / "helpers").mkdir(parents=True)
    (tmp_path / "other" / "helpers" / "__init__.py").touch()
    environment["PYTHONPATH"] = str(tmp_path / "other")
    done = run_cell(NOTEBOOKS[0], course / "notebooks", environment, before="import helpers")
    assert f"`helpers` came from {tmp_path}/other/helpers, not from here: restart the kernel" in done.stderr
    assert run_cell(NOTEBOOKS[0], course / "notebooks", environment).returncode == 0  # where ours comes first


def test_no_network_gets_a_sentence_and_leaves_nothing(colab, course):
    content, environment = colab
    environment["GIT_CONFIG_KEY_0"] = "url.file:///nowhere.insteadOf"
    done = run_cell(course / "notebooks" / NOTEBOOKS[0].name, content, environment)
    assert f"https://github.com/{NAME} could not be fetched: is it public" in done.stderr
    assert list(content.iterdir()) == []


def wheel(folder: Path, name: str, version: str, *requires: str, code: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"version = '{version}'\n{code}")
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        file.writestr(f"{info}/WHEEL", kind)
        file.writestr(f"{info}/RECORD", "")


def test_missing_packages_are_installed_and_no_other_is_touched(tmp_path):
    """Among the installed ones is one that lacks what it requires, as a hosted machine's may: that stops nothing."""
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "preinstalled", "1.0", "nowhere>=3")
    wheel(index, "preinstalled", "2.0")
    wheel(index, "missing", "2.0", "preinstalled>=1", "below", 'extra_only; extra == "test"')
    wheel(index, "below", "1.0", "missing")
    wheel(index, "broken", "1.0", code="import nowhere")
    venv.create(tmp_path / "venv", symlinks=True)
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    environment["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(tmp_path / "there")))
    (tmp_path / "there").mkdir()
    for module in (packaging, pytest.importorskip("pip")):  # as in the kernels of hosted machines
        (tmp_path / "there" / module.__name__).symlink_to(Path(module.__file__).parent)

    def python(*arguments):
        command = [str(tmp_path / "venv" / "bin" / "python"), *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    def install(**wanted):
        done = python("-c", f"from helpers.plumbing.setup import install_missing as f; f({wanted})")
        names = python("-m", "pip", "freeze", "--exclude", "cifar10-course").stdout.split()
        return done.stderr, names

    assert python("-m", "pip", "install", "--quiet", "--no-deps", "preinstalled==1.0").returncode == 0
    error, names = install(missing="missing>=1,<3")
    assert not error and names == ["below==1.0", "missing==2.0", "preinstalled==1.0"]
    error, names = install(absent="absent>=1")
    assert "CourseError: absent could not be installed (ERROR: Could not find a version" in error and len(names) == 3
    error, _ = install(broken="broken")
    assert "CourseError: broken was added and cannot be imported (No module named 'nowhere'): restart" in error


def test_requirements_are_read_as_pip_reads_them():
    names = {found[1]: found[0] for found in setup.REQUIREMENT.finditer(setup.REQUIREMENTS.read_text())}
    assert names["torch"].startswith("torch>=2.") and "#" not in "".join(names.values())
    assert {"albumentations", "torch-lr-finder", "grad-cam", "pillow"} < names.keys()
    assert not {"jupyter", "nbval"} & names.keys() and all(setup.installed_version(name) for name in names)


def test_older_version_than_asked_for_is_named_and_left(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements.txt").write_text("# of a test\npackaging>=999  # too new\nnumpy>=1\n")
    monkeypatch.setattr(setup, "REQUIREMENTS", tmp_path / "requirements.txt")
    setup.set_up("0.0.1", install=True)
    printed = capsys.readouterr().out
    assert f"packaging>=999 is asked for, {packaging.__version__} installed: `%pip install 'packag" in printed
    assert "numpy" not in printed and "This notebook is of version 0.0.1, its package of" in printed


def test_package_installed_without_its_repository(course, tmp_path):
    """As from a wheel: notebooks and commands work in any folder, those for the repository's files are not there."""
    site, folder = tmp_path / "site-packages", tmp_path / "anywhere"
    shutil.copytree(course / "helpers", site / "helpers")
    folder.mkdir()
    environment = {"PYTHONPATH": str(site), "COURSE_DATA": "synthetic"}
    done = run_cell(NOTEBOOKS[0], folder, os.environ | environment)
    assert f"helpers: {site}/helpers/__init__.py" in done.stdout and "Data: synthetic\n" in done.stdout, done.stderr

    assert helpers("--help", cwd=folder, **environment).returncode == 0
    for words in (("report", "--check"), ("rename", "a/b"), ("students",)):
        refused = helpers(*words, cwd=folder, **environment)
        assert refused.returncode == 2 and f"invalid choice: '{words[0]}'" in refused.stderr
    script = "from helpers import settings; print(settings.runs_folder())"
    words = [sys.executable, "-c", script]
    printed = subprocess.run(words, cwd=folder, env=os.environ | environment, capture_output=True, text=True).stdout
    assert printed == f"{folder}/runs\n"
