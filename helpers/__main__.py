import math
import os
import signal
import sys
import time

os.environ["MPLBACKEND"] = "agg"  # figures go into files only: a command needs no screen, whatever a notebook has set

from helpers.plumbing.distributed import WORLD_SIZE
from helpers.plumbing.errors import CourseError

try:
    from helpers.cli import main
except CourseError as error:  # a recipe in helpers/recipes.py that cannot be trained
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(2)

interrupted = -math.inf


def interrupt(number: int, frame: object) -> None:
    """Ends the command; pressed twice, as Ctrl-C often is, it does not interrupt the cleaning up."""
    global interrupted
    if time.monotonic() - interrupted > 2:
        interrupted = time.monotonic()
        raise KeyboardInterrupt(number)


if __name__ == "__main__":  # not in the processes that `bench` starts
    # Names may hold what a terminal's encoding does not; a log that is piped is complete at any moment.
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # the second is how clusters and containers press Ctrl-C
        if signal.getsignal(number) != signal.SIG_IGN:  # as for a shell's background jobs
            signal.signal(number, interrupt)
    status = main()
    if WORLD_SIZE > 1:  # at once: while the interpreter went down, a thread of gloo has aborted a finished process
        sys.stdout.flush()
        os._exit(status)
    raise SystemExit(status)
