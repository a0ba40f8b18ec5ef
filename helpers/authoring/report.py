"""The pages that show recorded runs, written from `results/` and checked against it.

Between `<!-- report:NAME -->` and `<!-- /report:NAME -->` a page belongs to this module, all else to its authors.
"""

import re
from itertools import zip_longest
from pathlib import Path

from helpers.authoring.figures import Picture
from helpers.authoring.page import Parts, pages
from helpers.authoring.results import check_data, load_results
from helpers.data import Data
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_text
from helpers.settings import REPOSITORY

SECTION = re.compile(r"<!-- report:(\w+) -->(.*?)<!-- /report:\1 -->", re.DOTALL)


def report(data: Data | None = None, root: Path = REPOSITORY) -> list[Path]:
    """Write every page's blocks and every figure in `images/` that is missing or stale. Returns what was written.

    Figures that show images are only drawn with `data`, the complete CIFAR-10. Raises CourseError if they are
    needed and not given, and for a page whose markers are damaged.
    """
    if data:
        check_data(data.fingerprint, data.name)
    made = pages(load_results(root), data)
    texts = {name: _texts(root, name, blocks) for name, blocks in made.items()}
    files = [
        (root / "images" / file, picture, dark) for picture in _pictures(made) for file, dark in picture.files.items()
    ]
    stale = [(path, picture, dark) for path, picture, dark in files if picture.fault(path)]
    photographs = [path.name for path, picture, _ in stale if picture.draw is None]
    if photographs:
        raise CourseError(f"Name the complete CIFAR-10 with --data: {', '.join(photographs)} show its images.")
    for path, picture, dark in stale:
        picture.save(path, dark)
    written = [path for path, _, _ in stale]
    for name, (old, new) in texts.items():
        if new != old:
            write_text(root / name, new)
            written.append(root / name)
    for path in _left_over(root, made):
        path.unlink()
    return written


def check(root: Path = REPOSITORY) -> list[str]:
    """What does not match `results/`, a sentence each: blocks of the pages, and figures."""
    made, faults = pages(load_results(root)), []
    for name, blocks in made.items():
        for there, here in zip(*map(SECTION.findall, _texts(root, name, blocks)), strict=True):
            if there != here:
                pairs = zip_longest(there[1].split("\n"), here[1].split("\n"), fillvalue="nothing")
                shown, recorded = next((a, b) for a, b in pairs if a != b)
                faults.append(f"{name}, block {here[0]}: it says {shown!r}, results/ {recorded!r}")
    for picture in _pictures(made):
        paths = [root / "images" / file for file in picture.files]
        faults += [f"images/{path.name} {fault}" for path in paths if (fault := picture.fault(path))]
    return faults + [f"images/{path.name} is shown nowhere" for path in _left_over(root, made)]


def _texts(root: Path, name: str, blocks: dict[str, Parts]) -> tuple[str, str]:
    """A page as it is and as it should be. Raises CourseError if a marker is missing, twice or unknown."""
    old = (root / name).read_text(encoding="utf-8")
    found = [block for block, _ in SECTION.findall(old)]
    needed = {block for block in blocks if "minutes" not in block}
    if (
        len(set(found)) < len(found)
        or not needed <= set(found) <= set(blocks)
        or old.count("report:") != 2 * len(found)
    ):
        raise CourseError(
            f"{name} has to hold <!-- report:NAME --> and <!-- /report:NAME --> once for each of {', '.join(blocks)}; "
            f"it has them for {', '.join(found) or 'none'}."
        )
    images = "../" * name.count("/") + "images"

    def filled(section: re.Match) -> str:
        block, end = section[1], "\n" if "\n" in section[2] else ""  # without a line break it stands within a line
        text = "\n\n".join(part if isinstance(part, str) else part.markdown(images) for part in blocks[block])
        return f"<!-- report:{block} -->{end}{text}{end}<!-- /report:{block} -->"

    return old, SECTION.sub(filled, old)


def _pictures(made: dict[str, dict[str, Parts]]) -> list[Picture]:
    """Each figure once, though several pages may show it."""
    shown = [
        part for blocks in made.values() for parts in blocks.values() for part in parts if isinstance(part, Picture)
    ]
    both = [picture for part in shown for picture in (part, part.narrow) if picture]
    return list({picture.name: picture for picture in both}.values())


def _left_over(root: Path, made: dict[str, dict[str, Parts]]) -> list[Path]:
    known = {file for picture in _pictures(made) for file in picture.files}
    return [path for path in sorted((root / "images").glob("*.png")) if path.name not in known]
