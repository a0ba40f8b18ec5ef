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

LONGEST = 900  # seconds for a cell
MOST_CHANGED = 1.5  # of 255, by which fewer colours may change a picture, on average over its pixels
JPEG_QUALITY = 60  # of 100; below, letters in pictures blur
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
        if (root / "results").is_dir():
            shutil.copytree(root / "results", runs, dirs_exist_ok=True)
        course = {"COURSE_DATA": data, "COURSE_RUNS": runs, "COURSE_FAST": "", "COURSE_RECORDED": "1"}
        # The kernel warns of itself; a notebook may name another environment's.
        options = {"timeout": LONGEST, "extra_arguments": ["--log-level=ERROR"], "kernel_name": "python3"}
        client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, **options)
        try:
            client.execute(env=os.environ | course | {"TQDM_DISABLE": "1"})
        except CellTimeoutError as error:
            raise CourseError(f"{path.name}: a cell took over {LONGEST // 60} minutes.") from error
        except CellExecutionError as error:
            raise CourseError(f"{path.name} stopped: {error.ename}: {error.evalue}") from error
        except DeadKernelError as error:
            raise CourseError(f"{path.name} stopped: its kernel died, perhaps for want of memory.") from error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _tidied(cell.outputs)
            _describe_pictures(cell)
    notebook.metadata = METADATA
    write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def _tidied(outputs: list) -> list:
    """The outputs without libraries' warnings, consecutive prints joined, pictures made smaller."""
    tidy = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if output.output_type == "stream" and tidy and tidy[-1].output_type == "stream":
            tidy[-1].text += output.text
            continue
        if "image/png" in output.get("data", {}):
            output.data.pop("image/jpeg", None)  # Pillow's images come as both
            kind, picture = _smaller(output.data.pop("image/png"))
            output.data[kind] = picture
        tidy.append(output)
    return tidy


def _describe_pictures(cell: nbformat.NotebookNode) -> None:
    """Give each picture the alternative text that stands under `alt` in the cell's metadata, one in order for each."""
    pictures = [(output, kind) for output in cell.outputs for kind in output.get("data", {}) if "image/" in kind]
    for (output, kind), text in zip(pictures, cell.metadata.get("alt", []), strict=False):
        output.metadata[kind] = {"alt": text}


def _smaller(png: str) -> tuple[str, str]:
    """The picture's type and bytes: a chart as PNG with few colours, photographs as JPEG, which are much smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few = image.quantize(256, method=Image.Quantize.MEDIANCUT)
    chart = max(ImageStat.Stat(ImageChops.difference(image, few.convert("RGB"))).mean) <= MOST_CHANGED
    smaller = min(png, _encoded(few if chart else image, "PNG"), key=len)
    photograph = _encoded(image, "JPEG", quality=JPEG_QUALITY)
    return ("image/jpeg", photograph) if 3 * len(photograph) < 2 * len(smaller) else ("image/png", smaller)


def _encoded(image: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return base64.b64encode(buffer.getvalue()).decode()
