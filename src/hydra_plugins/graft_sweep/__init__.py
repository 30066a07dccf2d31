"""hydra/sweeper=grid and hydra/sweeper=bayes: Hydra's door to graft.sweep. Hydra imports this at every start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from graft.sweep.attempt import Claim, Ended


@runtime_checkable
class Queue(Protocol):
    """A launcher that takes several jobs together."""

    def queueing(self, *, grid: bool) -> dict[str, Any]:
        """Further arguments of `graft.sweep.conduct.conduct`."""
        ...

    def each(self, jobs: Mapping[int, Sequence[str]]) -> Iterator[tuple[int, Ended]]:
        """Each job's number and end, as they come."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A launcher of which something stays between jobs."""

    def close(self) -> None: ...


class _LedgerSweeper(Sweeper):
    """Both sweepers; they differ in where trials come from. Hydra passes over classes that are abstract, as this is."""

    def __init__(self, **settings: Any) -> None:
        from graft.config.hydra_job import plain_settings

        self.settings = plain_settings(settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.task_function = task_function

    def _sweep(self, arguments: list[str]) -> None:
        """Ends with the exit codes of a run: 1 where a trial failed, 2 where nothing was started, 130 where stopped."""
        from graft.config.faults import InputError
        from graft.sweep.attempt import Interrupted
        from graft.system.terminal import printable

        try:
            failed = self._conduct(arguments)
        except InputError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(printable(str(error)), file=sys.stderr)
            raise SystemExit(2) from None
        except (Interrupted, KeyboardInterrupt):
            print("the sweep was stopped; the same command goes on", file=sys.stderr)
            raise SystemExit(130) from None
        if failed:
            print(printable(failed), file=sys.stderr)
            raise SystemExit(1)

    def _conduct(self, arguments: list[str]) -> str:
        """The table of failures, or nothing."""
        from graft.commands.report import write_study_page
        from graft.config.faults import InputError
        from graft.sweep.conduct import check_optuna, conduct
        from graft.sweep.space import measuring, points, read_space
        from graft.sweep.study import failures, summary
        from graft.sweep.sweep_settings import read_settings

        settings = read_settings(self.settings)
        config, context = self.config, self.hydra_context
        assert config is not None
        assert context is not None
        parser = OverridesParser.create(config_loader=context.config_loader)
        space = measuring(read_space(settings.params, arguments, parser), settings.objectives)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=self.task_function, config=config
        )
        if OmegaConf.select(config, "mode") == "plan":
            return _plan(launcher, [space.overrides(point) for point in points(space)])
        check_optuna()
        sweep = cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweep, resolve=False))
        subfolder = sweep["subdir"]
        if subfolder != "${hydra.job.num}":
            raise InputError(
                f"hydra.sweep.subdir: expected ${{hydra.job.num}}, since trials are found by their number, received"
                f" {subfolder}; try hydra.sweep.dir, or hydra/sweeper=basic"
            )
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")
        if note := one_at_a_time(launcher, OmegaConf.select(config, "hydra.runtime.choices")["hydra/launcher"]):
            _say(note)
        grid = settings.n_trials is None
        launch = partial(_launch, launcher, [key.lstrip("+") for key in space.swept])
        try:
            study = conduct(
                folder, settings, space, launch, slots=getattr(launcher, "slots", 1), say=_say,
                **(launcher.queueing(grid=grid) if isinstance(launcher, Queue) else {}),
            )  # fmt: skip
        finally:
            if isinstance(launcher, Closing):
                launcher.close()
        _say(summary(study))
        write_study_page(folder)
        return failures(study)


class GridSweeper(_LedgerSweeper):
    """Every combination of the values."""

    def sweep(self, arguments: list[str]) -> None:
        self.settings["n_trials"] = None
        self._sweep(arguments)


class BayesSweeper(_LedgerSweeper):
    """A search by one of Optuna's samplers."""

    def sweep(self, arguments: list[str]) -> None:
        if self.settings["n_trials"] is None:  # which would be a grid
            self.settings["n_trials"] = "null"
        self._sweep(arguments)


def one_at_a_time(launcher: Launcher, chosen: str) -> str:
    """Of a launcher of another's, which hands over all jobs at once: the ledger gives it one at a time."""
    if chosen == "basic" or hasattr(launcher, "slots") or isinstance(launcher, Queue):
        return ""
    return (
        f"note      hydra/launcher={chosen} runs these trials one after the other, as each is chosen when the one"
        " before has ended; try hydra/launcher=workers hydra.launcher.n_jobs=N, or hydra/sweeper=basic"
    )


def _launch(launcher: Launcher, varied: Sequence[str], claims: Sequence[Claim]) -> Iterator[tuple[Claim, Ended]]:
    """One after the other, but for a launcher that submits several together.

    Args:
        varied: the keys that the sweep varies.

    Raises:
        InputError: all of them have no effect.
    """
    from graft.config.examples import quoted
    from graft.config.faults import InputError
    from graft.sweep.job import ALL_ALIKE, SWEPT, TRIAL

    jobs = {
        claim.number: [
            *claim.overrides,
            f"hydra.sweep.dir={quoted(claim.folder.parent)}",  # whose name would otherwise follow from this job's words
            f"hydra.sweep.subdir={claim.number}",
            f"+hydra.job.env_set.{TRIAL}={quoted(f'{claim.folder.parent}:{claim.number}')}",
            f"+hydra.job.env_set.{SWEPT}={quoted(','.join(varied))}",
        ]
        for claim in claims
    }
    if isinstance(launcher, Queue):
        numbered = {claim.number: claim for claim in claims}
        ends = ((numbered[number], ended) for number, ended in launcher.each(jobs))
    else:
        ends = ((claim, _launched(launcher, claim.number, jobs[claim.number])) for claim in claims)
    for claim, ended in ends:
        if ended.reason.startswith(ALL_ALIKE):
            raise InputError(ended.reason)
        yield claim, ended


def _launched(launcher: Launcher, number: int, job: Sequence[str]) -> Ended:
    (end,) = launcher.launch([job], initial_job_idx=number)
    return _ended(end)


def _plan(launcher: Launcher, jobs: Sequence[Sequence[str]]) -> str:
    """Plans are printed, and are no trials."""
    ends = [_ended(job) for job in launcher.launch(jobs, initial_job_idx=0)]
    return "\n".join(ended.reason for ended in ends if ended.reason)


def _ended(job: JobReturn) -> Ended:
    from graft.config.faults import reason_of
    from graft.sweep.attempt import Ended, Interrupted

    if job.status == JobStatus.COMPLETED:
        return Ended()
    error = replace(job, status=JobStatus.COMPLETED).return_value  # of a failed job it would be raised, and printed
    in_words = isinstance(error, CompactHydraException)  # of train.py or a launcher
    return Ended(reason=str(error) if in_words else reason_of(error), interrupted=isinstance(error, Interrupted))


def _say(line: str) -> None:
    from graft.system.terminal import printable

    print(printable(line), flush=True)
