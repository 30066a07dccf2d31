"""The blocks of a network's stages, and the axes over which their outputs are pooled. Works on modules without
storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graft.config.choices import Taps
from graft.models.stages import Stage, Stages, tensor_names

MAP, MAP_CHANNELS_LAST, TOKENS = [2, 3], [1, 2], [1]
"""Axes to pool over: those of [B, C, H, W], of [B, H, W, C] and of [B, N, C]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A module whose output is pooled."""

    module: str
    """Path of the module."""
    axes: tuple[int, ...]
    """The axes that pooling removes."""
    places: int
    """Number of positions in the feature map, or of tokens: how many values are pooled into one."""
    channels: int


def find_taps(
    module: nn.Module, stages: Stages, taps: Taps, image_shape: tuple[int, int, int]
) -> tuple[list[Tap], tuple[int, ...]]:
    """The modules to tap in the order of execution, and the shape [1, …] of the last layer's input.

    Args:
        module: a module on the meta device.
        image_shape: channels, height, width.
    """
    candidates = {path: stage.name for stage in stages.trunk for path in _candidates(module, stage)}
    shapes, entering = _outputs(module, candidates, stages.head, image_shape)
    pooled = {path: shape for path, shape in shapes.items() if len(shape) in (3, 4)}  # a vector is the classifier's own
    blocks = {path for stage in stages.trunk for prefix in stage.prefixes for path in _blocks_at(module, prefix)}
    chosen: list[str] = []
    for stage in stages.names:
        own = [path for path in pooled if candidates[path] == stage]
        inner = [path for path in own if path in blocks] or own[-1:]
        chosen += inner[-1:] if taps is Taps.stage else inner
    order = [path for path in pooled if path in chosen]
    usual = _usual_layout([pooled[path] for path in order])
    return [_tap(path, pooled[path], usual) for path in order], entering


def pooled_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """The axes over which the last layer's input is pooled: none of a vector [B, C], the spatial ones of a feature map
    [B, C, H, W]."""
    return {2: (), 3: tuple(TOKENS), 4: tuple(MAP)}[len(shape)]


def _tap(path: str, shape: tuple[int, ...], usual: list[int]) -> Tap:
    axes = TOKENS if len(shape) == 3 else _layout(shape) or usual
    (channels,) = (size for axis, size in enumerate(shape) if axis and axis not in axes)
    places = 1
    for axis in axes:
        places *= shape[axis]
    return Tap(module=path, axes=tuple(axes), places=places, channels=channels)


def _layout(shape: tuple[int, ...]) -> list[int] | None:
    """Axes of a feature map. Maps are square, which shows the channel axis unless there are as many channels as pixels
    per row."""
    first, last = shape[2] == shape[3], shape[1] == shape[2]
    return None if first == last else MAP if first else MAP_CHANNELS_LAST


def _usual_layout(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """The layout of most feature maps of a network, for those whose own layout is ambiguous."""
    layouts = Counter(tuple(layout) for shape in shapes if len(shape) == 4 and (layout := _layout(shape)))
    return list(layouts.most_common(1)[0][0]) if layouts else MAP


def _candidates(module: nn.Module, stage: Stage) -> list[str]:
    """Modules whose outputs may represent a stage: its blocks, and the modules that it names."""
    modules = dict(module.named_modules())
    blocks = [path for prefix in stage.prefixes for path in _blocks_at(module, prefix)]
    named = [_with_followers(module, prefix) for prefix in stage.prefixes if prefix in modules]
    return list(dict.fromkeys([*blocks, *named]))


def _blocks_at(module: nn.Module, path: str) -> list[str]:
    """Paths of the blocks in a stage's module, or the module itself if it is a block; [] if it contains none."""
    at = dict(module.named_modules()).get(path)
    if at is None:
        return []  # a bare parameter
    if _is_container(at):
        return _contained(at, path)
    inside = [
        block for name, child in at.named_children() if _is_container(child)
        for block in _contained(child, f"{path}.{name}")
    ]  # fmt: skip
    return inside or ([path] if _is_block(at) else [])


def _contained(container: nn.Module, path: str) -> list[str]:
    """The items of a container, if they are blocks and not the layers of a single block."""
    paths: list[str] = []
    for name, child in container.named_children():
        if not any(tensor_names(part) for part in child.children()):
            continue
        below = f"{path}.{name}"
        blocks = _contained(child, below) if _is_container(child) else [below] * _is_block(child)
        if not blocks:
            return []
        paths += blocks
    return paths


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _is_block(module: nn.Module) -> bool:
    """Whether a module is more than a layer with its norm: it has at least two weights that are matrices or kernels."""
    return not _is_container(module) and sum(parameter.ndim > 1 for parameter in module.parameters()) > 1


def _with_followers(module: nn.Module, path: str) -> str:
    """The last weightless layer that follows a layer in its Sequential (activation, pooling), or the layer itself."""
    parent, _, name = path.rpartition(".")
    above = module.get_submodule(parent)
    if not isinstance(above, nn.Sequential):
        return path
    names = [each for each, _ in above.named_children()]
    for following in names[names.index(name) + 1 :]:
        child = above.get_submodule(following)
        if tensor_names(child) or isinstance(child, nn.Dropout | nn.Flatten):
            break
        name = following
    return f"{parent}.{name}" if parent else name


def _outputs(
    module: nn.Module, paths: Mapping[str, str], head: str, image_shape: tuple[int, int, int]
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """The shape of each module's output, tensors only, in the order of their last calls; and that of the head's
    input."""
    shapes: dict[str, tuple[int, ...]] = {}
    entering: list[tuple[int, ...]] = []

    def keeper(path: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            shapes.pop(path, None)
            if isinstance(output, Tensor):
                shapes[path] = tuple(output.shape)

        return keep

    def enter(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entering.append(tuple(inputs[0].shape))

    hooks = [module.get_submodule(path).register_forward_hook(keeper(path)) for path in paths]
    hooks.append(module.get_submodule(head).register_forward_pre_hook(enter))
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(torch.empty(1, *image_shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode
    return shapes, entering[-1]
