"""The look of all figures: colours, titles and notes, pictures, names of classes that fit."""

import re
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from helpers.plumbing.files import write_atomically

# After Okabe & Ito's colours, which people with any colour vision tell apart, here dark enough for white pages.
# The same thing always has the same colour. `ink` fits them to the page.
COLOURS = {"train": "#1A75B0", "val": "#007F5F", "test": "#C25200", "lr": "#1A75B0", "momentum": "#A8528A"}
RUN_COLOURS = ("#C25200", "#1A75B0", "#007F5F", "#A8528A", "#8A6D00", "#5A5AC8")  # one for each compared run
NAMES = {"train": "training", "val": "validation", "test": "test"}
GREY, RED = "#6E6E6E", "#C8102E"
BLUES = ("#DCEBF7", "#BBD9EE", "#90C2E3", "#63A7D5", "#3F8CC5", "#2271B2", "#11559A", "#0B4079")  # light to dark

plt.rc("figure", dpi=100)
plt.rc("figure.constrained_layout", use=True)
plt.rc("savefig", dpi=150)
plt.rc("axes", grid=True, titlesize=11)
plt.rc("axes.spines", top=False, right=False)
plt.rc("grid", alpha=0.25)
plt.rc("lines", linewidth=1.8)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, whole or not at all, and close it."""
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)
    return path


def contrast(colour: str, page: str) -> float:
    """The contrast ratio of two colours, from 1 to 21 (WCAG 2.1)."""
    values = np.array([to_rgb(colour), to_rgb(page)])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722) + 0.05)
    return light / dark


def ink(colour: str) -> str:
    """The colour, moved towards that of text until it reads on this page, white or dark: contrast 5 (WCAG: 4.5)."""
    page, text = plt.rcParams["axes.facecolor"], np.array(to_rgb(plt.rcParams["text.color"]))
    mixed = (to_hex(text + share * (np.array(to_rgb(colour)) - text)) for share in np.linspace(1, 0, 51))
    return next(shade for shade in mixed if contrast(shade, page) >= 5)


def plain(text: str) -> str:
    """Text in which a dollar sign begins no formula."""
    return re.sub(r"(?<!\\)\$", r"\\$", text)


def label(figure: Figure, title: str, below: str = "", mark: str = "") -> Figure:
    """Put a title above the figure, its origin below it, and a red mark on what is no result."""
    width, height = figure.get_size_inches()
    title = textwrap.fill(title, max(20, int(10 * width - 1.2 * len(mark))))
    figure.suptitle(plain(title), fontsize=11, fontweight="bold", x=0.01, ha="left")
    below = textwrap.fill(below, int(15 * width))
    figure.supxlabel(plain(below), fontsize=8, color=ink(GREY), x=0.01, ha="left")
    figure.text(0.99, 1 - 0.05 / height, mark, ha="right", va="top", fontweight="bold", color=ink(RED))
    return figure


def label_run(figure: Figure, run, title: str) -> Figure:
    """Put a title above a figure of a run, and the run below it."""
    return label(figure, title[0].upper() + title[1:], run.caption, run.mark)


def write(ax: Axes, text: str, at: tuple, dx: float = 0, dy: float = 0, **style) -> None:
    """Text beside a point of the data, `dx` and `dy` typographic points away from it."""
    ax.annotate(plain(text), at, xytext=(dx, dy), textcoords="offset points", **{"fontsize": 9, **style})


def write_left(ax: Axes, text: str) -> None:
    """Text to the left of a row of pictures that begins with `ax`."""
    style = {"xycoords": "axes fraction", "ha": "right", "va": "center", "annotation_clip": False}
    write(ax, text, (-0.15, 0.5), **style)


def show_image(ax: Axes, image: np.ndarray, title: str = "", **style) -> None:
    """One image, its pixels unblurred, without axes."""
    ax.imshow(image, interpolation="nearest", **style)
    ax.set_title(title, fontsize=9)
    ax.axis("off")


def show_heat(ax: Axes, image: np.ndarray, heat: np.ndarray, title: str) -> None:
    """A heatmap (H, W) within 0..1 over the image (H, W, 3) in grey."""
    show_image(ax, image.mean(axis=2), title, cmap="gray", vmin=0, vmax=255)
    ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="nearest")


def class_names(names: Sequence[str], letters: int = 24) -> list[str]:
    """Shorten long names, at their end, middle or beginning, where that leaves them distinct.

    Installed fonts are added to matplotlib's for letters that DejaVu Sans, its own, does not have.
    """
    if not "".join(names).isascii():
        families = [*plt.rcParams["font.family"], *_fonts("".join(sorted(set("".join(names)))))]
        plt.rcParams["font.family"] = list(dict.fromkeys(families))
    for head in (letters - 1, letters // 2, 0):
        end = head - letters + 1  # how many letters from the end stay, as a negative number
        short = [name if len(name) <= letters else f"{name[:head]}…{name[end:] if end else ''}" for name in names]
        if len(set(short)) == len(set(names)):
            return list(map(plain, short))
    return list(map(plain, names))


@cache
def _fonts(letters: str) -> list[str]:
    """Families of installed fonts that together have the letters, DejaVu Sans and other sans serif ones first."""
    missing, families = set(map(ord, letters)), []
    fonts = [font for font in font_manager.fontManager.ttflist if "Last Resort" not in font.name]  # it has boxes alone
    for font in sorted(fonts, key=lambda font: (font.name != "DejaVu Sans", "Sans" not in font.name)):
        with suppress(OSError, RuntimeError):  # a font that FreeType cannot read
            found = missing & font_manager.get_font(font.fname).get_charmap().keys() if missing else set()
            families += [font.name] if found else []
            missing -= found
    return families
