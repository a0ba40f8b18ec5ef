from helpers.cli import main

if __name__ == "__main__":  # not in the processes that `bench` starts
    raise SystemExit(main())
