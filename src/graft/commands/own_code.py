"""The option without which a command imports nothing that a model's record names."""

from __future__ import annotations

import argparse


def add_import_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import-code", action="store_true", help="import a custom backbone or head from where the model's record says"
    )
