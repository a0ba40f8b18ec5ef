"""The students' edition of the notebooks: the same cells without the solutions of the exercises.

In a code cell a solution stands between the lines `# SOLUTION` and `# END`, in a Markdown cell between
`<!-- SOLUTION -->` and `<!-- END -->`. What precedes it, `answer = ...` for instance, stays for the student.
"""

import json
import re
from pathlib import Path

from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_text
from helpers.settings import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
# However "solution" is written, so that no slip hands one out.
MARKS = {
    "code": re.compile(r"\s*#+\s*((?i:solution)|END)\b"),
    "markdown": re.compile(r"\s*<!--\s*((?i:solution)|END)\b"),
}


def make_student_copies(out: Path, notebooks: Path = NOTEBOOKS) -> list[Path]:
    """Write a copy of each notebook without its solutions into `out`; return their paths.

    A cell that held a solution loses its outputs too, and the badge leads to the copy: to a folder of the
    name of `out` in the repository. Raises CourseError, before anything is written, if a solution is not
    marked as it should be, a notebook cannot be read, or `out` is the folder of the notebooks themselves.
    """
    if out.resolve() == notebooks.resolve():
        raise CourseError(f"{out} holds the notebooks with their solutions: choose another folder with --out.")
    copies = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        try:
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                _remove_solutions(cell, path.name)
                if cell["cell_type"] == "markdown":
                    cell["source"] = [line.replace(f"/notebooks/{path.name}", f"/{out.resolve().name}/{path.name}")
                                      for line in cell["source"]]  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CourseError(f"{path} cannot be read as a notebook ({error!r}): mend or remove it.") from error
        copies[out / path.name] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if not copies:
        raise CourseError(f"There are no notebooks in {notebooks}.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"The folder {out} cannot be made ({error}): choose another with --out.") from error
    for path, text in copies.items():
        write_text(path, text)
    return list(copies)


def _remove_solutions(cell: dict, notebook: str) -> None:
    kept, inside, found = [], False, False
    for line in "".join(cell["source"]).splitlines(keepends=True):  # a list of lines, or one text
        mark = MARKS[cell["cell_type"]].match(line) if cell["cell_type"] in MARKS else None
        if mark:
            if (mark[1] == "END") != inside:
                raise CourseError(
                    f"{notebook}, cell {cell.get('id', '?')}: {line.strip()!r} "
                    + ("ends no solution" if mark[1] == "END" else "begins a solution inside another one")
                    + "; write a line SOLUTION before each solution and a line END after it."
                )
            inside, found = not inside, True
        elif not inside:
            kept.append(line)
    if inside:
        raise CourseError(f"{notebook}, cell {cell.get('id', '?')}: a solution has no end; write a line END after it.")
    cell["source"] = kept
    if found:
        cell["source"] = "".join(kept).rstrip("\n").splitlines(keepends=True)
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
