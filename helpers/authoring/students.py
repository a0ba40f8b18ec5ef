"""The students' edition: a repository of its own, without the solutions of the notebooks' exercises.

In a code cell a solution stands between the lines `# SOLUTION` and `# END`, in a Markdown cell between
`<!-- SOLUTION -->` and `<!-- END -->`. What precedes it, `answer = ...` for instance, stays for the student.
"""

import re
import shutil
from pathlib import Path

import nbformat

from helpers import GITHUB
from helpers.authoring.renaming import rename
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import make_folder, write_text
from helpers.settings import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
SOLUTION = re.compile(r"(?ms)^[ \t]*(?:#|<!--) *SOLUTION\b((?!\bSOLUTION\b).)*?^[ \t]*(?:#|<!--) *END\b[^\n]*\n?")
# What looks like a mark and is left: without its pair, or written in another way.
LEFT = re.compile(r"(?m)^.*\bSOLUTION.*|^.*(?:#|<!--)\W*(?i:(?:begin\W+)?solutions?\b).*|^[ \t]*(?:#|<!--) *END\b.*")
# What the edition is without: tests know the answers, results/ and images/ are of our runs.
LEFT_OUT = shutil.ignore_patterns("authoring", "__pycache__")
FILES = ("pyproject.toml", "requirements.txt", "LICENSE", ".gitignore")
README = """# CIFAR-10 course

{notebooks}

`make run` executes them on small synthetic pictures (Python 3.11 or newer). Hand in a finished run as one file:

    python -m helpers hand-in runs/RUN --notebook notebooks/NOTEBOOK.ipynb
"""


def make_edition(out: Path, repository: str, root: Path = REPOSITORY) -> None:
    """Write the edition into `out`; its badges and first cells lead to `repository`, OWNER/REPO.

    A README that is there stays. Raises CourseError for an impossible name, and see `make_student_copies`.
    """
    inside = out.resolve().is_relative_to((root / "helpers").resolve())
    if inside or root.is_relative_to(out.resolve()) or (out / "helpers" / "authoring").exists():
        raise CourseError(f"{out} holds the course with its solutions: choose another folder with --out.")
    if repository == GITHUB:
        raise CourseError(f"--repo {repository} is the course itself, with its solutions: name another repository.")
    rename(repository, out)  # changes nothing yet, but refuses a wrong name
    notebooks = make_student_copies(out / "notebooks", root / "notebooks")
    shutil.copytree(root / "helpers", out / "helpers", ignore=LEFT_OUT, dirs_exist_ok=True)
    for path in filter(Path.exists, (root / name for name in FILES)):
        shutil.copyfile(path, out / path.name)
    makefile = re.sub(r"\A(#.*\n)(#.*\n)*", r"\1", (root / "Makefile").read_text(encoding="utf-8"))
    write_text(out / "Makefile", re.sub(r"(?ms)^(run:.*?\n)\n.*", r"\1", makefile))  # without what comes after it
    if not (out / "README.md").exists():
        links = "\n".join(f"- [{path.stem}](notebooks/{path.name})" for path in notebooks)
        write_text(out / "README.md", README.format(notebooks=links))
    rename(repository, out)


def make_student_copies(out: Path, notebooks: Path = NOTEBOOKS) -> list[Path]:
    """Write a copy of each notebook without solutions and outputs into `out`; return their paths.

    Raises CourseError, before anything is written, for marks without their pair, and for `out` inside `notebooks`.
    """
    if out.resolve().is_relative_to(notebooks.resolve()):
        raise CourseError(f"{out} holds the notebooks with their solutions: choose another folder with --out.")
    copies = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.source = SOLUTION.sub("", cell.source).rstrip("\n")
            if left := LEFT.search(cell.source):
                where = f"{path.name}, cell {cell.get('id', '?')}"
                raise CourseError(
                    f"{where}: {left[0].strip()!r} looks like a mark of a solution and is none; one stands between "
                    "lines # SOLUTION and # END, in Markdown <!-- SOLUTION --> and <!-- END -->."
                )
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        copies[out / path.name] = notebook
    make_folder(out)
    for path, notebook in copies.items():
        nbformat.write(notebook, path)
    return list(copies)
