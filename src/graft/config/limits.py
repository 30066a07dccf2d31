"""What a value must be beyond its type, key by key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graft.config.choices import AUTO, FIND
from graft.config.duration import FORMS, parse_duration
from graft.config.examples import example
from graft.config.faults import Fault, InputError, nearest
from graft.config.import_path import FORM, is_import_path
from graft.config.keys import schema_keys

POOLS = {"mean", "std", "max"}
LOCAL_FOLDER = "a folder of this machine (that of a mounted bucket, say)"


@dataclass(frozen=True, slots=True)
class Limit:
    expected: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    """Where the words are closed, for the nearest one."""


def at_least(least: int, unit: str = "") -> Limit:
    return Limit(f"a whole number{unit and ' of '}{unit} from {least} upward", lambda value: value >= least)


def between(low: float, high: float, *, opening: str = "[", closing: str = "]") -> Limit:
    """An interval as mathematicians write it: a round bracket leaves its end out."""

    def holds(value: float) -> bool:
        above = value > low if opening == "(" else value >= low
        below = value < high if closing == ")" else value <= high
        return above and below

    if high == math.inf:
        return Limit(
            f"a finite number {'above' if opening == '(' else 'from'} {low:g}{'' if opening == '(' else ' upward'}",
            holds,
        )
    low_words = "more than" if opening == "(" else "at least"
    high_words = "less than" if closing == ")" else "at most"
    return Limit(f"a number {low_words} {low:g} and {high_words} {high:g}", holds)


def is_url(text: str) -> bool:
    """s3://bucket/runs: an address, of which a folder of that name would be made."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE))


def one_of(*choices: str) -> Limit:
    return Limit(f"one of {', '.join(choices)}", lambda value: value in choices, choices)


def each(limit: Limit) -> Limit:
    """Every entry of a list, or every value of a mapping."""

    def entries(value: Any) -> Iterable[Any]:
        return value.values() if isinstance(value, Mapping) else value

    return Limit(f"for each entry {limit.expected}", lambda value: all(limit.holds(entry) for entry in entries(value)))


def is_duration(value: Any) -> bool:
    try:
        parse_duration(value)
    except InputError:
        return False
    return True


def is_positive_duration(value: Any) -> bool:
    return is_duration(value) and parse_duration(value).amount > 0


def is_rename_rule(pair: Any) -> bool:
    """A pattern that compiles, and a replacement that names only groups the pattern has."""
    if len(pair) != 2:
        return False
    pattern, replacement = pair
    try:
        compiled = re.compile(pattern)
    except re.error:
        return False
    groups = re.findall(r"\\(?:g<(\w+)>|([1-9]\d?))", replacement)
    references = {str(number) for number in range(compiled.groups + 1)} | set(compiled.groupindex)
    return all((name or number) in references for name, number in groups)


def is_freeze(value: Any) -> bool:
    listed = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    return listed or (isinstance(value, str) and bool(value.strip()))


def is_batch_size(value: Any) -> bool:
    return value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def is_crop_scale(value: Any) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= 1


positive = between(0, math.inf, opening="(", closing=")")
not_negative = between(0, math.inf, closing=")")
share = between(0, 1)
share_below_one = between(0, 1, closing=")")
share_above_zero = between(0, 1, opening="(")
rename = Limit(
    "[pattern, replacement] pairs: a regular expression, and text that refers to none but its groups",
    lambda value: all(is_rename_rule(pair) for pair in value),
)
duration = Limit(FORMS, is_duration)
positive_duration = Limit(f"more than nothing, as {FORMS}", is_positive_duration)
import_path = Limit(FORM, is_import_path)
freeze = Limit(
    "a stage expression (none, backbone, layer3, layer1-3, joined by +) or a list of name prefixes", is_freeze
)

