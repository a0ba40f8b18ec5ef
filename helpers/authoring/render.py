"""Notebooks executed anew from the recorded runs, without training, and written back with their outputs."""

import base64
import io
import os
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_text
from helpers.settings import REPOSITORY

METADATA = {
    "accelerator": "GPU",  # which Colab then provides, without anybody looking for a menu
    "colab": {"gpuType": "T4"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def render(path: Path, data: str, root: Path = REPOSITORY) -> None:
    """Execute a notebook with `data` and the runs of `results/`; then, and only then, write it with its outputs.

    Raises CourseError for what is no notebook, and if a cell fails, as one whose run is not recorded, or takes longer
    than 15 minutes.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat has no error of its own for what it stumbles over
        raise CourseError(f"{path} cannot be read as a notebook ({error}).") from error
    with tempfile.TemporaryDirectory() as runs:
        shutil.copytree(root / "results", runs, dirs_exist_ok=True)
        course = {"COURSE_DATA": data, "COURSE_RUNS": runs, "COURSE_FAST": "", "COURSE_RECORDED": "1"}
        # The kernel warns of itself; a notebook may name another environment's.
        options = {"extra_arguments": ["--log-level=ERROR"], "kernel_name": "python3", "coalesce_streams": True}
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}}, **options)
        try:
            client.execute(env=os.environ | course | {"TQDM_DISABLE": "1", "MPLBACKEND": ""})  # "": figures are shown
        except CellExecutionError as error:
            raise CourseError(f"{path.name} stopped: {error.ename}: {error.evalue}") from error
        except (CellTimeoutError, DeadKernelError) as error:
            raise CourseError(f"{path.name} stopped: {error}") from error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            _tidy(cell)
    notebook.metadata = METADATA
    write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def _tidy(cell: nbformat.NotebookNode) -> None:
    """Leave out libraries' warnings and make pictures smaller; each gets the next text under `alt` in the metadata."""
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    texts = iter(cell.metadata.get("alt", []))
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            output.data.pop("image/jpeg", None)  # Pillow's images come as both
            kind, picture = _smaller(output.data.pop("image/png"))
            output.data[kind] = picture
            output.metadata[kind] = {"alt": next(texts, "")}


def _smaller(png: str) -> tuple[str, str]:
    """The picture's type and bytes: as PNG with 256 colours, or as JPEG, as photographs are much smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    chart, photograph = io.BytesIO(), io.BytesIO()
    image.quantize(256, method=Image.Quantize.MEDIANCUT).save(chart, "PNG", optimize=True)
    image.save(photograph, "JPEG", optimize=True, quality=60)  # below, letters in pictures blur
    kind, smaller = min(("image/png", chart), ("image/jpeg", photograph), key=lambda pair: len(pair[1].getbuffer()))
    return kind, base64.b64encode(smaller.getvalue()).decode()
