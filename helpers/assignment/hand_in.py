"""Hand-ins: a run packed into one file, and what students sent opened without trusting it."""

import contextlib
import hashlib
import io
import json
import lzma
import platform
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import torch

from helpers.assignment.checklist import range_tests
from helpers.assignment.exercises import EXERCISES
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import in_half_precision, write_atomically
from helpers.runs import load_model, load_run
from helpers.settings import REPOSITORY

NEEDED = ("config.json", "history.csv", "steps.csv", "train.log", "summary.json")
KNOWN = (*NEEDED, "gallery.json", "lr_find.json", "best.pt", "last.pt")
# What a hand-in may unpack to, some ten times a run with its checkpoints, and by how much a zip may have shrunk it.
MOST_BYTES, MOST_FILES, MOST_RATIO, LARGEST_TEXT, DEEPEST = 2**31, 20_000, 100, 2**26, 16
BAD_ZIP = (EOFError, OSError, RuntimeError, ValueError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)


def pack(folder: Path, out: Path, notebook: Path | None = None) -> None:
    """Write a finished run into one zip: its text files, its weights in half precision, its range tests, the notebook.

    Paths, host and user stay behind. Raises CourseError, before anything is written, for a run that is not finished or
    damaged, and for a file that is no notebook.
    """
    if out.suffix.lower() != ".zip" or not out.absolute().parent.is_dir():
        raise CourseError(f"--out has to name a file that ends in .zip, in a folder that is there, not {out}.")
    if out.exists() and not zipfile.is_zipfile(out):
        raise CourseError(f"{out} is there and no zip: choose another file with --out.")
    if notebook and notebook.suffix.lower() != ".ipynb":
        raise CourseError(f"{notebook} cannot be read as a notebook: name a file that ends in .ipynb.")
    run = load_run(folder)
    load_model(run)  # which checks the weights
    run.check_finished()
    best = run.checkpoint("best.pt")
    best["model"] = in_half_precision(best["model"])
    content, packed = io.BytesIO(), io.BytesIO()
    torch.save(best, content)
    weights = {"precision": "float16", "sha256": hashlib.sha256(content.getbuffer()).hexdigest()}
    paths = [*(folder / name for name in (*NEEDED, "gallery.json")), *range_tests(run)]
    files = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths if path.exists()}
    files[f"{folder.name}/summary.json"] = json.dumps(run.summary | {"weights": weights}, indent=1).encode()
    files[f"{folder.name}/best.pt"] = content.getbuffer()
    if notebook:
        files[notebook.name] = _without_machine(notebook).encode()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without a date
    write_atomically(out, lambda file: file.write(packed.getbuffer()))


def _without_machine(notebook: Path) -> str:
    """A notebook without the machine's paths, and without the names of host and user in its outputs."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        for path, word in ((REPOSITORY, "course"), (Path.home(), "~")):
            if path.name:  # a container's home may be /
                content = _mapped(content, lambda text, path=path, word=word: text.replace(str(path), word))
        names = map(re.escape, {platform.node(), Path.home().name} - {"", *EXERCISES})
        named = re.compile(rf"\b({'|'.join(names) or '$'})\b")
        for cell in (cell for cell in content["cells"] if "outputs" in cell):
            cell["outputs"] = _mapped(cell["outputs"], lambda text: named.sub("machine", text))
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    except (AttributeError, OSError, ValueError, LookupError, TypeError) as error:
        raise CourseError(f"{notebook} cannot be read as a notebook ({error!r}): name another.") from error


def _mapped(value: object, change: Callable[[str], str]) -> object:
    """A part of a notebook with its texts changed, but for keys and pictures."""
    if isinstance(value, dict):
        return {key: part if key.startswith("image/") else _mapped(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def find_runs(paths: list[Path], scratch: Path) -> tuple[list[Path], list[Path]]:
    """The run folders and the notebooks of one hand-in; zips are unpacked into the folder `scratch`, nowhere else.

    Raises CourseError for links, for paths that lead outside, and for what is damaged or too large.
    """
    files = [file for path in paths for file in _files(path.resolve(), scratch)]
    runs = {file.parent for file in files if file.name in (*NEEDED, "best.pt")}
    return sorted(runs), [file for file in files if file.suffix.lower() == ".ipynb"]


def _files(path: Path, scratch: Path, depth: int = 0) -> Iterator[Path]:
    """Every file of a run and every notebook in a folder or zip, however deep."""
    if not path.exists():
        raise CourseError("there is no such file or folder")
    if depth > DEEPEST:
        raise CourseError("its folders and zips are nested too deeply")
    if path.is_file() and (path.suffix.lower() == ".zip" or (not depth and zipfile.is_zipfile(path))):
        path = _unpack(path, scratch)
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.is_symlink():
                raise CourseError(f"it holds a link, {child.name}: ask for the files themselves")
            if not skipped(child.name):
                yield from _files(child, scratch, depth + 1)
    elif path.name in KNOWN or path.suffix.lower() == ".ipynb":
        if path.suffix == ".pt" and zipfile.is_zipfile(path):
            with contextlib.suppress(*BAD_ZIP), zipfile.ZipFile(path) as archive:  # damage is told of when it is read
                _check_size(archive.infolist(), path, scratch)
        elif path.suffix != ".pt" and path.stat().st_size > LARGEST_TEXT:
            raise CourseError(f"{path.name} is larger than such a file can be")
        yield path


def _check_size(members: list[zipfile.ZipInfo], path: Path, scratch: Path) -> None:
    """Raises CourseError for members that would fill the disk; of none more is read than it declares."""
    count, total = len(members), sum(member.file_size for member in members)
    there = sum(file.stat().st_size for file in scratch.rglob("*"))
    shrunk = total > 2**24 and total > MOST_RATIO * path.stat().st_size
    if shrunk or there + total > MOST_BYTES or count > MOST_FILES:
        raise CourseError(f"{path.name} would unpack to {total / 2**20:,.0f} MiB in {count:,} files: a zip bomb?")


def _unpack(path: Path, scratch: Path) -> Path:
    """A new folder with the files that are looked at; nothing else of the zip is written anywhere."""
    target = Path(tempfile.mkdtemp(dir=scratch))
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = []
            for member in archive.infolist():
                parts = PurePosixPath(member.filename.replace("\\", "/")).parts  # some write Windows' separators
                outside = ".." in parts or any(part.startswith("/") or part[1:2] == ":" for part in parts)
                if outside or stat.S_ISLNK(member.external_attr >> 16):
                    raise CourseError(f"{path.name} holds a link or a path that leads outside, {member.filename!r:.80}")
                name = "" if member.is_dir() or any(map(skipped, parts)) else parts[-1]
                if name in KNOWN or name.lower().endswith((".zip", ".ipynb")):
                    member.filename = "/".join(parts)
                    wanted.append(member)
            _check_size(wanted, path, scratch)
            archive.extractall(target, wanted)
    except BAD_ZIP as error:
        raise CourseError(f"{path.name} cannot be unpacked ({error}): ask for it again") from error
    return target


def skipped(name: str) -> bool:
    """Tell whether macOS, an editor or Jupyter left it."""
    return name.startswith(".") or name == "__MACOSX"
