"""The one exception that means: the user can mend this."""


class CourseError(Exception):
    """A mistake in what was asked for, or in the data or files it names.

    Its message is one clear sentence for a person: what is wrong, and what to do. The command line
    prints it without a traceback and ends with status 2; a notebook shows it without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a cell's place of a traceback."""
        return [f"Error: {self}"]
