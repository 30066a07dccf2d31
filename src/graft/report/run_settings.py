"""The settings in which runs differ, and the best run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from graft.config.choices import TaskKind
from graft.config.figures import headline, ranking
from graft.report.record import RunRecord, read_yaml

Settings = dict[str, Any]

# Settings for where and how a run is executed, which do not affect its result.
CIRCUMSTANCES = (
    "cache.", "checkpoint.every_n_steps", "data.num_workers", "logger.", "mode", "resume", "trainer.progress",
    "trainer.threads", "trainer.tune",
)  # fmt: skip


def settings_of(record: RunRecord) -> Settings:
    """config.yaml as a flat mapping of dotted keys to plain values."""
    loaded = read_yaml(record.config, record.folder / ".hydra" / "config.yaml")
    return dict(_flat(cast(Mapping[str, Any], loaded), "")) if isinstance(loaded, dict) else {}


def differing(all_settings: Sequence[Settings]) -> list[str]:
    """The keys whose values differ, in the order of the configs, without `CIRCUMSTANCES`."""
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    return [
        key
        for key in keys
        if not key.startswith(CIRCUMSTANCES) and len({repr(settings.get(key)) for settings in all_settings}) > 1
    ]


def monitored(all_settings: Sequence[Settings], task: TaskKind = TaskKind.single_label) -> tuple[str, str]:
    """(metric, min or max) by which all runs chose their epoch; otherwise the task's headline figure on val."""
    fallback = f"val/{headline(task).name}", headline(task).direction
    monitors = {(settings.get("checkpoint.monitor"), settings.get("checkpoint.direction")) for settings in all_settings}
    metric, direction = monitors.pop() if len(monitors) == 1 else fallback
    return (str(metric), str(direction)) if metric and direction else fallback


def best(records: Sequence[RunRecord], metric: str, direction: str) -> int | None:
    """The index of the best run by a metric, the first if several are equal; None if no run has the metric."""
    ranked = ranking([figure(record, metric) for record in records], direction)
    return ranked[0] if ranked else None


def figure(record: RunRecord, metric: str) -> float | None:
    """A metric of a run; None if it is missing or not finite."""
    value = record.metrics.get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _flat(mapping: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield from _flat(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
