"""Who may import whom: the course stands on the plumbing; figures, assignment and authoring stand on the course."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from helpers.settings import REPOSITORY

PACKAGE = REPOSITORY / "helpers"
FILES = {path: ".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
MODULES = set(FILES.values())
COMMANDS = ("helpers.cli", "helpers.__main__")
LONGER = {"helpers.recipes": 420}
PURE = ("models", "schedules", "evaluation", "gradcam")  # networks and what is measured of them, without runs and data


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & MODULES


IMPORTS = {name: imported(path) for path, name in FILES.items() if not name.endswith("__init__")}


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "course"


def test_nothing_imports_what_stands_on_it():
    assert {f"helpers.{name}" for name in PURE} <= IMPORTS.keys()
    for module, names in IMPORTS.items():
        if layer(module) == "plumbing" or module.removeprefix("helpers.") in PURE:
            assert {name for name in names if layer(name) != "plumbing"} <= {"helpers.recipes"}, module
        elif layer(module) in ("course", "figures", "assignment") and module not in COMMANDS:
            assert {layer(name) for name in names} <= {"course", "plumbing", layer(module)}, module


def test_no_module_imports_itself_through_others():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle


def test_files_can_be_read_in_one_sitting_and_the_course_in_an_evening():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for path, name in FILES.items()}
    too_long = {name: count for name, count in lines.items() if count > LONGER.get(name, 250)}
    assert not {name for name in too_long if layer(name) in ("course", "figures")}
    assert sum(count for name, count in lines.items() if layer(name) == "course" and name not in COMMANDS) <= 2300
