"""Follows jobs from their submission to their end, across interruptions of this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from graft.cluster.record import JobRecord, enter, has_open_job, read_end, read_record
from graft.cluster.slurm_settings import SlurmSettings
from graft.cluster.states import JobState, cancel, states_of
from graft.cluster.submission import submit
from graft.sweep.attempt import Ended
from graft.sweep.children import OUTPUT, Prepared

LOOK_SECONDS = 1.0
"""Interval at which to read the files in which jobs record how they ended."""
ASK_EVERY = 5
"""Number of such intervals between queries to SLURM, which are only needed for jobs that could not record anything."""
WORD_SECONDS = 30.0
"""Time allowed for a job's last file to appear on a network file system; submitit allows the same."""
LEAVES_A_WORD = ("COMPLETED", "FAILED")
"""States of jobs that ended by themselves and have therefore recorded how."""
ENDS = {
    "CANCELLED": "its job {job} was cancelled",
    "TIMEOUT": "its job {job} ran out of time before it had saved; try a longer hydra.launcher.notice_s, or time_min",
    "OUT_OF_MEMORY": "its job {job} ran out of memory; try a larger hydra.launcher.mem_gb",
    "NODE_FAIL": "the node of its job {job} failed",
    "PREEMPTED": "its job {job} was preempted by a partition that does not queue again",
}


def follow(
    runs: Mapping[int, Prepared], settings: SlurmSettings, sweep: Path, say: Callable[[str], None]
) -> Iterator[tuple[int, Ended]]:
    """Submits the runs, or continues to follow their jobs, and yields each result as its job ends.

    Closing the generator early cancels the jobs that have not started. An interruption leaves all jobs running.

    Raises:
        InputError: SLURM refuses the jobs.
    """
    folders = {number: run.folder for number, run in runs.items()}
    fresh = {number: run for number, run in runs.items() if not has_open_job(run.folder)}
    for array, records in submit(fresh, settings, sweep):
        numbers = ", ".join(map(str, records))
        say(f"submitted job {array} for trial{'s' if len(records) > 1 else ''} {numbers}")
    jobs = {number: record for number, folder in folders.items() if (record := read_record(folder))}
    if settings.detach:
        yield from ends_so_far(jobs, folders)
        return
    try:
        yield from _ends(jobs, folders)
    except GeneratorExit:
        _cancel_pending(jobs, folders)
        raise
    except KeyboardInterrupt:
        say(f"{len(jobs)} jobs go on in SLURM; graft jobs {sweep} shows them, scancel ends them")
        raise


def ends_so_far(jobs: dict[int, JobRecord], folders: Mapping[int, Path]) -> Iterator[tuple[int, Ended]]:
    """Yields the results of the jobs that have ended so far."""
    states = states_of([record.job for record in jobs.values()])
    for number, record in jobs.items():
        ended = end_of(record, folders[number], states)
        yield number, ended or Ended(elsewhere=True)
        if ended:
            enter(folders[number], record)


def _ends(jobs: dict[int, JobRecord], folders: Mapping[int, Path]) -> Iterator[tuple[int, Ended]]:
    """Yields the results of ended jobs, and removes these from `jobs`."""
    looks, silent = 0, set[int]()
    while jobs:
        ask = looks % ASK_EVERY == ASK_EVERY - 1
        states = states_of([record.job for record in jobs.values()]) if ask else None
        for number, record in list(jobs.items()):
            ended = end_of(record, folders[number], states)
            if ended and ended.reason and read_end(folders[number], record.job) is None and number not in silent:
                silent.add(number)  # what it wrote may be on its way over the network's file system
                continue
            if ended:
                del jobs[number]
                try:
                    yield number, ended
                finally:
                    enter(folders[number], record)
        looks += 1
        time.sleep(LOOK_SECONDS if jobs else 0)


def end_of(record: JobRecord, folder: Path, states: Mapping[str, JobState] | None) -> Ended | None:
    """How a job ended, by its own record, otherwise by SLURM. None if it is still alive or if neither is available.

    Args:
        states: SLURM's answer; None if there is none.
    """
    reason = read_end(folder, record.job)
    if reason is not None:
        return Ended(reason=reason)
    if states is None:
        return None
    state = states.get(record.job)
    if state is None:
        return Ended(reason=f"SLURM does not know its job {record.job} any more, and the job left no word")
    if not state.is_over or (state.word in LEAVES_A_WORD and _is_young(record.log)):
        return None
    sentence = ENDS.get(state.word, "its job {job} ended as {state} without a word; {log} may say why")
    return Ended(reason=sentence.format(job=record.job, state=state.word, log=record.log))


def _is_young(log: str) -> bool:
    """Whether a job's log was written to a moment ago."""
    try:
        return time.time() - os.stat(log).st_mtime < WORD_SECONDS
    except OSError:
        return False


def _cancel_pending(jobs: Mapping[int, JobRecord], folders: Mapping[int, Path]) -> None:
    states = states_of([record.job for record in jobs.values()]) or {}
    for number, record in jobs.items():
        state = states.get(record.job)
        if state and state.word == "PENDING" and not (folders[number] / OUTPUT).exists():
            cancel([record.job])
            enter(folders[number], record)
