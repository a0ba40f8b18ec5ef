"""Spares the reader tracebacks: the one exception that means that the user can fix this, and its sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a notebook's first cell gets here in environments that lack every package
    from pydantic import ValidationError

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # characters that no name should hold


def printable(text: str) -> str:
    """The text on one line, what cannot be shown in it written as in Python's source."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class CourseError(Exception):
    """A mistake in what was asked for, or in the data or files it names.

    Its message is one clear sentence for a person: what is wrong, and what to do. The command line
    prints it without a traceback and ends with status 2; a notebook shows it without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows in the place of a traceback."""
        return [f"Error: {self}"]


class Stopped(KeyboardInterrupt):
    """A training that was interrupted by hand, in which nothing but the unfinished epoch is lost."""

    def __init__(self, epochs_done: int, epochs: int, arguments: tuple = ()):
        super().__init__(*arguments)
        saved = f"epoch {epochs_done} is saved" if epochs_done else "no epoch was finished yet"
        epoch = min(epochs_done + 1, epochs)
        self.sentence = f"Stopped in epoch {epoch} of {epochs}; {saved}. Run this again to go on."

    def _render_traceback_(self) -> list[str]:
        return [self.sentence]


def in_words(error: ValidationError) -> str:
    """The first of pydantic's complaints as a part of a sentence: which value, what it has to be, what it is."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if "[" not in str(part)) or "it"  # no validators' names
    if first["type"] in ("missing", "unexpected_keyword_argument"):
        return f"{name} is {'missing' if first['type'] == 'missing' else 'unknown'}"
    if first["type"] == "json_invalid":
        return f"it is no JSON ({first['ctx']['error']})"
    return f"{name} {first['msg'].replace('Input should', 'should')}, not {repr(first['input'])[:100]}"
