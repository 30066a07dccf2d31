"""By what name graft trains, so that the commands it prints can be typed."""

from __future__ import annotations

import os
import sys

MODULE = "graft.commands.train"


def program() -> list[str]:
    """`graft train`; or `python` and the script that this process runs, which is train.py of the repository."""
    import __main__

    spec = getattr(__main__, "__spec__", None)
    script = os.path.basename(sys.argv[0])
    return ["python", os.path.relpath(sys.argv[0])] if spec is None and script == "train.py" else ["graft", "train"]
