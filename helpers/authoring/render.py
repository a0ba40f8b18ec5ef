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
from PIL import Image, ImageChops, ImageStat

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
    """The picture's type and bytes: a chart as PNG with few colours, photographs as JPEG where that is much smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few = image.quantize(256, method=Image.Quantize.MEDIANCUT)
    changed = max(ImageStat.Stat(ImageChops.difference(image, few.convert("RGB"))).mean)  # of 255, over the pixels
    smaller = min(png, _encoded(few if changed <= 1.5 else image, "PNG"), key=len)
    photograph = _encoded(image, "JPEG", quality=60)  # below, letters in pictures blur
    return ("image/jpeg", photograph) if 3 * len(photograph) < 2 * len(smaller) else ("image/png", smaller)


def _encoded(image: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return base64.b64encode(buffer.getvalue()).decode()
