"""The frozen prefix as an inference engine: which stages it consists of, and a copy that runs as fast as the device
allows.

The network's own tensors are only read. Exports, hashes and the ledger refer to the network, never to an engine.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from graft.config.faults import InputError
from graft.system.machine import full_float32

if TYPE_CHECKING:
    from graft.models.stages import Stages

# Exact types: a subclass may compute its weight on the fly (weight standardisation), and then nothing folds into it.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormAct2d, FrozenBatchNorm2d)

_CPU_MICRO_BATCH = 8

# How far an engine's features may be from the prefix's, as vectors, over the length of these. In float32, in which
# figures are computed: a logit of 20 is then off by 0.002, and a probability by no more than 0.001. In bfloat16, in
# which layers train alone: autocast, which the layers behind train in, is as far off (efficientnet_lite0: 0.05).
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def frozen_prefix(stages: Stages, names: Iterable[str], frozen: Collection[str]) -> str | None:
    """The last of the leading stages whose tensors are all frozen. None if the first stage already trains.

    Args:
        names: every tensor of the network, parameters and buffers.
        frozen: the tensors that no phase (or not the current one) trains or changes.
    """
    moving = {stages.stage_of(name) for name in names if name not in frozen}
    last = None
    for stage in stages.names:
        if stage in moving:
            break
        last = stage
    return last


def fast_precision(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 if the device multiplies bfloat16 matrices in hardware, otherwise float32."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    has_units = any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return torch.bfloat16 if has_units else torch.float32


def training_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype of an engine in front of layers that train in this precision (32-true, bf16-mixed, 16-mixed, or auto:
    unset)."""
    return fast_precision(device) if precision.endswith("-mixed") else torch.float32


class Engine(nn.Module):
    """A folded copy of a prefix: images in, float32 features out, channels-last and without autograd.

    Args:
        micro_batch: images per forward pass; larger batches are split. None: never.
    """

    def __init__(self, folded: nn.Module, *, precision: torch.dtype, micro_batch: int | None) -> None:
        super().__init__()
        self.folded = folded.to(dtype=precision)
        self.precision = precision
        self.micro_batch = micro_batch
        self.eval()

    @property
    def description(self) -> str:
        return description(self.precision)

    def train(self, mode: bool = True) -> Engine:
        """Does nothing: an engine stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if image.ndim == 4 else torch.contiguous_format
        pieces = image.split(self.micro_batch or len(image))
        with torch.autocast(image.device.type, enabled=False):  # its precision is its own, whatever the training's
            outputs = [self.folded(piece.to(self.precision, memory_format=layout)).float() for piece in pieces]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def description(precision: torch.dtype) -> str:
    """The entry in a feature's record for an engine of this precision."""
    return f"folded, {str(precision).removeprefix('torch.')}"


def engine(prefix: nn.Module, *, precision: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Engine:
    """`fold(prefix)` on the given device in the given precision.

    On a CPU, it processes a few images at a time, so that activations stay in the processor's cache instead of fresh
    memory pages (efficientnet_lite0 at 224 pixels, 2 threads: 32 images in 1.2 s as 4 times 8, in 1.8 s at once).
    """
    micro_batch = _CPU_MICRO_BATCH if torch.device(device).type == "cpu" else None
    folded = fold(prefix).to(device)
    return Engine(folded, precision=precision, micro_batch=micro_batch)


def proven_engine(
    prefix: nn.Module, example: torch.Tensor, *, precision: torch.dtype, device: torch.device | str
) -> Engine:
    """An engine that has been verified to give the prefix's features for the example.

    Args:
        example: images, on the device of the prefix.
        precision: precision of the engine.
        device: device on which the engine will run.

    Raises:
        InputError: the features differ (the statistics may be so large that folding loses all digits).
    """
    running = engine(prefix, precision=precision, device=device)
    with torch.no_grad(), full_float32(example.device):
        expected, received = prefix(example.float()), running(example.to(device)).to(example.device)
    difference = float((expected - received).norm() / expected.norm().clamp(min=1e-12))
    if not difference <= TOLERANCES[running.precision]:
        raise InputError(
            f"cut: expected the same features from the folded prefix, received values off by {difference:.2g}"
        )
    return running


def fold(prefix: nn.Module) -> nn.Module:
    """A copy in eval mode and channels-last, with every batch-norm that follows a convolution folded into it.

    `prefix(x)` in eval mode and `fold(prefix)(x)` agree within 1e-4 of the largest value (the factors are computed in
    float64). Parameters and buffers of `prefix` are neither changed nor shared. It must be traceable by torch.fx, as
    the result of `models.cut.split` is.
    """
    copied = copy.deepcopy(prefix).eval().requires_grad_(False)
    graph = copied.graph if isinstance(copied, fx.GraphModule) else _Tracer().trace(copied)
    modules = dict(copied.named_modules())
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        before = _foldable(node, modules, uses)
        if before is None:
            continue
        norm = modules[str(node.target)]
        _fold_norm(modules[str(before.target)], norm)
        activation = _activation_of(norm)
        if activation is None:
            node.replace_all_uses_with(before)
            graph.erase_node(node)
        else:
            _replace(copied, str(node.target), activation)
    graph.lint()
    folded = fx.GraphModule(copied, graph)
    folded.delete_all_unused_submodules()
    return folded.to(memory_format=torch.channels_last)


class _Tracer(fx.Tracer):
    """Does not trace into convolutions and norms, including the libraries' own kinds."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_CONVOLUTIONS, *_NORMS)) or super().is_leaf_module(m, module_qualified_name)


def _foldable(node: fx.Node, modules: Mapping[str, nn.Module], uses: Counter[Any]) -> fx.Node | None:
    """The convolution (or linear layer) before a norm, if only the norm uses its output and each is used once."""
    before = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
        return None
    layer: Any = modules[str(before.target)]
    norm = modules[str(node.target)]
    mean: torch.Tensor | None = getattr(norm, "running_mean", None)
    if type(norm) not in _NORMS or mean is None or uses[before.target] != 1 or uses[node.target] != 1:
        return None
    linear = type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d
    widths = layer.weight.shape[:1] if linear or type(layer) in _CONVOLUTIONS else ()  # output channels
    return before if widths == mean.shape else None


def _fold_norm(layer: Any, norm: Any) -> None:
    """W' = W γ / √(σ² + ε) per output channel; b' = (b - μ) γ / √(σ² + ε) + β."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # [O], [O]
    factor = torch.rsqrt(variance + norm.eps) * (1.0 if norm.weight is None else norm.weight.double())
    shift = 0.0 if norm.bias is None else norm.bias.double()
    bias = 0.0 if layer.bias is None else layer.bias.double()
    weight, kind = layer.weight, layer.weight.dtype
    folded = weight.double() * factor.reshape(-1, *[1] * (weight.ndim - 1))
    layer.weight = nn.Parameter(folded.to(kind), requires_grad=False)
    layer.bias = nn.Parameter(((bias - mean) * factor + shift).to(kind), requires_grad=False)


def _activation_of(norm: nn.Module) -> nn.Module | None:
    """The activation that a norm applies after normalising, if it has one (timm's norm-and-activation modules)."""
    if not isinstance(norm, BatchNormAct2d):
        return None
    parts: tuple[Any, ...] = (norm.drop, norm.act)
    after = [part for part in parts if not isinstance(part, nn.Identity)]
    return nn.Sequential(*after) if after else None


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)
