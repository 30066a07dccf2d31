"""Options of graft's commands that count something."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """For `add_argument(type=…)`. Raises ArgumentTypeError below 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, received {value}")
    return value