_OF_KEYS: dict[str, Limit] = {
    "seed": Limit("a whole number from 0 to 4294967295", lambda value: 0 <= value < 2**32),
    "backbone.target": import_path,
    "backbone.published.rename": rename,
    "backbone.published.preprocess.image_size": at_least(16, "pixels"),
    "backbone.published.preprocess.crop_fraction": share_above_zero,
    "backbone.published.preprocess.std": each(positive),
    "backbone.drop_path": share_below_one,
    "backbone.drop_rate": share_below_one,
    "donor.sha256": Limit("64 hexadecimal digits", lambda value: bool(re.fullmatch(r"[0-9a-fA-F]{64}", value))),
    "donor.rename": rename,
    "donor.keras.epsilon": positive,
    "donor.keras.flatten": each(at_least(0)),
    "head.hidden": each(at_least(1)),
    "head.decays": each(between(0, math.inf, opening="(")),
    "head.patience": at_least(1),
    "head.dropout": share_below_one,
    "head.target": import_path,
    "head.pool": Limit(
        "one or more of mean, std, max, each once",
        lambda value: bool(value) and set(value) <= POOLS and len(set(value)) == len(value),
    ),
    "freeze": freeze,
    "unfreeze.every": positive_duration,
    "unfreeze.start": positive_duration,
    "unfreeze.table": Limit(
        f"moments as {FORMS}, each with {freeze.expected}, as in {{3 epochs: layer1-2, 60%: none}}",
        lambda value: all(is_duration(moment) and is_freeze(stages) for moment, stages in value.items()),
    ),
    "unfreeze.patience": at_least(1, "epochs"),
    "unfreeze.min_delta": not_negative,
    "unfreeze.warmup": duration,
    "unfreeze.phase_factors": each(positive),
    "optimizer.lr": Limit(f"{positive.expected}, or find", lambda value: value == FIND or is_rate(value)),
    "optimizer.weight_decay": not_negative,
    "optimizer.lr_scale": each(positive),
    "optimizer.layer_decay": share_above_zero,
    "scheduler.warmup": duration,
    "scheduler.min_factor": share,
    "scheduler.peak_at": between(0, 1, opening="(", closing=")"),
    "scheduler.start_factor": share_above_zero,
    "scheduler.end_factor": share,
    "scheduler.every": positive_duration,
    "scheduler.gamma": share_above_zero,
    "loss.label_smoothing": share_below_one,
    "loss.gamma": not_negative,
    "loss.tau": positive,
    "loss.target": import_path,
    "optimizer.target": import_path,
    "scheduler.target": import_path,
    "unfreeze.target": import_path,
    "loss.weights": each(positive),
    "method.l2_sp": not_negative,
    "method.distill": not_negative,
    "method.distill_temperature": positive,
    "method.lora": at_least(1),
    "method.lora_alpha": positive,
    "method.ema": between(0, 1, opening="(", closing=")"),
    "data.target": import_path,
    "data.separator": Limit("what stands between two names", bool),
    "data.columns": Limit(
        "names of columns, each once",
        lambda value: all(str(name).strip() for name in value) and len(set(value)) == len(value),
    ),
    "data.folds": at_least(2),
    "data.fold": at_least(0),
    "data.group": Limit("the name of a column, or a regular expression", bool),
    "data.val_fraction": share_below_one,
    "data.test_fraction": share_below_one,
    "data.image_size": at_least(16, "pixels"),
    "data.crop_fraction": share_above_zero,
    "data.channels": at_least(1),
    "data.batch_size": Limit("a whole number from 1 upward, or auto", is_batch_size, ("auto",)),
    "data.num_workers": at_least(0),
    "augment.hflip": share,
    "augment.vflip": share,
    "augment.crop_scale": Limit("[smallest, largest] shares of the area, from above 0 to 1", is_crop_scale),
    "augment.rotate": between(0, 180),
    "augment.jitter": share,
    "augment.erase": share,
    "augment.target": import_path,
    "augment.mixup": not_negative,
    "augment.cutmix": not_negative,
    "cache.dir": Limit(LOCAL_FOLDER, lambda value: not is_url(value)),
    "cache.max_gb": positive,
    "trainer.max_epochs": Limit("a whole number from 1 upward, or auto", is_batch_size, (AUTO,)),
    "trainer.patience": at_least(1),
    "trainer.devices": at_least(1),
    "trainer.num_nodes": at_least(1),
    "trainer.accumulate": at_least(1),
    "trainer.clip_norm": positive,
    "trainer.threads": at_least(1),
    "checkpoint.every_n_steps": at_least(1),
    "checkpoint.monitor": Limit(
        "a metric of the validation or training part (val/loss, val/accuracy, train/loss, …)",
        lambda value: value.startswith(("val/", "train/")),
    ),
    "results.by": Limit(
        "names of columns, each once",
        lambda value: all(str(name).strip() for name in value) and len(set(value)) == len(value),
    ),
    "results.sensitivity": share_above_zero,
    "results.cost": positive,
    "logger.project": Limit("a name", lambda value: bool(value.strip())),
}


def _limits() -> dict[str, Limit]:
    """Those above, and closed words for every key whose type lists some, in the schema's order."""
    limits: dict[str, Limit] = {}
    for key in schema_keys().values():
        if key.name in _OF_KEYS:
            limits[key.name] = _OF_KEYS[key.name]
        elif key.words:
            words = one_of(*key.words)
            limits[key.name] = each(words) if key.is_open or key.is_list else words
    return limits


LIMITS = _limits()


def beyond_limits(values: Mapping[str, Any]) -> list[Fault]:
    """The faults of values, by full key, that have the right type; null passes where its type names it."""
    faults: list[Fault] = []
    for key, limit in LIMITS.items():
        value = values.get(key)
        if key not in values or (value is None and schema_keys()[key].is_nullable) or limit.holds(value):
            continue
        closest = nearest(str(value), limit.choices, count=1)
        remedy = f"{key}={closest[0]}" if closest else example(key)
        faults.append(Fault(key=key, expected=limit.expected, received=repr(value), remedy=remedy))
    return faults
