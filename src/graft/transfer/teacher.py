"""The original donor with its own head, built beside the network as the teacher for distillation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from graft.config.choices import DonorKind, HeadKind, TaskKind
from graft.config.faults import InputError
from graft.config.schema import DonorConfig, HeadConfig, NetworkConfig
from graft.models.network import Network, network_for
from graft.models.stages import covers
from graft.transfer.chosen import OWN_HEAD, rules_for
from graft.transfer.donor import Donor
from graft.transfer.donors.folder import record_of
from graft.transfer.inject import inject
from graft.transfer.ledger import Ledger
from graft.transfer.match import account_donor
from graft.transfer.target import target_of_module


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherPlan:
    """The donor's network on the meta device, and the source of each of its tensors."""

    network: Network
    ledger: Ledger

    @property
    def head(self) -> str:
        """Path of the donor's last layer."""
        return self.network.stages.head


def plan_teacher(config: NetworkConfig, network: Network, ledger: Ledger, donor: Donor) -> TeacherPlan:
    """The donor's network, without values.

    Args:
        ledger: the account of the network's own tensors.

    Raises:
        InputError: the donor does not fill the backbone and its own head, or that head does not fit the trunk.
    """
    _check_classifier(config.donor)
    head = network.stages.head
    if network.stages.heads != (head,) or network.head.get("pool"):
        raise InputError(
            f"method.distill: expected a head in the place of the donor's, received head={config.head.kind.value} of"
            f" {config.backbone.name}, which begins elsewhere; try head=linear"
        )
    classes = _classes(ledger, donor, head)
    own = replace(config, head=HeadConfig(kind=HeadKind.none))
    teacher = network_for(own, classes, device="meta")
    if teacher.stages.heads != (head,):
        raise InputError(
            f"method.distill: expected a head at {teacher.stages.head}, where the donor's is, received one at"
            f" {head}; try head=linear"
        )
    account = account_donor(donor, target_of_module(teacher.module), rules_for(own, teacher, ()))
    empty = [entry.target for entry in account.tensors if not entry.sources]
    if empty:
        raise InputError(
            f"method.distill: expected a donor that fills its whole network, received none for {', '.join(empty[:5])};"
            " try method.distill=0, or fewer donor.skip and donor.ignore"
        )
    return TeacherPlan(network=teacher, ledger=account)


def _check_classifier(donor: DonorConfig) -> None:
    """Checks that the donor's outputs are probabilities of mutually exclusive classes."""
    if donor.kind is not DonorKind.run or not donor.path:
        return
    task_record = (record_of(Path(donor.path)) or {}).get("task")
    task = (
        task_record.get("kind") if isinstance(task_record, dict) else None
    )  # a run of a time without tasks had one class an image
    if task not in (None, TaskKind.single_label.value):
        raise InputError(
            f"method.distill: expected a donor that tells classes apart, received a run of data.task={task};"
            " try method.distill=0, or method.l2_sp, which asks nothing of the donor's outputs"
        )


def _classes(ledger: Ledger, donor: Donor, head: str) -> int:
    """The number of classes of the donor's own head."""
    left_out = (
        entry.source
        for entry in ledger.donor_tensors
        if not entry.used and (entry.reason == OWN_HEAD or entry.reason.startswith(f"its target {head}."))
    )
    sources = (name for entry in ledger.tensors if covers(head, entry.target) for name in entry.sources)
    rows = {donor.infos[name].shape[0] for name in (*left_out, *sources) if donor.infos[name].shape}
    if len(rows) != 1:
        raise InputError(
            f"method.distill: expected a donor with a head of its own, as its outputs are what is kept, received one"
            f" {'with several' if rows else 'without'}; try another donor, or method.l2_sp, which needs none"
        )
    return rows.pop()


def build_teacher(config: NetworkConfig, planned: TeacherPlan, donor: Donor) -> nn.Module:
    """The donor's network with its values, frozen and in eval mode."""
    network = network_for(replace(config, head=HeadConfig(kind=HeadKind.none)), planned.network.classes)
    inject(planned.ledger, donor, network.module)
    return network.module.eval().requires_grad_(False)
