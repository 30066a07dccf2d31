"""The text of an sbatch file. submitit has no public interface for it except submission.

This is the only place where graft uses private names of submitit; `pyproject.toml` limits its release for this reason.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any


def text_for_sbatch(executor: Any) -> str:
    """The text that submitit would pass to sbatch. If the installed release writes it in another way, it is only the
    requested parameters, with a note that says so.
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
