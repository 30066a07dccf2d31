"""The pipeline, from typed values to resulting weights. Read top to bottom, it is what graft does."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from graft.batch_size import with_batch_size
from graft.clock import Clock
from graft.config.choices import CacheKind, Mode
from graft.config.faults import InputError, RunFailed
from graft.config.schema import CheckpointConfig, Config
from graft.data.cache import FeatureCache
from graft.data.cache_folder import CacheFolder
from graft.data.datamodule import DataModule
from graft.data.features import FeatureDataset, as_batched
from graft.data.ingredients import Ingredients
from graft.data.table import PARTS
from graft.files import write_json
from graft.finetune.callbacks import best_row
from graft.finetune.fit import FitResult, fit
from graft.finetune.freeze import unmoving
from graft.finetune.loggers import make_loggers
from graft.finetune.lora import add_lora, merge, plain_name
from graft.finetune.module import FineTuning
from graft.finetune.pruning import Pruned, Watcher
from graft.finetune.range_test import range_test
from graft.finetune.resume import find_checkpoint
from graft.inputs import Inputs
from graft.models.cut import split
from graft.models.inference import engine
from graft.models.network import Network, build_network
from graft.plan import Plan, make_plan
from graft.plan_text import describe, size
from graft.processes import is_first
from graft.results.drift import drift, write_drift
from graft.results.export import export
from graft.results.intervals import intervals
from graft.results.predictions import write_predictions
from graft.results.publish import announce, publish
from graft.results.rate_search import PLOT, recorded_rate, write_rate_search
from graft.results.report import write_report
from graft.stopping import StopSignals
from graft.transfer import inject
from graft.transfer.donors.licence import licence_of
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
    clock, inputs = Clock(), inputs or Inputs()
    _check_writable(folder)
    with clock("data"):
        table = inputs.table(config.data)
    with clock("plan"):
        config = with_batch_size(config, table, folder, say)
        plan = make_plan(config, table, lambda: inputs.donor(config))
    if is_first():
        write_json(folder / "plan.json", plan.to_dict())
    say(describe(plan))
    if config.mode is Mode.plan:
        return None
    with clock("build"):
        network = build_network(
            config.backbone, config.head, num_classes=len(table.classes), channels=config.data.channels,
            image_size=config.data.image_size, crop_fraction=config.data.crop_fraction, seed=config.seed,
        )  # fmt: skip
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
        table, config.data, config.augment, network.preprocess, seed=config.seed, cache=config.cache, say=say
    )
    with clock("cache"):
        trained = _compute_features(plan, network, data)
    if plan.finds_rate:
        with clock("lr_find"):
            plan = _find_rate(plan, network, data, trained, teacher, folder)
    loggers = make_loggers(config.logger, folder)
    announce(loggers, plan.config, plan.ledger.summary)
    try:
        with clock("fit"):
            result = _fine_tune(plan, network, data, trained, teacher, folder, signals, loggers, watcher)
    except Pruned as pruned:
        return _write_pruned(pruned, config.checkpoint, clock, folder)
    if not is_first():
        return result.metrics.get(config.checkpoint.monitor)
    if plan.lora:
        merge(network.module, plan.lora, _example(network))
    with clock("export"):
        _write_results(plan, network, result, injected, folder, overrides)
    metrics = _write_metrics(plan, network, result, clock, folder)
    _write_report(folder)
    publish(loggers, folder)
    say(_summary(metrics, folder))
    if result.frozen_verified is False:
        raise RunFailed(f"frozen tensors moved ({', '.join(result.moved[:5])}); do not trust the weights in {folder}")
    return metrics[config.checkpoint.monitor]


def _before_training(plan: Plan, network: Network) -> dict[str, torch.Tensor]:
    """What drift is measured from. What no phase trains is not copied: that it has not moved, a hash proves."""
    trained = {name for group in plan.groups for name in group.names} | {f"{path}.weight" for path in plan.lora}
    values = {name: value.detach() for name, value in network.module.named_parameters()}
    return {name: value.clone() if name in trained else value for name, value in values.items()}


def say(line: str) -> None:
    if is_first():
        print(line, flush=True)


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


def _compute_features(plan: Plan, network: Network, data: DataModule) -> torch.nn.Module | None:
    """Where the plan has a cut: the frozen prefix's output of every image, and the part of the network behind it."""
    config, cut = plan.config, plan.cache.cut
    if cut is None:
        return None
    try:
        features, rest = _features_after(cut, plan, network, data)
    except InputError as reason:
        if config.cache.kind is not CacheKind.auto:
            raise
        say(f"cache     none after all: {reason}")
        return None
    data.use_stored(features, as_batched)
    return rest


