"""What a user's own code must be accompanied by: rules of rules.py's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graft.config.choices import (
    ClassWeights,
    DataKind,
    DonorKind,
    HeadKind,
    HeadSolver,
    Library,
    LossKind,
    SchedulerKind,
    TaskKind,
    UnfreezeKind,
)
from graft.config.examples import example
from graft.config.faults import Fault
from graft.config.figures import FIGURES, LOSS
from graft.config.import_path import is_found, is_import_path

Values = Mapping[str, Any]


def _image_size(values: Values) -> Iterator[Fault]:
    """Nobody publishes the size of a backbone of one's own."""
    size = values["data.image_size"] or values["backbone.published.preprocess.image_size"]
    if values["backbone.library"] is Library.custom and size is None:
        yield Fault(
            key="data.image_size",
            expected="the side of the network's input with backbone=custom, for which no library publishes one",
            received="nothing",
            remedy="data.image_size=224, or backbone.published.preprocess={image_size: 224, mean: […], std: […]}",
        )


def _published(values: Values) -> Iterator[Fault]:
    """Nor its weights, unless a package of the user's own ships them."""
    pretrained = values["donor.kind"] is DonorKind.pretrained and values["backbone.published.package"] is None
    if values["backbone.library"] is Library.custom and pretrained:
        yield Fault(
            key="donor",
            expected="file, run, keras or none with backbone=custom, for which no library publishes weights",
            received="pretrained",
            remedy="donor=file donor.path=PATH, or donor=none freeze=none",
        )


def _exists(key: str, option: str, kind: Any) -> Callable[[Values], Iterator[Fault]]:
    """A rule on the module that a key names, if the option has this value."""

    def rule(values: Values) -> Iterator[Fault]:
        if values[key] and values[option] is kind and not is_found(values[key]):
            yield from _missing_module(key, values[key])

    return rule


def _missing_module(key: str, path: str) -> Iterator[Fault]:
    yield Fault(
        key=key,
        expected="an import path of a module that exists",
        received=f"{path}, which is neither in {Path.cwd()} nor installed",
        remedy=f"the folder that it lies in, or PYTHONPATH=FOLDER before the command, or {example(key)}",
    )


def _callbacks(values: Values) -> Iterator[Fault]:
    """Each names a class, and only training by steps calls them."""
    remedy = "callbacks={rate: {_target_: lightning.pytorch.callbacks:LearningRateMonitor}}"
    yield from _entries("callbacks", values["callbacks"], remedy)
    if values["callbacks"] and values["head.solver"] is HeadSolver.convex:
        yield Fault(
            key="head.solver",
            expected="auto or sgd with callbacks, which are called at steps of training",
            received="convex",
            remedy="head.solver=auto, or leave callbacks out",
        )


def _loggers(values: Values) -> Iterator[Fault]:
    remedy = "logger.own={csv: {_target_: lightning.pytorch.loggers:CSVLogger}}"
    yield from _entries("logger.own", values["logger.own"], remedy)


def _metrics(values: Values) -> Iterator[Fault]:
    usual = {figure.name for figure in (LOSS, *FIGURES[values["data.task"]])}
    for name, entry in values["metrics"].items():
        target = entry.get("_target_") if isinstance(entry, Mapping) else entry
        if not is_import_path(target) or not is_found(str(target)):
            yield Fault(
                key=f"metrics.{name}",
                expected="an import path, or {_target_: package.module:Class, ARGUMENT: …}, with a module that exists",
                received=repr(entry),
                remedy="metrics={kappa: torchmetrics.classification:MulticlassCohenKappa}",
            )
        if name in usual or not str(name).isidentifier():
            yield Fault(
                key="metrics",
                expected=f"names of letters, digits and underscores other than {', '.join(sorted(usual))}",
                received=repr(name),
                remedy=f"metrics={{my_metric: {target}}}",
            )


def _entries(key: str, entries: Mapping[str, Any], remedy: str) -> Iterator[Fault]:
    """Each names a class."""
    for name, entry in entries.items():
        target = entry.get("_target_") if isinstance(entry, Mapping) else None
        if not is_import_path(target) or not is_found(str(target)):
            yield Fault(
                key=f"{key}.{name}",
                expected="{_target_: package.module:Class, ARGUMENT: …} with a module that exists",
                received=repr(entry),
                remedy=remedy,
            )


def _augmentation(values: Values) -> Iterator[Fault]:
    target = values["augment.target"]
    if target is None:
        if values["augment.name"] == "custom" or values["augment.kwargs"]:
            yield Fault(
                key="augment.target",
                expected="the import path of a class or function, as augment=custom or augment.kwargs was given",
                received="nothing",
                remedy=example("augment.target"),
            )
        return
    if not is_found(target):
        yield from _missing_module("augment.target", target)
    if values["cache.views"]:
        yield Fault(
            key="cache.views",
            expected="0 with augment.target, as what is cached would stay when its code changes",
            received=str(values["cache.views"]),
            remedy="cache=none cache.views=0",
        )


def _loss(values: Values) -> Iterator[Fault]:
    kind, task, target = values["loss.kind"], values["data.task"], values["loss.target"]
    tasks = LOSSES_OF.get(kind, tuple(TaskKind))
    if task not in tasks:
        yield Fault(
            key="loss",
            expected=f"task or custom with data.task={task.value}",
            received=kind.value,
            remedy="loss=task",
        )
    if kind is LossKind.custom and target and not is_found(target):
        yield from _missing_module("loss.target", target)
    if values["loss.weights"] and values["loss.class_weights"] is not ClassWeights.none:
        yield Fault(
            key="loss.weights",
            expected="nothing with loss.class_weights=balanced, which chooses them",
            received=repr(values["loss.weights"]),
            remedy="loss.class_weights=none, or leave loss.weights out",
        )


LOSSES_OF = {
    LossKind.focal: (TaskKind.single_label, TaskKind.multi_label),
    LossKind.logit_adjusted: (TaskKind.single_label,),
}
"""The tasks that a loss is defined for, where not for all."""

OWN_RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("backbone.target", "backbone.library"), _exists("backbone.target", "backbone.library", Library.custom)),
    (("data.target", "data.kind"), _exists("data.target", "data.kind", DataKind.custom)),
    (("head.target", "head.kind"), _exists("head.target", "head.kind", HeadKind.custom)),
    (("loss.kind", "loss.target", "loss.weights", "loss.class_weights", "data.task"), _loss),
    (("augment.target", "augment.kwargs", "augment.name", "cache.views"), _augmentation),
    (("optimizer.target", "optimizer.name"), _exists("optimizer.target", "optimizer.name", "custom")),
    (("scheduler.target", "scheduler.kind"), _exists("scheduler.target", "scheduler.kind", SchedulerKind.custom)),
    (("unfreeze.target", "unfreeze.kind"), _exists("unfreeze.target", "unfreeze.kind", UnfreezeKind.custom)),
    (("callbacks", "head.solver"), _callbacks),
    (("logger.own",), _loggers),
    (("metrics", "data.task"), _metrics),
    (("backbone.library", "data.image_size", "backbone.published.preprocess.image_size"), _image_size),
    (("backbone.library", "donor.kind", "backbone.published.package"), _published),
)
