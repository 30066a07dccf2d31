"""The pipeline, from typed values to resulting weights. Read top to bottom, it is what graft does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger

from graft.batch_size import with_batch_size
from graft.clock import Clock
from graft.config.choices import Mode
from graft.config.faults import InputError, RunFailed, said
from graft.config.schema import Config
from graft.data.datamodule import DataModule
from graft.files import write_json
from graft.finetune.fit import FitResult, fit
from graft.finetune.hardware import hardware, training_precision
from graft.finetune.loggers import make_loggers
from graft.finetune.lora import add_lora, merge
from graft.finetune.module import FineTuning
from graft.finetune.pruning import Pruned, Watcher
from graft.finetune.range_test import range_test
from graft.finetune.resume import find_checkpoint
from graft.inputs import Inputs
from graft.machine import threads
from graft.models.network import Network, with_values
from graft.outcome import summary, write_metrics, write_page, write_pruned, write_results
from graft.plan import Plan, make_plan
from graft.plan_cache import runs_engine
from graft.plan_text import describe
from graft.precompute import compute_features, example_of
from graft.processes import at_once, cores, is_first, say
from graft.results.publish import announce, publish, told_how_it_ends
from graft.results.rate_search import PLOT, recorded_rate, write_rate_search
from graft.resumable import shared
from graft.step_tuning import with_fastest_step
from graft.stopping import StopSignals
from graft.transfer import inject
from graft.transfer.teacher import build_teacher
from graft.transfer.verify import verify


def run(
    config: Config,
    folder: Path,
    overrides: Sequence[str],
    signals: StopSignals | None = None,
    watcher: Watcher | None = None,
    inputs: Inputs | None = None,
) -> float | None:
    """Carries out one run and returns the monitored figure.

    Args:
        signals: in force; one that comes ends the run in good order.
        watcher: of a trial that may be stopped early; it is asked after each epoch.
        inputs: where images and donor come from, if runs of this process share them.

    Raises:
        InputError: config, data or donor are wrong; nothing was started.
        RunFailed: it began and could not be finished.
        Stopped: a signal came; the same command in the same folder goes on.
    """
    with threads(config.trainer.threads or (cores() if at_once() > 1 else None)):
        try:
            return _run(config, folder, overrides, signals, watcher, inputs or Inputs())
        except torch.OutOfMemoryError as error:  # in training, smaller batches have been tried
            raise RunFailed(f"the device ran out of memory ({said(error)}); try a smaller data.batch_size") from error


def _run(
    config: Config,
    folder: Path,
    overrides: Sequence[str],
    signals: StopSignals | None,
    watcher: Watcher | None,
    inputs: Inputs,
) -> float | None:
    clock = Clock()
    _check_writable(folder)
    with clock("data"):
        table = inputs.table(config)
    with clock("plan"):
        config = with_batch_size(config, table, folder, say)
        plan = make_plan(config, table, lambda: inputs.donor(config))
    if is_first():
        write_json(folder / "plan.json", plan.to_dict())
    say(describe(plan))
    if config.mode is Mode.plan:
        return None
    hardware(config.trainer)  # what this machine lacks is said before anything starts
    with clock("build"):
        network = with_values(plan.network, config.seed)
    with clock("transfer"), inputs.donor(config) as donor:
        inject(plan.ledger, donor, network.module)
        if config.donor.verify:
            proof = verify(config, plan.ledger, donor, network)
            say(f"verified  {proof}")
        teacher = build_teacher(config, plan.teacher, donor) if plan.teacher else None
    if is_first():
        write_json(folder / "transfer.json", plan.ledger.to_dict())
    injected = _before_training(plan, network)
    if plan.lora:
        add_lora(network.module, plan.lora, config.method, seed=config.seed + 2)
    data = DataModule(
        table,
        config.data,
        config.augment,
        network.preprocess,
        seed=config.seed,
        cache=config.cache,
        fewest=plan.fewest,
        say=say,
    )
    with clock("cache"):
        features = compute_features(plan, network, data)

    def tuning(plan: Plan) -> FineTuning:
        return tuning_of(plan, network, features.behind, teacher)

    plan = _try_out(plan, tuning, data, folder, clock)
    loggers = make_loggers(config.logger, folder)
    announce(loggers, plan.config, plan.ledger.summary)
    try:
        with clock("fit"), told_how_it_ends(loggers):
            result = _fine_tune(plan, tuning(plan), data, folder, signals, loggers, watcher)
    except Pruned as pruned:
        return write_pruned(pruned, config.checkpoint, clock, folder)
    if not is_first():
        return result.figures[config.checkpoint.monitor]
    if plan.lora:
        merge(network.module, plan.lora, example_of(network))
    with clock("export"):
        drawn = write_results(plan, network, result, injected, folder, overrides)
    metrics = write_metrics(plan, network, result, drawn, features.computed, clock, folder)
    write_page(folder)
    publish(loggers, folder)
    say(summary(metrics, plan.task.kind, folder))
    if result.frozen_verified is False:
        raise RunFailed(f"frozen tensors moved ({', '.join(result.moved[:5])}); do not trust the weights in {folder}")
    return metrics[config.checkpoint.monitor]


def _before_training(plan: Plan, network: Network) -> dict[str, torch.Tensor]:
    """What drift is measured from. What no phase trains is not copied: that it has not moved, a hash proves."""
    trained = {name for group in plan.groups for name in group.names} | {f"{path}.weight" for path in plan.lora}
    values = {name: value.detach() for name, value in network.module.named_parameters()}
    return {name: value.clone() if name in trained else value for name, value in values.items()}


def _check_writable(folder: Path) -> None:
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another process of the same run may have been quicker
    except OSError as error:
        reason = f"{error.strerror} ({folder})"
        raise InputError(
            f"hydra.run.dir: expected a folder that can be written, received {reason}; try another"
        ) from None


def _fine_tune(
    plan: Plan,
    tuning: FineTuning,
    data: DataModule,
    folder: Path,
    signals: StopSignals | None,
    loggers: Sequence[Logger],
    watcher: Watcher | None,
) -> FitResult:
    config = plan.config
    data.serve(tuning.kept_at)
    return fit(
        tuning, data, folder, trainer=config.trainer, checkpoint=config.checkpoint,
        resume=config.resume, loggers=loggers, signals=signals, watcher=watcher,
    )  # fmt: skip


def tuning_of(
    plan: Plan, network: Network, behind: Mapping[str, torch.nn.Module], teacher: torch.nn.Module | None
) -> FineTuning:
    config = plan.config
    return FineTuning(
        network.module, network.stages, schedule=plan.schedule, optimizer=config.optimizer, scheduler=config.scheduler,
        task=plan.task, loss=config.loss, freeze_bn=config.freeze_bn, method=config.method, anchored=plan.anchored,
        teacher=teacher, behind=behind, on_nan=config.trainer.on_nan, engine=runs_engine(config),
        precision=training_precision(config.trainer), shared=shared(plan), seed=config.seed,
    )  # fmt: skip


def _try_out(plan: Plan, tuning: Callable[[Plan], FineTuning], data: DataModule, folder: Path, clock: Clock) -> Plan:
    """The plan with what is to be found out on copies before training."""
    if plan.config.trainer.tune == "auto":
        with clock("tune"):
            plan = with_fastest_step(plan, tuning(plan), data, folder, say)
        if is_first():
            write_json(folder / "plan.json", plan.to_dict())
    if plan.finds_rate:
        with clock("lr_find"):
            plan = _find_rate(plan, tuning, data, folder)
    return plan


def _find_rate(plan: Plan, tuning: Callable[[Plan], FineTuning], data: DataModule, folder: Path) -> Plan:
    """The plan with the rate that a range test suggests, or that the run to go on with found."""
    trainer, checkpoint = plan.config.trainer, find_checkpoint(plan.config.resume, folder, say)
    if checkpoint is not None:
        rate, how = recorded_rate(checkpoint, folder), "found before the run was interrupted"
    else:
        found = range_test(tuning(plan), data.train_dataloader(), trainer)
        write_rate_search(folder, found.to_dict())
        rate, how = found.suggestion, f"found by a range test of {len(found.rates)} steps"
    say(f"rate      optimizer.lr={rate:g}, {how} ({folder / PLOT})")
    plan = plan.with_rate(rate)
    write_json(folder / "plan.json", plan.to_dict())
    return plan
