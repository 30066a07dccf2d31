"""The option that permits a command to import code that a model's record names."""

from __future__ import annotations

import argparse


def add_import_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import-code",
        action="store_true",
        help="import the code of a custom backbone or head that the model's record names",
    )
