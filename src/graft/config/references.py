"""How a donor.path names what is no file of its own: the hub, a folder in timm's form, a function."""

from __future__ import annotations

from pathlib import Path

HUB = "hf-hub:"
LOCAL_DIR = "local-dir:"
PYTHON = "python:"


def place_of(path: str) -> Path | None:
    """The file or folder that must exist on this machine; None where the path names none."""
    if path.startswith((HUB, PYTHON)):
        return None
    return Path(path.removeprefix(LOCAL_DIR)).expanduser()
