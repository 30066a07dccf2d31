"""Decides whether a head is solved on the donor's features before the trunk trains too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from graft.config.choices import DonorKind, HeadKind, HeadStart, UnfreezeKind
from graft.config.faults import InputError
from graft.config.schema import FreezingConfig, NetworkConfig
from graft.models.heads import DropoutLinear
from graft.models.network import Network


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How the head is initialised."""

    solved: bool
    """Whether it is solved on the trunk's features right after the transfer, of training images without
    augmentation."""
    reason: str
    """Why it is not solved although this was requested."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_start(config: NetworkConfig, freezing: FreezingConfig, network: Network) -> StartPlan:
    """Solved if head.start asks for it; with auto, if unfreeze=lp_ft asks for it and nothing prevents it.

    Raises:
        InputError: head.start=solved, but the head cannot be solved.
    """
    start = config.head.start
    if start is HeadStart.random:
        return StartPlan(solved=False, reason="head.start=random")
    if start is HeadStart.auto and freezing.unfreeze.kind is not UnfreezeKind.lp_ft:
        return StartPlan(solved=False, reason="")
    obstacle = next(_obstacles(config, freezing, network), "")
    if obstacle and start is HeadStart.solved:
        raise InputError(
            f"head.start: expected a new linear head on a trunk that a donor filled and that trains, received"
            f" {obstacle}; try head.start=auto"
        )
    return StartPlan(solved=not obstacle, reason=obstacle)


def _obstacles(config: NetworkConfig, freezing: FreezingConfig, network: Network) -> Iterator[str]:
    last = network.module.get_submodule(network.stages.head)
    if config.head.kind is not HeadKind.linear:
        yield f"head={config.head.kind.value}"
    if config.donor.kind is DonorKind.none:
        yield "donor=none"
    if config.donor.class_map:
        yield "donor.class_map, whose rows the head begins with"
    if len(network.stages.heads) > 1:
        yield f"{len(network.stages.heads)} last layers"
    if type(last) not in (torch.nn.Linear, DropoutLinear):
        yield f"a {type(last).__name__} for the last layer"
    stays = freezing.freeze == "backbone" and freezing.unfreeze.kind is UnfreezeKind.never
    if stays and freezing.method.lora is None:
        yield "freeze=backbone, with which the head is all that trains"
