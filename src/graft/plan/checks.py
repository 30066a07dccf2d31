"""Checks between config, data and donor that refuse a plan, and remarks on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graft.config.faults import InputError
from graft.config.schema import FreezeBatchNorm
from graft.data.table import Table
from graft.finetune.freeze import Frozen, statistics
from graft.models.network import Network
from graft.results.left_out import in_words, left_out, undefined
from graft.transfer import Ledger, Verdict

SHOWN_NAMES = 5


def check_monitor(monitor: str, table: Table) -> None:
    """Raises InputError if the monitored metric is undefined on the validation images."""
    truth = np.array(table.labels_of("val"))
    if monitor in undefined("val", truth, table.classes, table.task):
        gaps = "; ".join(in_words(left_out("val", truth, table.classes, table.task), table.task))
        raise InputError(
            f"checkpoint.monitor: expected a figure that the validation images define, received {monitor} of"
            f" {len(truth)} images ({gaps}); try checkpoint.monitor=val/loss, or other validation images"
        )


def check_not_random(ledger: Ledger, never_trained: frozenset[str]) -> None:
    """Refuses random weights that stay frozen forever, which would otherwise train without any complaint (law 2).

    Integers (batch counters, index tables) are not initialised at random and are no reason to refuse.

    Raises:
        InputError: there are such weights.
    """
    random = [
        entry.target
        for entry in ledger.tensors
        if entry.target in never_trained and entry.verdict is Verdict.initialized and entry.info.is_floating
    ]
    if random:
        shown = ", ".join(random[:SHOWN_NAMES]) + (
            f" and {len(random) - SHOWN_NAMES} more" if random[SHOWN_NAMES:] else ""
        )
        raise InputError(
            f"freeze: expected frozen weights to come from a donor, received {len(random)} random tensors that no phase"
            f" would train ({shown}); try freeze=none, or a donor that fills them"
        )


def altered_layers(network: Network) -> list[str]:
    """Remarks that the library's own model computes something else with these weights."""
    altered = network.build.get("altered", {})
    shown = ", ".join(f"{path} {settings}" for path, settings in list(altered.items())[:2])
    return [
        f"{len(altered)} layers are not set as {network.build['library']}'s {network.build['name']} has them ({shown}"
        ", …), so that one would compute something else with these weights"
    ] * bool(altered)


def norm_policy(freeze_bn: FreezeBatchNorm, network: Network, states: Sequence[Frozen]) -> list[str]:
    """Remarks on effects of freeze_bn that a user might not expect, or on its having no effect."""
    norms = statistics(network.module, but=network.stages.heads)
    frozen = norms & frozenset[str]().union(*(state.names for state in states))
    match freeze_bn:
        case FreezeBatchNorm.none if frozen:
            return [f"freeze_bn=none: {len(frozen)} batch-norm statistics of frozen stages move with the batches"]
        case FreezeBatchNorm.none:
            return ["freeze_bn=none has no effect: what is frozen has no batch-norm"]
        case FreezeBatchNorm.all if not norms:
            return ["freeze_bn=all has no effect: the backbone has no batch-norm"]
        case _:
            return []
