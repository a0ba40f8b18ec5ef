"""The pages that show recorded runs, written from `results/` and checked against it.

Between `<!-- report:NAME -->` and `<!-- /report:NAME -->` a page belongs to this module, all else to its authors.
"""

import difflib
import re
from pathlib import Path

from helpers.authoring.page import Parts, pages
from helpers.authoring.pictures import Picture
from helpers.authoring.results import check_data, load_results
from helpers.data import Data
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_text
from helpers.settings import REPOSITORY

SECTION = re.compile(r"<!-- report:(\w+) -->.*?<!-- /report:\1 -->", re.DOTALL)


def report(data: Data | None = None, root: Path = REPOSITORY) -> list[Path]:
    """Write every page's blocks and every missing or stale figure; return what was written.

    Figures that show images are only drawn with `data`, the complete CIFAR-10. Raises CourseError if they are
    needed and not given, and for a page whose markers are damaged.
    """
    if data:
        check_data(data.fingerprint, data.name)
    made = pages(load_results(root), data)
    texts = {root / name: _texts(root, name, blocks) for name, blocks in made.items()}
    figures = _figures(root, made).items()
    stale = {path: (picture, dark) for path, (picture, dark) in figures if picture.fault(path)}
    photographs = [path.name for path, (picture, _) in stale.items() if not picture.draw]
    if photographs:
        raise CourseError(f"Name the complete CIFAR-10 with --data: {', '.join(photographs)} show its images.")
    for path, (picture, dark) in stale.items():
        picture.save(path, dark)
    changed = {path: new for path, (old, new) in texts.items() if new != old}
    for path, new in changed.items():
        write_text(path, new)
    return [*stale, *changed]


def check(root: Path = REPOSITORY) -> list[str]:
    """List what does not match `results/`: lines of the pages, old and new, and figures."""
    made, faults = pages(load_results(root)), []
    for name, blocks in made.items():
        old, new = (text.splitlines() for text in _texts(root, name, blocks))
        faults += difflib.unified_diff(old, new, name, f"{name} by results/", n=0, lineterm="")
    figures = _figures(root, made).items()
    return faults + [f"images/{path.name} {fault}" for path, (picture, _) in figures if (fault := picture.fault(path))]


def _figures(root: Path, made: dict[str, dict[str, Parts]]) -> dict[Path, tuple[Picture, bool]]:
    """The figures of the pages by their file in `images/`, and whether it is for dark pages."""
    parts = [part for blocks in made.values() for parts in blocks.values() for part in parts]
    pictures = [picture for part in parts if isinstance(part, Picture) for picture in (part, part.narrow) if picture]
    return {root / "images" / file: (picture, dark) for picture in pictures for file, dark in picture.files.items()}


def _texts(root: Path, name: str, blocks: dict[str, Parts]) -> tuple[str, str]:
    """A page as it is and as it should be. Raises CourseError if a marker is missing, twice or unknown."""
    old = (root / name).read_text(encoding="utf-8")
    found = SECTION.findall(old)
    if sorted(found) != sorted(blocks) or len(re.findall("<!-- /?report:", old)) != 2 * len(found):
        raise CourseError(
            f"{name} has to hold <!-- report:NAME --> and <!-- /report:NAME --> once for each of {', '.join(blocks)}; "
            f"it has them for {', '.join(found) or 'none'}."
        )
    images = "../" * name.count("/") + "images"

    def filled(section: re.Match) -> str:
        parts = blocks[section[1]]
        text = "\n\n".join(part if isinstance(part, str) else part.markdown(images) for part in parts)
        return f"<!-- report:{section[1]} -->\n{text}\n<!-- /report:{section[1]} -->"

    return old, SECTION.sub(filled, old)
