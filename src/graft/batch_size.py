"""data.batch_size=auto: the largest batch that the device's free memory is likely to hold.

An estimate, on the meta device. Where it was too high, the run goes on with smaller batches and the same steps
(finetune/shrink.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from graft.config.schema import AUTO, Config
from graft.data.table import Table
from graft.estimate import activation_numbers, estimate_memory
from graft.finetune.optimizer import state_numbers
from graft.models.names import tensor_names
from graft.models.network import network_for
from graft.plan_methods import lora_of, schedule_of

LARGEST = 256
SHARE = 0.8  # of the free memory
SPARE = 2.0  # what a step takes beside the activations that are kept, over these: workspaces, gradients on their way
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def with_batch_size(config: Config, table: Table, folder: Path, say: Callable[[str], None]) -> Config:
    """The config with a number where it says auto; a run that goes on keeps the number that it has."""
    if config.data.batch_size != AUTO:
        return config
    size = _of_before(folder) if config.resume == AUTO else None
    if size is None:
        device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        free = free_memory(device)
        size = largest_batch(config, table, free)
        say(f"batch     {size} images, estimated for {free / 1e9:.1f} GB of free memory on the {device}")
    return replace(config, data=replace(config.data, batch_size=size))


def largest_batch(config: Config, table: Table, free: int) -> int:
    """The largest power of two, up to 256 and the number of images, whose step is estimated to fit."""
    network = network_for(config, len(table.classes), device="meta")
    method = config.method
    if method.lora:
        lora_of(config, network)
    names = tensor_names(network.module)
    schedule = schedule_of(config, network)
    copies = sum(map(bool, (method.l2_sp, method.ema, method.distill)))  # each keeps a network at most
    always = frozenset[str].intersection(*(moment.frozen.names for moment in schedule.moments))
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
    size, most = 1, min(LARGEST, len(table.train))
    while 2 * size <= most and need.total + SPARE * need.activations * 2 * size <= SHARE * free:
        size *= 2
    return size


def free_memory(device: str) -> int:
    """Bytes that a process can still have."""
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
    found: list[int] = []
    for limit, used in CGROUPS:
        try:
            texts = Path(limit).read_text().strip(), Path(used).read_text().strip()
        except OSError:
            continue
        if texts[0].isdecimal():
            found.append(int(texts[0]) - int(texts[1]))
    return found


def _of_before(folder: Path) -> int | None:
    """The batch size of the run that left a checkpoint here."""
    if not any((folder / "checkpoints").glob("*.ckpt")):
        return None
    plan: Mapping[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return int(plan["batch_size"])
