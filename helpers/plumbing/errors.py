"""The one exception that means: the user can mend this."""

import re

# Line breaks and other control characters, and bytes of a file's name that are no text.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LONGEST = 1500  # characters


class CourseError(Exception):
    """A mistake in what was asked for, or in the data or files it names.

    Its message is one clear sentence for a person: what is wrong, and what to do. The command line
    prints it without a traceback and ends with status 2; a notebook shows it without a traceback.
    What the sentence quotes from outside can neither break its line nor steer a terminal nor flood it.
    """

    def __init__(self, sentence: str):
        sentence = UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], sentence)
        if len(sentence) > LONGEST:  # what to do stands at its end
            sentence = f"{sentence[: LONGEST - 500]} … {sentence[-500:]}"
        super().__init__(sentence)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a cell's place of a traceback."""
        return [f"Error: {self}"]
