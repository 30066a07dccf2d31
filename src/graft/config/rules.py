"""What keys must be together: what one option requires of another key, and which keys have no effect beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.config.choices import (
    CacheKind,
    DataKind,
    DonorKind,
    HeadKind,
    Library,
    LossKind,
    Resize,
    SchedulerKind,
    Targets,
    TaskKind,
    UnfreezeKind,
)
from graft.config.examples import example, place_of
from graft.config.faults import Fault
from graft.config.keys import schema_keys
from graft.config.rules_cache import cache_faults
from graft.config.rules_data import DATA_RULES
from graft.config.rules_logger import logger_faults
from graft.config.rules_methods import METHOD_RULES
from graft.config.rules_own import OWN_RULES
from graft.config.rules_results import RESULTS_RULES
from graft.config.rules_stages import STAGES_RULES
from graft.config.rules_tasks import TASK_RULES
from graft.config.rules_trainer import TRAINER_RULES
from graft.config.schema import AugmentConfig, CacheConfig, LoggerConfig

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Requires:
    """With one of these kinds, the key must be given."""

    key: str
    option: str
    kinds: tuple[Any, ...]
    what: str


REQUIRES = (
    Requires("donor.path", "donor.kind", (DonorKind.file, DonorKind.keras), "a file"),
    Requires("donor.path", "donor.kind", (DonorKind.run,), "the folder of a run"),
    Requires("data.root", "data.kind", (DataKind.folder,), "a folder"),
    Requires("data.root", "data.kind", (DataKind.csv,), "a file"),
    Requires("data.target", "data.kind", (DataKind.custom,), "the import path of a function that lists the images"),
    Requires("head.target", "head.kind", (HeadKind.custom,), "the import path of a module class"),
    Requires(
        "backbone.target", "backbone.library", (Library.custom,), "the import path of a function that builds a module"
    ),
    Requires("loss.target", "loss.kind", (LossKind.custom,), "the import path of a loss"),
    Requires("optimizer.target", "optimizer.name", ("custom",), "the import path of an optimizer"),
    Requires("scheduler.target", "scheduler.kind", (SchedulerKind.custom,), "the import path of a function"),
    Requires("unfreeze.target", "unfreeze.kind", (UnfreezeKind.custom,), "the import path of a function"),
    Requires("head.hidden", "head.kind", (HeadKind.mlp,), "the width of at least one hidden layer"),
    Requires("unfreeze.table", "unfreeze.kind", (UnfreezeKind.at,), "a table of moment to freeze expression"),
    Requires("donor.table", "donor.match", ("table",), "a table of donor name to target name"),
)


@dataclass(frozen=True, slots=True)
class Matters:
    """The keys have an effect only with one of these kinds."""

    keys: tuple[str, ...]
    option: str
    kinds: tuple[Any, ...]


WITH_DONOR = tuple(kind for kind in DonorKind if kind is not DonorKind.none)

MATTERS = (
    Matters(("donor.path",), "donor.kind", (DonorKind.file, DonorKind.run, DonorKind.keras)),
    Matters(
        tuple(f"donor.{name}" for name in ("sha256", "match", "rename", "skip", "ignore", "adapt", "class_map")),
        "donor.kind",
        WITH_DONOR,
    ),
    Matters(("donor.container", "donor.ema"), "donor.kind", (DonorKind.file, DonorKind.pretrained)),
    Matters(("donor.table",), "donor.match", ("table",)),
    Matters(tuple(key for key in schema_keys() if key.startswith("donor.keras.")), "donor.kind", (DonorKind.keras,)),
    Matters(
        tuple(f"head.{name}" for name in ("hidden", "activation", "norm", "decays", "patience")),
        "head.kind",
        (HeadKind.mlp,),
    ),
    Matters(("head.start",), "head.kind", (HeadKind.linear,)),
    Matters(("head.dropout",), "head.kind", (HeadKind.linear, HeadKind.mlp)),
    Matters(
        ("head.solver",), "head.kind", (HeadKind.linear, HeadKind.stages, HeadKind.auto, HeadKind.mlp, HeadKind.custom)
    ),
    Matters(("head.refit",), "head.kind", (HeadKind.linear, HeadKind.stages, HeadKind.auto)),
    Matters(("head.target", "head.kwargs"), "head.kind", (HeadKind.custom,)),
    Matters(("backbone.target",), "backbone.library", (Library.custom,)),
    Matters(("backbone.drop_path", "backbone.drop_rate"), "backbone.library", (Library.torchvision, Library.timm)),
    Matters(("backbone.published.weights",), "backbone.library", (Library.torchvision, Library.timm)),
    Matters(("loss.gamma",), "loss.kind", (LossKind.focal,)),
    Matters(("loss.tau",), "loss.kind", (LossKind.logit_adjusted,)),
    Matters(("loss.target", "loss.kwargs"), "loss.kind", (LossKind.custom,)),
    Matters(
        ("loss.label_smoothing", "loss.class_weights", "loss.weights"),
        "loss.kind",
        (LossKind.task, LossKind.focal, LossKind.logit_adjusted),
    ),
    Matters(("loss.regression",), "loss.kind", (LossKind.task,)),
    Matters(("loss.weights",), "data.task", (TaskKind.single_label,)),
    Matters(("head.pool", "head.taps"), "head.kind", (HeadKind.stages, HeadKind.auto)),
    Matters(("unfreeze.every",), "unfreeze.kind", (UnfreezeKind.gradual,)),
    Matters(("unfreeze.start",), "unfreeze.kind", (UnfreezeKind.gradual, UnfreezeKind.lp_ft)),
    Matters(("unfreeze.table",), "unfreeze.kind", (UnfreezeKind.at,)),
    Matters(("unfreeze.target", "unfreeze.kwargs"), "unfreeze.kind", (UnfreezeKind.custom,)),
    Matters(("optimizer.target",), "optimizer.name", ("custom",)),
    Matters(("unfreeze.patience", "unfreeze.min_delta"), "unfreeze.kind", (UnfreezeKind.plateau,)),
    Matters(
        ("unfreeze.warmup", "unfreeze.phase_factors"),
        "unfreeze.kind",
        tuple(kind for kind in UnfreezeKind if kind is not UnfreezeKind.never),
    ),
    Matters(("scheduler.min_factor",), "scheduler.kind", (SchedulerKind.cosine,)),
    Matters(
        ("scheduler.peak_at", "scheduler.start_factor", "scheduler.end_factor"),
        "scheduler.kind",
        (SchedulerKind.one_cycle,),
    ),
    Matters(
        ("scheduler.warmup",),
        "scheduler.kind",
        tuple(kind for kind in SchedulerKind if kind is not SchedulerKind.one_cycle),
    ),
    Matters(("scheduler.target", "scheduler.kwargs"), "scheduler.kind", (SchedulerKind.custom,)),
    Matters(("scheduler.every", "scheduler.gamma"), "scheduler.kind", (SchedulerKind.step,)),
    Matters(("data.root", "data.test_fraction"), "data.kind", (DataKind.folder, DataKind.csv, DataKind.custom)),
    Matters(("data.target", "data.kwargs"), "data.kind", (DataKind.custom,)),
    Matters(("data.train", "data.val", "data.test"), "data.kind", (DataKind.folder,)),
    Matters(("data.targets", "data.balanced"), "data.task", (TaskKind.single_label,)),
    Matters(
        ("loss.label_smoothing", "loss.class_weights", "donor.class_map"),
        "data.task",
        (TaskKind.single_label, TaskKind.multi_label),
    ),
    Matters(("data.separator",), "data.task", (TaskKind.multi_label,)),
    Matters(("data.columns", "loss.regression"), "data.task", (TaskKind.regression,)),
    Matters(("data.columns",), "data.kind", (DataKind.csv, DataKind.custom)),
    Matters(("cache.dir", "cache.max_gb"), "cache.kind", (CacheKind.auto, CacheKind.features, CacheKind.images)),
    Matters(("cache.dtype",), "cache.kind", (CacheKind.auto, CacheKind.features)),
)


def clashes(values: Values) -> list[Fault]:
    """Faults between keys; a key that has a fault of its own is not in `values`, and nothing is said of it here."""
    faults = [*_required(values), *_without_effect(values)]
    for keys, rule in RULES:
        if all(key in values for key in keys):
            faults.extend(rule(values))
    return faults


def _word(kind: Any) -> str:
    return str(getattr(kind, "value", kind))


def _choice(option: str, kind: Any) -> str:
    """donor.kind and file are written donor=file; donor.match stays as it is."""
    return f"{option.removesuffix('.kind').removesuffix('.library')}={_word(kind)}"


def _required(values: Values) -> Iterator[Fault]:
    for rule in REQUIRES:
        if rule.key not in values or values.get(rule.option) not in rule.kinds or values[rule.key]:
            continue
        yield Fault(
            key=rule.key,
            expected=f"{rule.what} with {_choice(rule.option, values[rule.option])}",
            received="nothing",
            remedy=example(rule.key),
        )


def _without_effect(values: Values) -> Iterator[Fault]:
    for rule in MATTERS:
        if rule.option not in values or values[rule.option] in rule.kinds:
            continue
        now = _choice(rule.option, values[rule.option])
        needed = " or ".join(_choice(rule.option, kind) for kind in rule.kinds)
        for key in rule.keys:
            if key in values and values[key] != schema_keys()[key].default:
                yield Fault(
                    key=key,
                    expected=f"nothing with {now}, where it has no effect",
                    received=repr(_plain(values[key])),
                    remedy=f"{needed}, or leave {key} out",
                )


def _plain(value: Any) -> Any:
    return _word(value) if hasattr(value, "value") else value


def _donor_exists(values: Values) -> Iterator[Fault]:
    path, kind = values["donor.path"], values["donor.kind"]
    if path and kind in (DonorKind.file, DonorKind.run, DonorKind.keras):
        yield from _missing("donor.path", path, "a run's folder" if kind is DonorKind.run else "a file")


def _data_exist(values: Values) -> Iterator[Fault]:
    path, kind = values["data.root"], values["data.kind"]
    if not path or kind is DataKind.solar_cells:
        return
    is_folder = kind is not DataKind.csv
    wanted = "a folder" if is_folder else "a file"
    yield from _missing("data.root", path, wanted)
    place = Path(path).expanduser()
    if place.exists() and place.is_dir() != is_folder:
        other = DataKind.folder if place.is_dir() else DataKind.csv
        received = f"the {'folder' if place.is_dir() else 'file'} {path}"
        yield Fault(
            key="data.root",
            expected=f"{wanted} with data={kind.value}",
            received=received,
            remedy=f"data={other.value}",
        )


def _missing(key: str, path: str, wanted: str) -> Iterator[Fault]:
    place = place_of(path) if key == "donor.path" else Path(path).expanduser()
    if place is not None and not place.exists():
        where = "" if place.is_absolute() else f" below {Path.cwd()}"
        yield Fault(
            key=key,
            expected=f"{wanted} that exists",
            received=f"{path}, which does not exist{where}",
            remedy=example(key),
        )


def _soft_targets(values: Values) -> Iterator[Fault]:
    if values["data.targets"] is Targets.soft and values["data.kind"] is DataKind.folder:
        yield Fault(
            key="data.targets",
            expected="hard with data=folder, where an image's class is certain",
            received="soft",
            remedy="data.targets=hard, or loss.label_smoothing=0.1",
        )


def _random_features(values: Values) -> Iterator[Fault]:
    frozen_for_ever = values["unfreeze.kind"] is UnfreezeKind.never and values["freeze"] not in ("none", [])
    if values["donor.kind"] is DonorKind.none and frozen_for_ever:
        yield Fault(
            key="freeze",
            expected="none with donor=none: what no donor filled is random and would stay so for ever",
            received=repr(values["freeze"]),
            remedy="freeze=none, or another donor",
        )


def _nothing_to_thaw(values: Values) -> Iterator[Fault]:
    kind = values["unfreeze.kind"]
    if kind in (UnfreezeKind.gradual, UnfreezeKind.plateau) and values["freeze"] in ("none", []):
        yield Fault(
            key="unfreeze",
            expected="never with freeze=none, where nothing is left to thaw",
            received=kind.value,
            remedy="freeze=backbone, or unfreeze=never",
        )


def _verifiable(values: Values) -> Iterator[Fault]:
    kind = values["donor.kind"]
    if values["donor.verify"] and kind is DonorKind.none:
        yield Fault(
            key="donor.verify",
            expected="false with donor=none, which fills nothing",
            received="true",
            remedy="donor.verify=false",
        )


def _uncropped(values: Values) -> Iterator[Fault]:
    """1, which presets set, says what the other ways of resizing do anyway."""
    resize, fraction = values["data.resize"], values["data.crop_fraction"]
    if resize is not Resize.crop and fraction not in (None, 1.0):
        yield Fault(
            key="data.crop_fraction",
            expected=f"1 with {_choice('data.resize', resize)}, which keeps the whole image",
            received=f"{fraction}",
            remedy="data.resize=crop",
        )


def _everything_held_out(values: Values) -> Iterator[Fault]:
    if values["data.val_fraction"] + values["data.test_fraction"] >= 1:
        yield Fault(
            key="data.test_fraction",
            expected="less than 1 together with data.val_fraction, so that images are left to train on",
            received=f"{values['data.val_fraction']} + {values['data.test_fraction']}",
        )


def _caching(values: Values) -> Iterator[Fault]:
    cache = CacheConfig(**_section(values, "cache."))
    yield from cache_faults(cache, AugmentConfig(**_section(values, "augment.")))


def _loggers(values: Values) -> Iterator[Fault]:
    yield from logger_faults(LoggerConfig(**_section(values, "logger.")))


def _section(values: Values, prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("donor.path", "donor.kind"), _donor_exists),
    (("donor.verify", "donor.kind"), _verifiable),
    (("data.root", "data.kind"), _data_exist),
    (("data.targets", "data.kind"), _soft_targets),
    (("donor.kind", "unfreeze.kind", "freeze"), _random_features),
    (("unfreeze.kind", "freeze"), _nothing_to_thaw),
    (("data.resize", "data.crop_fraction"), _uncropped),
    (("data.val_fraction", "data.test_fraction"), _everything_held_out),
    (tuple(key for key in schema_keys() if key.startswith(("cache.", "augment."))), _caching),
    (tuple(key for key in schema_keys() if key.startswith("logger.")), _loggers),
    *DATA_RULES,
    *OWN_RULES,
    *METHOD_RULES,
    *RESULTS_RULES,
    *STAGES_RULES,
    *TASK_RULES,
    *TRAINER_RULES,
)
