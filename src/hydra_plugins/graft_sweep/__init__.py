"""hydra/sweeper=grid and hydra/sweeper=bayes: Hydra's door to graft.sweep. Hydra imports this at every start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _LedgerSweeper(Sweeper):
    """Both sweepers; they differ in where trials come from. Hydra passes over classes that are abstract, as this is."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.task_function = task_function

    def _sweep(self, arguments: list[str]) -> None:
        """Ends with the exit codes of a run: 1 where a trial failed, 2 where nothing was started, 130 where stopped."""
        from graft.config.faults import InputError
        from graft.sweep.attempt import Interrupted

        try:
            failed = self._conduct(arguments)
        except InputError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(error, file=sys.stderr)
            raise SystemExit(2) from None
        except (Interrupted, KeyboardInterrupt):
            print("the sweep was stopped; the same command goes on", file=sys.stderr)
            raise SystemExit(130) from None
        if failed:
            print(failed, file=sys.stderr)
            raise SystemExit(1)

    def _conduct(self, arguments: list[str]) -> str:
        """The table of failures, or nothing."""
        from graft.commands.report import write_study_page
        from graft.config.faults import InputError
        from graft.sweep.conduct import check_optuna, conduct
        from graft.sweep.settings import read_settings
        from graft.sweep.space import measuring, points, read_space
        from graft.sweep.study import failures, summary

        settings = read_settings(self.settings)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space = measuring(read_space(settings.params, arguments, parser), settings.objectives)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=self.task_function, config=self.config
        )
        if OmegaConf.select(self.config, "mode") == "plan":
            return self._plan([space.overrides(point) for point in points(space)])
        check_optuna()
        subfolder = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)["subdir"]
        if subfolder != "${hydra.job.num}":
            raise InputError(
                f"hydra.sweep.subdir: expected ${{hydra.job.num}}, since trials are found by their number, received"
                f" {subfolder}; try hydra.sweep.dir, or hydra/sweeper=basic"
            )
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        if note := self._in_turn():
            _say(note)
        grid = settings.n_trials is None
        try:
            study = conduct(
                folder, settings, space, self._launch, slots=getattr(self.launcher, "slots", 1), say=_say,
                **(self.launcher.queueing(grid=grid) if hasattr(self.launcher, "queueing") else {}),
            )  # fmt: skip
        finally:
            if hasattr(self.launcher, "close"):
                self.launcher.close()
        _say(summary(study))
        write_study_page(folder)
        return failures(study)

    def _in_turn(self) -> str:
        """Of a launcher of another's, which hands over all jobs at once: the ledger gives it one at a time."""
        chosen = OmegaConf.select(self.config, "hydra.runtime.choices")["hydra/launcher"]
        if chosen == "basic" or hasattr(self.launcher, "slots") or hasattr(self.launcher, "each"):
            return ""
        return (
            f"note      hydra/launcher={chosen} runs these trials one after the other, as each is chosen when the one"
            " before has ended; try hydra/launcher=workers hydra.launcher.n_jobs=N, or hydra/sweeper=basic"
        )

    def _launch(self, claims: Any) -> Iterator[tuple[Any, Any]]:
        """One after the other, but for a launcher that submits several together."""
        from graft.config.examples import quoted
        from graft.sweep.job import TRIAL

        jobs = {
            claim.number: [
                *claim.overrides,
                f"hydra.sweep.subdir={claim.number}",
                f"+hydra.job.env_set.{TRIAL}={quoted(f'{claim.folder.parent}:{claim.number}')}",
            ]
            for claim in claims
        }
        if hasattr(self.launcher, "each"):
            numbered = {claim.number: claim for claim in claims}
            for number, ended in self.launcher.each(jobs):
                yield numbered[number], ended
        else:
            for claim in claims:
                (job,) = self.launcher.launch([jobs[claim.number]], initial_job_idx=claim.number)
                yield claim, _ended(job)

    def _plan(self, jobs: list[list[str]]) -> str:
        """Plans are printed, and are no trials."""
        ends = [_ended(job) for job in self.launcher.launch(jobs, initial_job_idx=0)]
        return "\n".join(ended.reason for ended in ends if ended.reason)


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


def _ended(job: JobReturn) -> Any:
    from graft.config.faults import reason_of
    from graft.sweep.attempt import Ended, Interrupted

    if job.status == JobStatus.COMPLETED:
        return Ended()
    error = replace(job, status=JobStatus.COMPLETED).return_value  # of a failed job it would be raised, and printed
    told = isinstance(error, CompactHydraException)  # by train.py or a launcher, in words already
    return Ended(reason=str(error) if told else reason_of(error), interrupted=isinstance(error, Interrupted))


def _say(line: str) -> None:
    print(line, flush=True)
