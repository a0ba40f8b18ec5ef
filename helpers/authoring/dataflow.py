"""Draws which module makes what and which one takes it, as the annotations of the public functions say.

`python -m helpers.authoring.dataflow` puts the picture into ARCHITECTURE.md; a test fails if the two differ.
"""

import ast
from pathlib import Path

from helpers.checkpoints import write_text
from helpers.settings import REPOSITORY

PAGE = REPOSITORY / "ARCHITECTURE.md"
BEGIN, END = "```mermaid\n", "```\n"
OTHERS = {"Module": "nn.Module", "Figure": "Figure"}  # what is made by us, and a class of others


def draw(package: Path = REPOSITORY / "helpers") -> str:
    """A Mermaid flowchart: a box for each module, a rounded one for each kind of thing that some function returns."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.glob("*.py"))}
    classes = [node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    known = OTHERS | {node.name: node.name for node in classes if "dataclass" in map(_name, node.decorator_list)}
    known.pop("Device", None)  # nearly everything takes one
    makes, takes = set(), set()
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                makes |= {(module, kind) for kind in _kinds(node.returns) & known.keys()}
                for argument in node.args.args + node.args.kwonlyargs:
                    takes |= {(kind, module) for kind in _kinds(argument.annotation) & known.keys()}
    kinds = {kind for _, kind in makes}
    edges = [f"{module} --> {kind}" for module, kind in makes]
    edges += [f"{kind} --> {module}" for kind, module in takes if kind in kinds and (module, kind) not in makes]
    nodes = [f"{kind}([{known[kind]}])" for kind in kinds]
    return "flowchart LR\n" + "".join(f"    {line}\n" for line in (*sorted(nodes), *sorted(edges)))


def _kinds(annotation: ast.expr | None) -> set[str]:
    return {_name(node) for node in ast.walk(annotation)} if annotation else set()


def _name(node: ast.AST) -> str:
    """The last part of a name: Run of `runs.Run`, dataclass of `@dataclass(frozen=True)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return getattr(node, "id", getattr(node, "attr", ""))


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    write_text(PAGE, before + BEGIN + draw() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
