"""The pipeline, from a config to trained weights. Read from top to bottom, it is what graft does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger

from graft.audit.parts import check_parts
from graft.config.choices import AUTO, Mode
from graft.config.faults import InputError, RunFailed, one_line
from graft.config.schema import Config
from graft.data.datamodule import DataModule
from graft.finetune.callbacks import make_loggers
from graft.finetune.fit_result import BEFORE, FitResult
from graft.finetune.hardware import hardware
from graft.finetune.methods.lora import add_lora, merge
from graft.finetune.module import FineTuning
from graft.finetune.pruning import Pruned, Watcher
from graft.heads.rows import Head
from graft.models.network import Network, with_values
from graft.pipeline.features import Features, compute_features, example_of
from graft.pipeline.folds import check_folds
from graft.pipeline.head_start import never_below, solve_start
from graft.pipeline.inputs import Inputs
from graft.pipeline.judging import check_results, judge
from graft.pipeline.mirrored import with_mirror_images
from graft.pipeline.outcome import summary, write_metrics, write_page, write_pruned, write_results
from graft.pipeline.ownership import owning
from graft.pipeline.references import donor_head
from graft.pipeline.solving import crops_of, solve_head
from graft.pipeline.training import before_training, fine_tune, try_out, tuning_of
from graft.plan.describe import describe
from graft.plan.memory import batch_size_before
from graft.plan.plan import Plan, make_plan
from graft.report.publish import announce, close_on_failure, publish
from graft.sweep.job import check_varied
from graft.system.clock import Clock
from graft.system.files import write_json
from graft.system.machine import threads
from graft.system.processes import at_once, cores, is_first, say
from graft.system.stopping import StopSignals
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
    """Carries out one run and returns the monitored metric.

    Args:
        signals: the active signal handlers; a signal ends the run in an orderly way.
        watcher: for a trial that may be pruned; it is asked after each epoch.
        inputs: the source of images and donor, if the runs of this process share them.

    Raises:
        InputError: config, data or donor are wrong; nothing was started.
        RunFailed: the run started and could not be finished.
        Stopped: a signal arrived; the same command in the same folder resumes the run.
    """
    _check_writable(folder)
    with owning(folder), threads(config.trainer.threads or (cores() if at_once() > 1 else None)):
        try:
            return _run(config, folder, overrides, signals, watcher, inputs or Inputs())
        except torch.OutOfMemoryError as error:  # in training, smaller batches have been tried
            raise RunFailed(
                f"the device ran out of memory ({one_line(error)}); try a smaller data.batch_size"
            ) from error


def _run(
    config: Config,
    folder: Path,
    overrides: Sequence[str],
    signals: StopSignals | None,
    watcher: Watcher | None,
    inputs: Inputs,
) -> float | None:
    clock = Clock()
    with clock("data"):
        table = inputs.table(config)
        check_parts(table, config.data, folder)
        check_results(config.results, table)
    with clock("plan"):
        before = batch_size_before(folder) if config.resume == AUTO else None
        plan = make_plan(config, table, lambda: inputs.donor(config), overrides, batch_size=before)
        config = plan.config
        check_folds(plan)
    if is_first():
        write_json(folder / "plan.json", plan.to_dict())
    say(describe(plan))
    check_varied(plan.solver.without_effect)
    if config.mode is Mode.plan:
        return None
    hardware(config.trainer)  # what this machine lacks is said before anything starts
    with clock("build"):
        network = with_values(plan.network, config.seed)
    with clock("transfer"):
        teacher, own_head = _transfer(plan, network, inputs, folder)
    data = DataModule(
        table, config.data, config.augment, network.preprocess,
        seed=config.seed, cache=config.cache, fewest=plan.fewest, say=say,
    )  # fmt: skip
    with clock("head"):
        start = solve_start(plan, network, data) if plan.start.solved else None
    injected = before_training(plan, network)
    if plan.lora:
        add_lora(network.module, plan.lora, config.method, seed=config.seed + 2)
    with clock("cache"):
        features = compute_features(plan, network, data)
        crops = crops_of(plan, network, features)

    def tuning(plan: Plan) -> FineTuning:
        return tuning_of(plan, network, features.behind, teacher)

    plan, resumption = try_out(plan, tuning, data, folder, clock)
    loggers = make_loggers(config.logger, folder)
    announce(loggers, plan.config, plan.ledger.summary)
    try:
        with clock("fit"), close_on_failure(loggers):
            if crops:
                network, result = solve_head(plan, crops, folder, own_head)
                result = with_mirror_images(plan, network, data, result)
            else:
                result = fine_tune(plan, tuning(plan), data, folder, signals, loggers, watcher, resumption)
    except Pruned as pruned:
        return write_pruned(pruned, config.checkpoint, clock, folder)
    if start is not None:
        result = never_below(plan, start, result)
    if not is_first():
        return result.figures[config.checkpoint.monitor]
    if plan.lora:
        merge(network.module, plan.lora, example_of(network))
    if start is not None and result.best_epoch == BEFORE:
        network.module.load_state_dict(start.state, strict=True)
    return _write(plan, network, result, injected, features, loggers, clock, folder, overrides)


def _transfer(plan: Plan, network: Network, inputs: Inputs, folder: Path) -> tuple[torch.nn.Module | None, Head | None]:
    """Loads the donor's weights into the network. Returns the donor's own network if the plan needs a teacher, and the
    donor's own head if a solved one is to be compared with it."""
    config = plan.config
    with inputs.donor(config) as donor:
        inject(plan.ledger, donor, network.module)
        if config.donor.verify:
            proof = verify(config.network, plan.ledger, donor, network)
            say(f"verified  {proof}")
        teacher = build_teacher(config.network, plan.teacher, donor) if plan.teacher else None
        own_head = donor_head(plan, donor)
    if is_first():
        write_json(folder / "transfer.json", plan.ledger.to_dict())
    return teacher, own_head


def _write(
    plan: Plan,
    network: Network,
    result: FitResult,
    injected: dict[str, torch.Tensor],
    features: Features,
    loggers: Sequence[Logger],
    clock: Clock,
    folder: Path,
    overrides: Sequence[str],
) -> float:
    """Writes the results of the run, and returns the monitored metric."""
    with clock("export"):
        result = judge(plan, result)
        intervals = write_results(plan, network, result, injected, folder, overrides)
    metrics = write_metrics(plan, network, result, intervals, features.computed, clock, folder)
    write_page(folder)
    publish(loggers, folder)
    say(summary(metrics, plan.task.kind, folder, plan.task.own))
    if result.frozen_verified is False:
        raise RunFailed(f"frozen tensors moved ({', '.join(result.moved[:5])}); do not trust the weights in {folder}")
    return metrics[plan.config.checkpoint.monitor]


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
