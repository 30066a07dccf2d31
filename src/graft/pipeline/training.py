"""The training of a run: its module, searches on copies beforehand, and the training itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger

from graft.data.datamodule import DataModule
from graft.finetune.fit import fit
from graft.finetune.fit_result import FitResult
from graft.finetune.hardware import training_precision
from graft.finetune.methods import Methods
from graft.finetune.module import FineTuning
from graft.finetune.own_callbacks import make_callbacks
from graft.finetune.pruning import Watcher
from graft.finetune.rate_search import range_test
from graft.finetune.resume import Resumption
from graft.finetune.route import Route
from graft.models.network import Network
from graft.pipeline.step_search import with_fastest_step
from graft.plan.features import runs_engine
from graft.plan.plan import Plan
from graft.plan.resumable import shared
from graft.report.rate_search import PLOT, recorded_rate, write_rate_search
from graft.system.clock import Clock
from graft.system.files import write_json
from graft.system.processes import is_first, say
from graft.system.stopping import StopSignals


def before_training(plan: Plan, network: Network) -> dict[str, torch.Tensor]:
    """The reference values for drift. Tensors that no phase trains are not copied: a hash verifies that they have not
    changed."""
    trained = {name for group in plan.training.groups for name in group.names} | {
        f"{path}.weight" for path in plan.lora
    }
    values = {name: value.detach() for name, value in network.module.named_parameters()}
    return {name: value.clone() if name in trained else value for name, value in values.items()}


def fine_tune(
    plan: Plan,
    tuning: FineTuning,
    data: DataModule,
    folder: Path,
    signals: StopSignals | None,
    loggers: Sequence[Logger],
    watcher: Watcher | None,
    resumption: Resumption,
) -> FitResult:
    """Trains, on cached features in the phases that have them. Arguments, result and errors are those of `fit`."""
    config = plan.config
    data.serve(tuning.kept_at)
    return fit(
        tuning, data, folder, trainer=config.trainer, checkpoint=config.checkpoint,
        resume=resumption, loggers=loggers, signals=signals, watcher=watcher,
        callbacks=make_callbacks(config.callbacks),
    )  # fmt: skip


def tuning_of(
    plan: Plan, network: Network, behind: Mapping[str, torch.nn.Module], teacher: torch.nn.Module | None
) -> FineTuning:
    """The FineTuning of a plan.

    Args:
        behind: the parts of the network after cached features, by the last stage of their prefix.
        teacher: the donor's own network, for method.distill.
    """
    config, module, stages = plan.config, network.module, network.stages
    return FineTuning(
        module, plan.training, plan.task, loss=config.loss,
        methods=Methods(config.method, module, anchored=plan.anchored, teacher=teacher, head=stages.head),
        route=Route(
            module, stages, behind,
            fast=runs_engine(config.trainer, config.method), precision=training_precision(config.trainer),
        ),
        shared=shared(plan),
    )  # fmt: skip


def try_out(
    plan: Plan, tuning: Callable[[Plan], FineTuning], data: DataModule, folder: Path, clock: Clock
) -> tuple[Plan, Resumption]:
    """The plan after searches on copies (learning rate, fastest step), and where the run resumes. A solved head needs
    no search."""
    resumption = Resumption(plan.config.resume, folder, _warn)
    if plan.solver.solves:
        return plan, resumption
    if plan.config.trainer.tune == "auto":
        with clock("tune"):
            plan = with_fastest_step(plan, tuning(plan), data, folder, say, resumption)
        if is_first():
            write_json(folder / "plan.json", plan.to_dict())
    if plan.finds_rate:
        with clock("lr_find"):
            plan = _find_rate(plan, tuning, data, resumption)
    return plan, resumption


def _warn(line: str) -> None:
    if is_first():
        print(line, file=sys.stderr, flush=True)


def _find_rate(plan: Plan, tuning: Callable[[Plan], FineTuning], data: DataModule, resumption: Resumption) -> Plan:
    """The plan with the rate from a range test, or from the run that is being resumed."""
    trainer, checkpoint, folder = plan.config.trainer, resumption.path, resumption.folder
    if checkpoint is not None:
        rate, how = recorded_rate(checkpoint, folder), "found before the run was interrupted"
    else:
        search = range_test(tuning(plan), data.train_dataloader(), trainer)
        write_rate_search(folder, search.to_dict())
        rate, how = search.suggestion, f"found by a range test of {len(search.rates)} steps"
    say(f"rate      optimizer.lr={rate:g}, {how} ({folder / PLOT})")
    plan = plan.with_rate(rate)
    write_json(folder / "plan.json", plan.to_dict())
    return plan
