"""The text of a file for sbatch, which submitit gives in no public way but by submitting it.

The one place where graft uses names of submitit's that are not public; `pyproject.toml` bounds its release for it.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any


def text_for_sbatch(executor: Any) -> str:
    """What submitit would hand to sbatch; where the installed release has another way to write it, what it is asked
    for, and that it is only that.
    """
    write = getattr(executor, "_make_submission_file_text", None)
    command = getattr(executor, "_submitit_command_str", None)
    if callable(write) and isinstance(command, str):
        return str(write(command, ""))
    comment = json.dumps(executor.parameters, indent=2, default=str).replace("\n", "\n#   ")
    return (
        f"#!/bin/bash\n# submitit {version('submitit')} does not tell the file that it would hand sbatch, as 1.5 does."
        f"\n# It is asked for:\n#   {comment}\n"
    )
