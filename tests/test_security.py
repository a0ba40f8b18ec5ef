"""What is read is not executed: no unchecked pickle, no shell, and a workflow that can do little."""

import ast
import json
import re

import pytest

from helpers.settings import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
FORBIDDEN = {"eval", "exec", "compile", "os.system", "os.popen", "__import__"}
REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def sources() -> dict[str, str]:
    """The code of the package and of the notebooks' cells."""
    code = {str(path.relative_to(REPOSITORY)): path.read_text() for path in (REPOSITORY / "helpers").rglob("*.py")}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        code[path.name] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return code


def dangers(code: str) -> list[str]:
    """The calls and imports in Python code that could execute what was read. Magics are no Python and fail."""
    found, tree = [], ast.parse(code)
    assigned = [(ast.unparse(node.targets[0]), node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    lists = {name for name, _ in assigned if all(isinstance(value, ast.List) for key, value in assigned if key == name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
            found += [name for name in modules if name.split(".")[0] in UNPICKLING]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {item.arg: item.value for item in node.keywords}
        if name in FORBIDDEN:
            found.append(name)
        if name.startswith("subprocess.") and not isinstance(node.args[0], ast.List):
            found += [name] if ast.unparse(node.args[0]) not in lists else []
        if "shell" in options:
            found.append(f"{name}(shell=...)")
        if name in REQUIRED:
            option, value = REQUIRED[name]
            if not (option in options and isinstance(options[option], ast.Constant) and options[option].value is value):
                found.append(f"{name} without {option}={value}")
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run('ls ' + folder)",
        "command = 'ls ' + folder\nsubprocess.run(command)",
        "command = ['ls']\ncommand = folder\nsubprocess.run(command)",
        "subprocess.run(['ls'], shell=True)",
        "os.system(command)",
        "eval(text)",
    ],
)
def test_the_scan_finds_what_it_is_for(code):
    assert dangers(code)


def test_nothing_that_is_read_can_be_executed():
    code = sources()
    assert len(code) > 20 and any("torch.load(" in text for text in code.values())
    assert {name: dangers(text) for name, text in code.items() if dangers(text)} == {}


def test_workflows_read_only_and_use_pinned_actions():
    assert WORKFLOWS
    for path in WORKFLOWS:
        text = path.read_text()
        assert re.findall(r"^ *permissions:.*\n(?: +.*\n)*", text, re.MULTILINE) == ["permissions:\n  contents: read\n"]
        uses = re.findall(r"uses: *(.*)", text)
        assert uses and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in uses)
        assert text.count("actions/checkout@") == text.count("persist-credentials: false") > 0
        assert "${{ github.event" not in text  # what others write never becomes a command
