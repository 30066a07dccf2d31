"""The parts of a plan for fine-tuning methods: anchors, low-rank additions, the donor's own network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graft.config.faults import InputError
from graft.config.schema import CheckpointConfig, FreezingConfig, MethodConfig, NetworkConfig, UnfreezeKind
from graft.finetune.methods.l2_sp import anchored
from graft.finetune.methods.lora import add_lora, lora_layers, lora_names
from graft.finetune.methods.selective import biases_and_norms_only, holding
from graft.finetune.unfreeze import START, Schedule, make_schedule
from graft.models.network import Network
from graft.models.stages import tensor_names
from graft.transfer import Donor, Ledger
from graft.transfer.teacher import TeacherPlan, plan_teacher


def schedule_of(
    config: FreezingConfig, network: Network, checkpoint: CheckpointConfig, *, begins_solved: bool = False
) -> Schedule:
    """The freeze schedule, with the tensors that the chosen methods freeze or unfreeze.

    Args:
        begins_solved: whether the head is solved beforehand, which makes the first phase of lp_ft unnecessary.
    """
    module, stages, unfreeze = network.module, network.stages, config.unfreeze
    if begins_solved and unfreeze.kind is UnfreezeKind.lp_ft and unfreeze.start is None:
        unfreeze = replace(unfreeze, start=START)
    schedule = make_schedule(unfreeze, config.freeze, stages, tensor_names(module), checkpoint=checkpoint)
    if config.method.bitfit:
        return biases_and_norms_only(schedule, module, stages)
    return holding(schedule, module, stages, free=lora_names(module)) if config.method.lora else schedule


def lora_of(method: MethodConfig, network: Network, *, channels: int) -> tuple[str, ...]:
    """Adds LoRA's weights to the network, after the transfer was accounted for. Returns the paths of its layers."""
    size = network.preprocess.image_size
    layers = lora_layers(network.module, network.stages, (channels, size, size), method.lora_targets)
    add_lora(network.module, layers, method)
    return layers


def anchors_of(method: MethodConfig, network: Network, ledger: Ledger, never_trained: frozenset[str]) -> frozenset[str]:
    """The weights that method.l2_sp pulls back: trained weights with the donor's values.

    Raises:
        InputError: there are none.
    """
    if not method.l2_sp:
        return frozenset()
    anchors = anchored(network.module, network.stages, ledger.filled) - never_trained
    if not anchors:
        raise InputError(
            "method.l2_sp: expected weights of the donor's that train, received a freeze under which none does;"
            " try freeze=none, or method.l2_sp=0"
        )
    return anchors


def teacher_of(config: NetworkConfig, network: Network, ledger: Ledger, open_donor: Callable[[], Donor]) -> TeacherPlan:
    """The donor's own network, which method.distill needs."""
    with open_donor() as donor:
        return plan_teacher(config, network, ledger, donor)


def numbers_beside(
    method: MethodConfig,
    network: Network,
    trained: frozenset[str],
    anchors: frozenset[str],
    teacher: TeacherPlan | None,
) -> int:
    """How many numbers the methods store on the device."""
    numbers = {name: value.numel() for name, value in network.module.named_parameters()}
    mean = trained if method.ema is not None else frozenset[str]()
    donor = teacher.network.module.parameters() if teacher else ()
    return sum(numbers[name] for name in (*anchors, *mean)) + sum(value.numel() for value in donor)
