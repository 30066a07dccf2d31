"""How a donor is turned away: one paragraph saying what was expected, what was received and what to do."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path

from graft.config.faults import InputError

# What parsers raise on bytes that they did not write. Listed rather than `Exception`, so that a mistake of ours that is
# none of these still shows itself as one.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

COPY_AGAIN = "copy or download the file again, or set donor.path to another"


def refused(path: Path | str, *, expected: str, received: str, remedy: str = COPY_AGAIN) -> InputError:
    return InputError(f"donor {path}: expected {expected}, received {received}; try: {remedy}")


def first_line(error: BaseException | str, limit: int = 200) -> str:
    """An error of a parser, short enough to be quoted."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}…"
