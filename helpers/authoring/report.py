"""The pages that show recorded runs, written from `results/` and checked against it.

Between `<!-- report:NAME -->` and `<!-- /report:NAME -->` a page belongs to this module, all else to its authors.
"""

import re
from itertools import zip_longest
from pathlib import Path

from helpers.authoring.page import Parts, pages
from helpers.authoring.pictures import Picture, drawn
from helpers.authoring.results import check_data, load_results
from helpers.data import Data
from helpers.plumbing.errors import CourseError
from helpers.plumbing.files import write_text
from helpers.settings import REPOSITORY

SECTION = re.compile(r"<!-- report:(\w+) -->(.*?)<!-- /report:\1 -->", re.DOTALL)


def report(data: Data | None = None, root: Path = REPOSITORY) -> list[Path]:
    """Write every page's blocks and every missing or stale figure, and remove figures that no page shows any more.

    Returns what was written or removed.

    Figures that show images are only drawn with `data`, the complete CIFAR-10. Raises CourseError if they are
    needed and not given, and for a page whose markers are damaged.
    """
    if data:
        check_data(data.fingerprint, data.name)
    made = pages(load_results(root), data)
    texts = {root / name: _texts(root, name, blocks) for name, blocks in made.items()}
    stale = {path: drawing for path, (drawing, fault) in _figures(root, made).items() if fault}
    photographs = [path.name for path, (picture, _) in stale.items() if picture and not picture.draw]
    if photographs:
        raise CourseError(f"Name the complete CIFAR-10 with --data: {', '.join(photographs)} show its images.")
    for path, (picture, dark) in stale.items():
        if picture:
            picture.save(path, dark)
        else:
            path.unlink()
    changed = {path: new for path, (old, new) in texts.items() if new != old}
    for path, new in changed.items():
        write_text(path, new)
    return [*stale, *changed]


def check(root: Path = REPOSITORY) -> list[str]:
    """Name what does not match `results/`, a sentence each: blocks of the pages, and figures."""
    made, faults = pages(load_results(root)), []
    for name, blocks in made.items():
        for there, here in zip(*map(SECTION.findall, _texts(root, name, blocks)), strict=True):
            if there != here:
                pairs = zip_longest(there[1].split("\n"), here[1].split("\n"), fillvalue="nothing")
                shown, recorded = next((a, b) for a, b in pairs if a != b)
                faults.append(f"{name}, block {here[0]}: it says {shown!r}, results/ {recorded!r}")
    return faults + [f"images/{path.name} {fault}" for path, (_, fault) in _figures(root, made).items() if fault]


def _figures(root: Path, made: dict[str, dict[str, Parts]]) -> dict[Path, tuple[tuple[Picture | None, bool], str]]:
    """By file, in `images/` or missing there: the picture that it shows, whether for dark pages, and its fault."""
    parts = [part for blocks in made.values() for parts in blocks.values() for part in parts]
    pictures = [picture for part in parts if isinstance(part, Picture) for picture in (part, part.narrow) if picture]
    files = {root / "images" / file: (picture, dark) for picture in pictures for file, dark in picture.files.items()}
    checked = {path: (drawing, drawing[0].fault(path)) for path, drawing in files.items()}
    texts = [path for folder in (root, root / "docs", root / "results") for path in folder.glob("*.md")]
    authors = "".join(SECTION.sub("", path.read_text(encoding="utf-8")) for path in texts)  # who may show their own
    others = (path for path in sorted((root / "images").glob("*.png")) if path not in files)
    unused = [path for path in others if path.name not in authors and drawn(path)]
    return checked | dict.fromkeys(unused, ((None, False), "is shown nowhere"))


def _texts(root: Path, name: str, blocks: dict[str, Parts]) -> tuple[str, str]:
    """A page as it is and as it should be. Raises CourseError if a marker is missing, twice or unknown."""
    try:
        old = (root / name).read_text(encoding="utf-8")
    except OSError as error:
        raise CourseError(f"{name} cannot be read ({error}): put it back, for instance with git.") from error
    found = [block for block, _ in SECTION.findall(old)]
    needed = {block for block in blocks if "minutes" not in block}
    if (
        len(set(found)) < len(found)
        or not needed <= set(found) <= set(blocks)
        or len(re.findall("<!-- /?report:", old)) != 2 * len(found)
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
