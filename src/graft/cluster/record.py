"""What a trial's folder says of its SLURM job: which one it is, and how it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from graft.system.files import write_json

JOB_FILE = "slurm.json"
"""Written by whoever submits; the sweep's ledger knows the trial by its number, and SLURM the job by its id."""
END_FILE = "slurm_end.json"
"""Written by the job itself: how it ended, however long nobody looks and whether or not SLURM keeps accounts."""


@dataclass(slots=True, kw_only=True)
class JobRecord:
    job: str
    """SLURM's id: 12, or 12_3 of an array."""
    log: str
    """What it printed before and after the run's own output.log and errors.log."""
    entered: bool = False
    """Whether what came of it is in the ledger."""


def read_record(folder: Path) -> JobRecord | None:
    """The last job that was submitted for the trial in this folder."""
    content = _read(folder / JOB_FILE)
    return JobRecord(**content) if content else None


def write_record(folder: Path, record: JobRecord) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JOB_FILE, asdict(record))


def has_open_job(folder: Path) -> bool:
    """Whether a job was submitted whose end is in no ledger yet."""
    record = read_record(folder)
    return record is not None and not record.entered


def enter(folder: Path, record: JobRecord) -> None:
    """From here on the trial has no job that anybody waits for."""
    write_record(folder, replace(record, entered=True))


def write_end(folder: Path, job: str, reason: str) -> None:
    """Says why the run failed, or by an empty reason that it did not."""
    write_json(folder / END_FILE, {"job": job, "reason": reason})


def read_end(folder: Path, job: str) -> str | None:
    """Why this job's run failed, empty where it did not; None while it has said nothing."""
    content = _read(folder / END_FILE)
    return str(content["reason"]) if content and content["job"] == job else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
