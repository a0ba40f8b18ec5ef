"""A user of the template puts the name of the own repository everywhere, or nowhere."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from conftest import helpers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import GITHUB
from helpers.authoring.renaming import rename
from helpers.plumbing.errors import CourseError


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_command_changes_every_address_and_nothing_else(course):
    before = contents(course)
    done = helpers("rename", "Some-One/deep.course_2", cwd=course)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Changed: ")
    new, after = b"Some-One/deep.course_2", {p: c for p, c in contents(course).items() if "__pycache__" not in p.parts}
    readme = course / "README.md"
    assert b"until renamed" not in after[readme]  # nor before, in a repository made from the template
    before[readme] = re.sub(rb"<!-- until.*/until renamed -->\n\n", b"", before[readme], flags=re.S)
    assert after == {path: content.replace(GITHUB.encode(), new) for path, content in before.items()}
    changed = {str(path.relative_to(course)) for path in before if after[path] != before[path]}
    assert {"README.md", "helpers/__init__.py"} <= changed
    for path in course.glob("notebooks/*.ipynb"):
        assert str(path.relative_to(course)) in done.stdout

    address = f"https://github.com/{new.decode()}.git"
    again = helpers("rename", address, cwd=course)
    assert again.stdout == "Changed: nothing, all of it is so already\n"


@pytest.mark.parametrize(
    "name", ["https://github.com/a/b", "http://www.github.com/a/b/", "github.com/a/b.git", "a/b.git"]
)
def test_pasted_address_is_the_name(name, tmp_path):
    (tmp_path / "README.md").write_text(f"see {GITHUB}!")
    assert rename(name, tmp_path) == [Path("README.md")]
    assert (tmp_path / "README.md").read_text() == "see a/b!"


def test_title_and_holder_are_set_and_the_licence_of_the_template_stays(course):
    licence = (course / "LICENSE").read_text()
    title, holder = 'Deep "Learning" \\1', "Ada: #1"
    for _ in range(2):  # the second time changes nothing
        rename("a/b", course, title=title, holder=holder)
        assert (course / "README.md").read_text().startswith(f"# {title}\n\n")
        citation = yaml.safe_load((course / "CITATION.cff").read_text())
        assert citation["title"] == title and citation["authors"] == [{"name": holder}]
        assert (course / "results" / "README.md").read_text().startswith("# Results\n")
        assert yaml.safe_load((course / "myst.yml").read_text())["project"]["title"] == title
        notice = next(line for line in licence.splitlines() if line.startswith("Copyright"))
        mine = f"Copyright {notice.split()[1]} {notice.split()[2]} {holder}"
        assert (course / "LICENSE").read_text() == licence.replace("\n\nPermission", f"\n{mine}\n\nPermission")
    assert rename("a/b", course, old="a/b", title=title, holder=holder) == []


@pytest.mark.parametrize(
    "name",
    [
        *("", "alone", "a/b/c", "a b/c", "-a/b", "a-/b", "a--b/c", "a/..", "a/.", "a/.git", "a/b\n", "ä/b", "/"),
        *("a" * 40 + "/b", "https://gitlab.com/a/b", '"/b', "a/" + "b" * 101, "a/$(touch x)", "x" * 5000),
        *("https://github.com/", "https://github.com/a", "https://github.com/a/b/tree/main", "https://evil.org/a/b"),
    ],
)  # fmt: skip
def test_bad_name_is_refused_and_nothing_changed(name, tmp_path):
    (tmp_path / "README.md").write_text(GITHUB)
    with pytest.raises(CourseError, match="cannot be a repository on GitHub: give its name as OWNER/REPO"):
        rename(name, tmp_path)
    assert (tmp_path / "README.md").read_text() == GITHUB


def test_longer_names_are_other_repositories(tmp_path):
    (tmp_path / "README.md").write_text(f"{GITHUB}-2 x{GITHUB} {GITHUB}.\r\n{GITHUB}/blob")
    rename("a/b", tmp_path)
    assert (tmp_path / "README.md").read_bytes() == f"{GITHUB}-2 x{GITHUB} a/b.\r\na/b/blob".encode()


def modules_beside(*distributions):
    """Every installed module that is neither the course's nor of these distributions and what they need."""
    wanted, found = [*distributions], {"cifar10-course"}
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name not in found:
            found.add(name)
            wanted += [Requirement(need).name for need in metadata.requires(name) or [] if "extra" not in need]
    owners = metadata.packages_distributions().items()
    return [module for module, names in owners if not found & {canonicalize_name(name) for name in names}]


def test_workflow_of_a_new_repository_renames_it_and_stays_itself(course):
    """What runs in GitHub Actions may not change workflows, so none of them names the repository."""
    for path in course.glob(".github/workflows/*.yml"):
        assert GITHUB not in path.read_text()
    steps = yaml.safe_load((course / ".github" / "workflows" / "rename.yml").read_text())["jobs"]["rename"]["steps"]
    env = {"GITHUB_REPOSITORY": GITHUB, "GITHUB_OUTPUT": str(course / "out"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", steps[1]["run"]], cwd=course, env=env)
    assert done.returncode == 0 and not (course / "out").exists()  # it has that name already
    script = steps[3]["run"]
    installed = re.search(r"pip install --quiet ([\w ]+)", script)[1]
    without = f"import sys; sys.modules |= dict.fromkeys({modules_beside(*installed.split())})"
    command = f"{without}; from helpers.cli import main; sys.exit(main(['rename', 'jane/course']))"
    done = subprocess.run([sys.executable, "-c", command], cwd=course, capture_output=True, text=True)
    assert 'python -m helpers rename "$GITHUB_REPOSITORY"' in script and done.returncode == 0, done.stderr
    assert "jane/course" in (course / "helpers" / "__init__.py").read_text()