def _features_after(
    cut: str, plan: Plan, network: Network, data: DataModule
) -> tuple[dict[str, FeatureDataset], torch.nn.Module]:
    config = plan.config
    prefix, rest = split(network.module, network.stages, cut, example=_example(network))  # proves the cut on it
    device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    fast = engine(prefix, device=device)
    parts = {
        name: data.images(name, augmented=name == "train" and config.cache.views > 0)
        for name in PARTS
        if plan.table.part(name)
    }
    ingredients = Ingredients.of(
        prefix, network, cut=cut, cache=config.cache, augment=config.augment, seed=config.seed, engine=fast.description
    )
    cache = FeatureCache(
        CacheFolder(config.cache.dir, max_gb=config.cache.max_gb, say=say),
        batch_size=config.data.batch_size,
        num_workers=data.workers(len(plan.table.train)),
        progress=_progress(f"features after {cut}, {size(plan.cache.size)}"),
    )
    return cache.build(fast, parts, ingredients, device=device, channels_last=config.trainer.channels_last), rest


def _example(network: Network) -> torch.Tensor:
    """Two images of noise [2, C, S, S], always the same."""
    preprocess = network.preprocess
    shape = (2, len(preprocess.mean), preprocess.image_size, preprocess.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _progress(what: str):
    """A line that counts up, where somebody watches."""

    def told(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{what}: {done:,} of {of:,} images", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return told


def _fine_tune(
    plan: Plan,
    network: Network,
    data: DataModule,
    trained: torch.nn.Module | None,
    teacher: torch.nn.Module | None,
    folder: Path,
    signals: StopSignals | None,
    loggers: Sequence[Logger],
    watcher: Watcher | None,
) -> FitResult:
    config = plan.config
    return fit(
        _tuning(plan, network, trained, teacher), data, folder, trainer=config.trainer, checkpoint=config.checkpoint,
        resume=config.resume, loggers=loggers, signals=signals, watcher=watcher,
    )  # fmt: skip


def _tuning(
    plan: Plan, network: Network, trained: torch.nn.Module | None, teacher: torch.nn.Module | None
) -> FineTuning:
    config, table = plan.config, plan.table
    return FineTuning(
        network.module, network.stages, schedule=plan.schedule, optimizer=config.optimizer, scheduler=config.scheduler,
        classes=len(table.classes), loss=config.loss, freeze_bn=config.freeze_bn, class_counts=table.counts("train"),
        method=config.method, anchored=plan.anchored, teacher=teacher, trained=trained, on_nan=config.trainer.on_nan,
        seed=config.seed,
    )  # fmt: skip


def _find_rate(
    plan: Plan,
    network: Network,
    data: DataModule,
    trained: torch.nn.Module | None,
    teacher: torch.nn.Module | None,
    folder: Path,
) -> Plan:
    """The plan with the rate that a range test suggests, or that the run to go on with found."""
    trainer, checkpoint = plan.config.trainer, find_checkpoint(plan.config.resume, folder, say)
    if checkpoint is not None:
        rate, how = recorded_rate(checkpoint, folder), "found before the run was interrupted"
    else:
        if trainer.threads:
            torch.set_num_threads(trainer.threads)
        found = range_test(_tuning(plan, network, trained, teacher), data.train_dataloader(), trainer)
        write_rate_search(folder, found.to_dict())
        rate, how = found.suggestion, f"found by a range test of {len(found.rates)} steps"
    say(f"rate      optimizer.lr={rate:g}, {how} ({folder / PLOT})")
    plan = plan.with_rate(rate)
    write_json(folder / "plan.json", plan.to_dict())
    return plan


def _write_results(
    plan: Plan,
    network: Network,
    result: FitResult,
    injected: dict[str, torch.Tensor],
    folder: Path,
    overrides: Sequence[str],
) -> None:
    config, table = plan.config, plan.table
    spans: dict[str, dict[str, Any]] = {}
    for part, outputs in result.outputs.items():
        samples = [table.part(part)[index] for index in outputs.index.tolist()]
        write_predictions(
            folder, part, [sample.path for sample in samples], outputs.label.tolist(), outputs.probabilities.tolist(),
            classes=table.classes,
        )  # fmt: skip
        for name, interval in intervals(outputs.probabilities.double().numpy(), outputs.label.numpy()).items():
            if isfinite(interval.low):  # a metric can be undefined in every resample; JSON has no word for that
                spans[f"{part}/{name}"] = asdict(interval)
    after = dict(network.module.named_parameters())
    write_drift(folder, drift(injected, after, network.stages.stage_of))
    frozen = (unmoving(network.module, phase.frozen, config.freeze_bn) for phase in result.phases)
    never = {plain_name(name) for name in frozenset[str].intersection(*frozen)}
    export(
        network,
        folder / "model",
        classes=table.classes,
        donor={**plan.ledger.donor, "licence": licence_of(config)},
        freeze={
            "expression": config.freeze,
            "unfreeze": config.unfreeze.kind.value,
            "frozen_statistics_moved": len(result.moved_statistics),
            "phases": [phase.to_dict() for phase in result.phases],
            "verified": result.frozen_verified,
            "methods": list(plan.methods),
        },
        ledger=plan.ledger.to_dict(),
        frozen=never - {f"{path}.weight" for path in plan.lora},
        data={"kind": config.data.kind.value, **table.summary()},
        metrics=result.metrics,
        intervals=spans,
        command=shlex.join(["python", "train.py", *overrides]),
    )


def _write_metrics(plan: Plan, network: Network, result: FitResult, clock: Clock, folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        **result.metrics,
        "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
        "train/seconds": result.seconds,
        "train/images_per_second": result.images_per_second,
        "frozen_verified": result.frozen_verified,
        "frozen_statistics_moved": len(result.moved_statistics),
        "phases": [phase.to_dict() for phase in result.phases],
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "lr": plan.config.optimizer.lr,
        "lr_found": plan.rate_found,
        "steps": result.steps,
        "batch_size": result.batch_size,
        "accumulate": result.accumulate,
        "steps_skipped": result.steps_skipped,
        "confusion": result.confusion,
        "profile": {name: round(share, 4) for name, share in result.profile.items()},
        "seconds": clock.seconds,
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def _write_pruned(pruned: Pruned, checkpoint: CheckpointConfig, clock: Clock, folder: Path) -> float:
    """A trial that was stopped early leaves its figures and no model."""
    best = best_row(pruned.history, checkpoint)
    if is_first():
        figures = {name: value for name, value in best.items() if "/" in name}
        told = {**figures, "pruned": True, "epochs": len(pruned.history), "seconds": clock.seconds}
        write_json(folder / "metrics.json", told)
    say(f"\n{pruned}\nrun: {folder}")
    return best[checkpoint.monitor]


def _write_report(folder: Path) -> None:
    try:
        write_report(folder)
    except (InputError, OSError) as error:
        print(f"report.html was not written: {error}", file=sys.stderr)


def _summary(metrics: dict[str, Any], folder: Path) -> str:
    part = "test" if "test/accuracy" in metrics else "val"
    figures = ", ".join(
        f"{name} {metrics[f'{part}/{name}']:.4f}" for name in ("accuracy", "f1", "auroc") if f"{part}/{name}" in metrics
    )
    frozen = {True: "frozen tensors verified", False: "FROZEN TENSORS MOVED", None: "nothing was frozen"}
    return (
        f"\n{part}: {figures}\n"
        f"best epoch {metrics['best_epoch'] + 1} of {metrics['epochs']}, {metrics['train/seconds']:.1f} s of training;"
        f" {frozen[metrics['frozen_verified']]}{_statistics(metrics['frozen_statistics_moved'])}\nrun: {folder}"
    )


def _statistics(moved: int) -> str:
    return f", but for {moved} batch-norm statistics that moved, as freeze_bn=none lets them" if moved else ""
