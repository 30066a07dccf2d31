"""What to type to go on with a run that was stopped, and how Hydra takes any text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

PLAIN = re.compile(r"[\w./+-]+")  # what Hydra's override syntax takes without quotes


def command_to_go_on(overrides: Sequence[str], folder: Path) -> str:
    """The same run in the same folder, where resume=auto finds its checkpoint."""
    kept = [word for word in overrides if not word.startswith("resume=")]
    place = str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    written = place if PLAIN.fullmatch(place) else quoted(place)
    return shlex.join(["python", "train.py", *kept, f"hydra.run.dir={written}"])


def quoted(value: object) -> str:
    """As Hydra's override syntax takes any text."""
    plain = str(value).replace("'", "\\'")
    return f"'{plain}'"
