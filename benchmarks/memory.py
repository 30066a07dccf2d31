"""The most memory that a call takes beyond what the process held before it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # proc(5), clear_refs


def peak_extra(call: Callable[[], object]) -> int | None:
    """Bytes, resident pages of mapped files included; None where the system (other than Linux) does not tell."""
    gc.collect()
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
        before = _status("VmRSS")
    except OSError:
        return None
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    lines = (_PROCESS / "status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
