"""`python -m benchmarks [CASE]`, from the repository's root."""

from __future__ import annotations

import argparse
import sys

from benchmarks import configure, run
from graft.commands.cli import exit_code


def dispatch(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="time graft's way beside the plain one, in turns"
    )
    configure(parser)
    return run(parser.parse_args(arguments))


def main() -> int:
    return exit_code("benchmarks", lambda: dispatch(sys.argv[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
