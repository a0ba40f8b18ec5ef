"""The students' edition: a repository of its own, without the solutions of the notebooks' exercises.

In a code cell a solution stands between the lines `# SOLUTION` and `# END`, in a Markdown cell between
`<!-- SOLUTION -->` and `<!-- END -->`. What precedes it, `answer = ...` for instance, stays for the student.
"""

import json
import re
import shutil
from pathlib import Path

from helpers import GITHUB
from helpers.authoring.renaming import rename
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import make_folder, write_text
from helpers.settings import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
# Marks, however "solution" is written; and what someone may take for one: a comment, in Markdown also a heading.
MARKS = {"code": r"\s*#+\s*((?i:solution)|END)\b", "markdown": r"\s*<!--\s*((?i:solution)|END)\b"}
SUSPECT = {
    "code": r".*(#|<!--).*\b(?i:solution)|\s*<!--\s*END\b",
    "markdown": r".*<!--.*\b(?i:solution)|\s*#+\W*(?i:begin\W+)?(?i:solutions?)\b|\s*#+\s*END\s*$",
}
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

    Raises CourseError, before anything is written, for wrong marks, unreadable notebooks, and `out` inside `notebooks`.
    """
    if out.resolve().is_relative_to(notebooks.resolve()):
        raise CourseError(f"{out} holds the notebooks with their solutions: choose another folder with --out.")
    copies = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                _remove_solutions(cell, f"{path.name}, cell {cell.get('id', '?')}")
        except (AttributeError, OSError, ValueError, KeyError, TypeError) as error:
            raise CourseError(f"{path} cannot be read as a notebook ({error!r}): fix or remove it.") from error
        copies[out / path.name] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if not copies:
        raise CourseError(f"There are no notebooks in {notebooks}.")
    make_folder(out)
    for path, text in copies.items():
        write_text(path, text)
    return list(copies)


def _remove_solutions(cell: dict, where: str) -> None:
    """Raises CourseError for marks that do not come in pairs, and for what only looks like one."""
    kept, inside, kind = [], False, cell["cell_type"]
    for line in "".join(cell["source"]).splitlines(keepends=True):  # a list of lines, or one text
        mark = re.match(MARKS[kind], line) if kind in MARKS else None
        if mark and (mark[1] == "END") == inside:
            inside = not inside
        elif mark or (not inside and re.match(SUSPECT.get(kind, "|".join(SUSPECT.values())), line)):
            raise CourseError(
                f"{where}: {line.strip()!r} looks like a mark of a solution and is none here; a solution stands "
                "between lines # SOLUTION and # END, in Markdown <!-- SOLUTION --> and <!-- END -->."
            )
        elif not inside:
            kept.append(line)
    if inside or "solution" in json.dumps(cell.get("metadata", {})).lower():
        raise CourseError(f"{where}: a solution has no end, or is marked by a tag; write a line END after it.")
    cell["source"] = "".join(kept).rstrip("\n").splitlines(keepends=True)
    if kind == "code":
        cell |= {"outputs": [], "execution_count": None}
