"""Estimates the memory of a training step, and the largest batch size that fits; computed on the meta device."""

from __future__ import annotations

import os
from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from graft.config.choices import AUTO
from graft.config.schema import Config
from graft.finetune.optimizer import state_numbers
from graft.models.memo import once_for
from graft.models.network import Network
from graft.models.stages import tensor_names
from graft.plan.head_start import plan_start
from graft.plan.methods import lora_of, schedule_of
from graft.results.run_forms import read_document

FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one step on the training device, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    methods: int = 0
    """Memory of methods beside the network: initial weights, averaged weights, the donor."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.methods


def estimate_memory(
    module: nn.Module,
    *,
    batch_size: int,
    trainable: Collection[str],
    state: int,
    activations: int,
    beside: int = 0,
) -> Memory:
    """The memory in bytes of a float32 step of `module` (on the meta device) at a batch size.

    Args:
        trainable: names of the parameters that train in the largest phase.
        state: numbers in the optimizer's state (`finetune.optimizer.state_numbers`).
        activations: numbers stored for the backward pass of one image (`activation_numbers`).
        beside: numbers that methods store.
    """
    parameters = dict(module.named_parameters())
    weights = sum(tensor.numel() for tensor in (*parameters.values(), *module.buffers()))
    trained = sum(parameter.numel() for name, parameter in parameters.items() if name in trainable)
    return Memory(
        weights=weights * FLOAT32,
        gradients=trained * FLOAT32,
        optimizer=state * FLOAT32,
        activations=activations * FLOAT32 * batch_size,
        methods=beside * FLOAT32,
    )


def activation_numbers(module: nn.Module, image_CHW: tuple[int, int, int], trainable: Collection[str]) -> int:
    """The numbers stored for the backward pass of one image: the outputs of all leaf modules from the first trainable
    one on.

    Before that one, autograd stores nothing, and only the largest pair of successive outputs is in memory at once.
    """
    stored = 0
    alive = 0
    training = False

    def record(leaf: nn.Module, name: str, output: object) -> None:
        nonlocal stored, alive, training
        training = training or any(f"{name}.{part}" in trainable for part, _ in leaf.named_parameters(recurse=False))
        count = output.numel() if isinstance(output, torch.Tensor) else 0
        if training:
            stored += count
        else:
            alive = max(alive, 2 * count)

    hooks = [
        leaf.register_forward_hook(lambda leaf, _inputs, output, name=name: record(leaf, name, output))
        for name, leaf in module.named_modules()
        if not any(True for _ in leaf.children())
    ]
    was_training = module.training
    module.eval()  # a batch of one image passes every norm
    try:
        with torch.no_grad():
            module(torch.empty(1, *image_CHW, device="meta"))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return stored + alive


def activations_of(network: Network, channels: int, trained: frozenset[str]) -> int:
    """`activation_numbers` of the network for images with this many channels, remembered for networks of the same
    structure."""
    image_CHW = (channels, network.preprocess.image_size, network.preprocess.image_size)
    return once_for(
        network,
        lambda: activation_numbers(network.module, image_CHW, trained),
        "activations",
        image_CHW,
        sorted(trained),
    )


LARGEST = 256
SHARE = 0.8  # of the free memory
SPARE = 2.0  # what a step takes beside the activations that are kept, over these: workspaces, gradients on their way
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def with_batch_size(config: Config, network: Network, images: int, before: int | None) -> tuple[Config, str]:
    """The config with a number in place of batch_size=auto, and an explanation of it.

    Args:
        images: number of training images.
        before: batch size of the run that is being resumed, which is kept.
    """
    if config.data.batch_size != AUTO:
        return config, ""
    size, remark = before, ""
    if size is None:
        device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        free = free_memory(device)
        size = largest_batch(config, network, images, free)
        remark = (
            f"data.batch_size=auto: {size} images, estimated for {free / 1e9:.1f} GB of free memory on the {device}"
        )
    return replace(config, data=replace(config.data, batch_size=size)), remark


def largest_batch(config: Config, network: Network, images: int, free: int) -> int:
    """The largest power of two, up to 256 and the number of training images, whose step is estimated to fit."""
    method = config.method
    if method.lora:
        network = replace(network, module=deepcopy(network.module))
        lora_of(method, network, channels=config.data.channels)
    names = tensor_names(network.module)
    begins_solved = plan_start(config.network, config.freezing, network).solved
    schedule = schedule_of(config.freezing, network, config.checkpoint, begins_solved=begins_solved)
    copies = sum(map(bool, (method.l2_sp, method.ema, method.distill)))  # each keeps a network at most
    always = frozenset[str].intersection(*(state.names for state in schedule.table))
    side = network.preprocess.image_size
    trainable = frozenset(names) - always
    need = estimate_memory(
        network.module, batch_size=1, trainable=trainable,
        activations=activation_numbers(network.module, (config.data.channels, side, side), trainable),
        state=state_numbers(
            [parameter.shape for name, parameter in network.module.named_parameters() if name in trainable],
            config.optimizer,
        ),
        beside=copies * sum(parameter.numel() for parameter in network.module.parameters()),
    )  # fmt: skip
    size, most = 1, min(LARGEST, images)
    while 2 * size <= most and need.total + SPARE * need.activations * 2 * size <= SHARE * free:
        size *= 2
    return size


def free_memory(device: str) -> int:
    """Memory in bytes that a process can still allocate."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return min([_free_on_machine(), *_free_in_cgroup()])


def _free_on_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(fields["MemAvailable"].split()[0]) * 1024


def _free_in_cgroup() -> list[int]:
    free: list[int] = []
    for limit, used in CGROUPS:
        try:
            texts = Path(limit).read_text().strip(), Path(used).read_text().strip()
        except OSError:
            continue
        if texts[0].isdecimal():
            free.append(int(texts[0]) - int(texts[1]))
    return free


def batch_size_before(folder: Path) -> int | None:
    """The batch size of the run whose checkpoint is in a run's folder."""
    if not any((folder / "checkpoints").glob("*.ckpt")):
        return None
    size = read_document(folder / "plan.json").get("batch_size")
    return None if size is None else int(size)
