"""LoRA: keeps the donor's weights and trains a product of two low-rank matrices beside each of them [Hu et al. 2022].

W' = W + (α/r) B A, by the `peft` package, for linear layers and convolutions. B is initialised to zero, so training
starts with the donor's function. `merge` writes the sum in place of the donor's weight, after which the network is the
library's own again. Both `add_lora` and `merge` mutate the network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from graft.config.faults import InputError, RunFailed, nearest
from graft.config.patterns import instead_of_glob
from graft.config.schema import MethodConfig
from graft.models.network import seeded
from graft.models.stages import Stages, covers
from graft.system.machine import full_float32

BASE = ".base_layer"
PARTS = (".lora_A.", ".lora_B.")
TOLERANCE = 1e-5


def lora_layers(
    module: nn.Module, stages: Stages, image_shape: tuple[int, int, int], targets: Sequence[str]
) -> tuple[str, ...]:
    """Paths of the trunk's layers that get a low-rank addition.

    A layer whose weight another module reads directly (an attention module in one operation) has no input to add to.
    Grouped and dilated convolutions are no plain products. All of these are skipped.

    Args:
        module: on the meta device, or with values.
        image_shape: channels, height and width of an image.
        targets: globs of layer paths; empty: every layer that supports it.

    Raises:
        InputError: there is no such layer, or a glob matches none.
    """
    able = [path for path in _called(module, image_shape) if not any(covers(head, path) for head in stages.heads)]
    chosen = [path for path in able if not targets or any(fnmatchcase(path, glob) for glob in targets)]
    for glob in targets:
        if not any(fnmatchcase(path, glob) for path in able):
            near = ", ".join(nearest(glob, able) or able[:3]) or "another"
            raise InputError(
                f"method.lora_targets: expected globs of linear layers and convolutions of the backbone, received"
                f" {glob!r}, which names none that can take an addition; try {instead_of_glob(glob, able) or near}"
            )
    if not chosen:
        raise InputError(
            "method.lora: expected a backbone with linear layers or ungrouped convolutions, received one without;"
            " try method.bitfit=true"
        )
    return tuple(chosen)


def _called(module: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    """Paths of the plain layers that are called in an image's forward pass."""
    plain = {path: part for path, part in module.named_modules() if _is_plain(part)}
    calls: set[str] = set()
    hooks = [part.register_forward_pre_hook(lambda *_, path=path: calls.add(path)) for path, part in plain.items()]
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(2, *image_shape, device=next(module.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return [path for path in plain if path in calls]


def _is_plain(part: nn.Module) -> bool:
    if type(part) is nn.Linear:
        return True
    if isinstance(part, nn.Conv2d) and type(part) in (nn.Conv2d, Conv2dSame):
        return part.groups == 1 and set(part.dilation) == {1} and part.padding_mode == "zeros"
    return False


def add_lora(module: nn.Module, layers: Sequence[str], method: MethodConfig, *, seed: int = 0) -> None:
    """Gives each layer its low-rank addition, initialised by the seed.

    Raises:
        InputError: peft is not installed.
    """
    assert method.lora is not None, "called where method.lora is set"
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError(f"method.lora: expected the package peft, received {error}; try pip install peft") from error
    wanted = LoraConfig(
        r=method.lora,
        lora_alpha=cast(Any, method.lora if method.lora_alpha is None else method.lora_alpha),
        target_modules="|".join(re.escape(path) for path in layers),
    )
    with seeded(seed):
        inject_adapter_in_model(wanted, module, low_cpu_mem_usage=next(module.parameters()).is_meta)


def lora_names(module: nn.Module) -> frozenset[str]:
    """Names of the added parameters."""
    return frozenset(name for name, _ in module.named_parameters() if any(part in name for part in PARTS))


@torch.no_grad()
def merge(module: nn.Module, layers: Sequence[str], images: Tensor) -> None:
    """Adds each product to its layer's weight and removes it: the tensors have the library's names again.

    Args:
        images: [B, C, H, W], on which the network must give the same outputs before and after.

    Raises:
        RunFailed: the outputs differ.
    """
    images = images.to(next(module.parameters()).device)
    with full_float32(images.device):
        before = module.eval()(images)
    for path in layers:
        layer: Any = module.get_submodule(path)
        layer.merge()
        module.set_submodule(path, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        delattr(module, "peft_config")
    with full_float32(images.device):
        after = module(images)
    difference = float((after - before).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(before.abs().max())):
        raise RunFailed(
            f"method.lora: the merged network's logits differ by {difference:.2g} from those of the trained one; the"
            " trained one is in checkpoints/best.ckpt"
        )


def plain_name(name: str) -> str:
    """A tensor's name without LoRA: `conv1.base_layer.weight` becomes `conv1.weight`."""
    return name.replace(BASE, "")
