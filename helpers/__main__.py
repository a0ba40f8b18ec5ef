import signal
import sys

from helpers.cli import main


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":  # not in the processes that `bench` starts
    sys.stdout.reconfigure(line_buffering=True)  # a log that is piped or redirected is complete at any moment
    signal.signal(signal.SIGTERM, interrupt)  # how clusters and containers press Ctrl-C
    raise SystemExit(main())
