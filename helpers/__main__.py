import signal
import sys

from helpers.cli import main


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":  # not in the processes that `bench` starts
    # Names may hold what a terminal's encoding does not; a log that is piped is complete at any moment.
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    signal.signal(signal.SIGTERM, interrupt)  # how clusters and containers press Ctrl-C
    raise SystemExit(main())
