"""What head=stages cannot be had beside: rules of rules.py's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from graft.config.choices import DonorKind, FreezeBatchNorm, HeadKind, UnfreezeKind
from graft.config.faults import Fault

Values = Mapping[str, Any]


def _frozen_trunk(values: Values) -> Iterator[Fault]:
    """Its network is the trunk in eval mode: nothing under the linear layer may train or move."""
    kind = values["head.kind"]
    if kind not in (HeadKind.stages, HeadKind.auto):
        return
    wanted = f"with head={kind.value}, whose linear layer stands on every block of the backbone"
    moving = {
        "freeze": ("backbone", values["freeze"], values["freeze"] == "backbone"),
        "unfreeze": ("never", values["unfreeze.kind"].value, values["unfreeze.kind"] is UnfreezeKind.never),
        "freeze_bn": ("frozen or all", values["freeze_bn"].value, values["freeze_bn"] is not FreezeBatchNorm.none),
        "method.lora": ("null", str(values["method.lora"]), values["method.lora"] is None),
    }
    for key, (expected, received, holds) in moving.items():
        if not holds:
            usual = expected.split(" ")[0]
            yield Fault(
                key=key,
                expected=f"{expected} {wanted}",
                received=str(received),
                remedy=f"{key}={usual}, or head=linear",
            )


def _other_rows(values: Values) -> Iterator[Fault]:
    """The donor's rows are of its own last layer's features."""
    run = values["donor.kind"] is DonorKind.run
    if values["head.kind"] in (HeadKind.stages, HeadKind.auto) and values["donor.class_map"] is not None and not run:
        yield Fault(
            key="donor.class_map",
            expected="null with head=stages, for which the donor's last layer has no rows",
            received=str(values["donor.class_map"]),
            remedy="head=linear, or leave donor.class_map out",
        )


STAGES_RULES: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[Fault]]], ...] = (
    (("head.kind", "freeze", "unfreeze.kind", "freeze_bn", "method.lora"), _frozen_trunk),
    (("head.kind", "donor.kind", "donor.class_map"), _other_rows),
)
