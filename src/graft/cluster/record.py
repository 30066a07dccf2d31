"""The files in a trial's folder about its SLURM job: its id, and how it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from graft.config.faults import InputError
from graft.system.documents import Malformed, read_json
from graft.system.files import write_json
from graft.system.forms import Form, fields, flag, text

JOB_FILE = "slurm.json"
"""Written on submission. It links the trial's number in the sweep's ledger to the job's id in SLURM."""
END_FILE = "slurm_end.json"
"""Written by the job itself when it ends, so the result does not depend on SLURM's accounting."""


JOB = fields({"job": text(), "log": text(), "entered": flag}, needed=("job", "log"))
END = fields({"job": text(), "reason": text()}, needed=("job", "reason"))


@dataclass(slots=True, kw_only=True)
class JobRecord:
    job: str
    """SLURM's id: 12, or 12_3 in an array."""
    log: str
    """Path of the job's output before and after the run, whose own output is in output.log and errors.log."""
    entered: bool = False
    """Whether the result is in the ledger."""


def read_record(folder: Path) -> JobRecord | None:
    """The last job that was submitted for the trial in this folder, if there is one."""
    content = _read(folder / JOB_FILE, JOB)
    return JobRecord(**{name: content[name] for name in JobRecord.__slots__ if name in content}) if content else None


def write_record(folder: Path, record: JobRecord) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JOB_FILE, asdict(record))


def has_open_job(folder: Path) -> bool:
    """Whether a job was submitted whose result is not in the ledger yet."""
    record = read_record(folder)
    return record is not None and not record.entered


def enter(folder: Path, record: JobRecord) -> None:
    """Records that the job's result is in the ledger."""
    write_record(folder, replace(record, entered=True))


def write_end(folder: Path, job: str, reason: str) -> None:
    """Records why the run failed; an empty reason means that it did not."""
    write_json(folder / END_FILE, {"job": job, "reason": reason})


def read_end(folder: Path, job: str) -> str | None:
    """Why this job's run failed; empty if it did not. None if the job has not recorded anything."""
    content = _read(folder / END_FILE, END)
    return str(content["reason"]) if content and content["job"] == job else None


def _read(path: Path, form: Form) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise InputError(f"{path}: expected JSON, received something else ({error})") from None
    if fault := form(content):
        raise InputError(f"{path}: expected {fault}")
    return cast("dict[str, Any]", content)
