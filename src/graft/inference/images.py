"""`graft.load`: a network that predicts and embeds images in any form that Python has for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import nn

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.inference.batches import rows_of
from graft.inference.classify import form_of
from graft.inference.load import open_model
from graft.inference.sources import image_paths
from graft.models.blocks import pooled_axes
from graft.results.model import Image, OpenedModel
from graft.system.machine import full_float32

SHOWN = 10
GREY, COLOUR, BATCH = 2, 3, 4  # axes of an array


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The prediction for one image."""

    source: str = ""
    """The path of its file; "" without one."""
    label: str | None = None
    """Of one class an image: the predicted class."""
    probability: float | None = None
    """Of one class an image: that of the label."""
    labels: tuple[str, ...] = ()
    """Of several labels an image: those predicted, the most likely first."""
    probabilities: dict[str, float] = field(default_factory=dict[str, float])
    """By the name of the class or label."""
    values: dict[str, float] = field(default_factory=dict[str, float])
    """Of a regression: the numbers by name."""

    def __str__(self) -> str:
        place = f"{self.source}: " if self.source else ""
        if self.values:
            return place + ", ".join(f"{name} {value:.5g}" for name, value in self.values.items())
        named = (self.label,) if self.label is not None else self.labels
        return place + (", ".join(f"{name} {self.probabilities[name]:.4f}" for name in named) or "none")


def load(path: Path | str, *, import_code: bool = False) -> nn.Module:
    """Opens a run's folder or an exported model: the network in eval mode, with methods for images.

    `model.predict(images)` and `model.embed(images)` take images in any form: see `predict` and `embed` below. A method
    of the network's own under one of these names is left alone.

    `model.classes` are the names of the classes, labels or numbers. `model.preprocess(image)` takes a path or a PIL
    image and returns what the network takes: float32 [C, S, S]. `model(images)` takes a batch of these [B, C, S, S] and
    returns outputs [B, K]. `model.answers(outputs)` returns [B, K] too: the probability of each class or label, or each
    number in its unit.

    >>> model = load(folder)  # of a run, or of `graft export`
    >>> model.classes
    ('ant', 'bee', 'cicada')
    >>> images = model.preprocess(picture)[None]  # a path or a PIL image
    >>> tuple(images.shape)
    (1, 3, 64, 64)
    >>> answers = model.answers(model(images))
    >>> tuple(answers.shape), round(answers.sum().item(), 5)
    ((1, 3), 1.0)
    >>> prediction = model.predict(picture)  # or PIL images, bytes, arrays, tensors, a folder, a list of these
    >>> prediction.probability == max(prediction.probabilities.values())
    True
    >>> tuple(model.embed([picture, picture]).shape)
    (2, 96)

    Args:
        import_code: a custom backbone or head is imported from where the record says. Only for files that one trusts.

    Raises:
        InputError: nothing there, or files that are damaged or do not belong together.
    """
    opened = open_model(path, import_code=import_code)
    module: Any = opened.module
    module.classes, module.preprocess, module.answers = opened.classes, opened.preprocess, opened.task.answers
    for function in (predict, embed):
        if not hasattr(module, function.__name__):
            setattr(module, function.__name__, partial(function, opened))
    return module


def predict(
    opened: OpenedModel, images: Image | Iterable[Image], *, threshold: float | None = None, batch_size: int = 32
) -> Prediction | list[Prediction]:
    """The prediction for an image, or a list of them for a list of images, a folder, or a batch.

    Args:
        images: files, folders and glob patterns by name; PIL images; the bytes of image files; numpy arrays of uint8 or
            uint16, [H, W], [H, W, C] or a batch [N, H, W, C]; tensors of uint8, [H, W], [C, H, W] or [N, C, H, W];
            tensors of floats [C, S, S] or [N, C, S, S] that are preprocessed already, as `.preprocess` returns them.
            Or a list of any of these.
        threshold: of several labels an image: those above this probability are predicted; None: one half.
        batch_size: images that pass through the network together, on the device that it is on.

    Raises:
        InputError: an image that cannot be read, or an array that is none of the above.
    """
    form = form_of(opened, threshold=threshold)
    compute = _computing(opened, lambda batch: opened.task.answers(opened.module(batch)))
    predictions = [
        _prediction(opened.task.kind, form.classes, form.answer(name, row.tolist()).top, name, row.tolist())
        for name, row in _rows(opened, images, compute, batch_size)
    ]
    return predictions[0] if _is_one(images) else predictions


def embed(opened: OpenedModel, images: Image | Iterable[Image], *, batch_size: int = 32) -> torch.Tensor:
    """The features that enter the head, on the CPU in float32: [D] of an image, [N, D] of several.

    A feature map is averaged over its places.

    Args:
        images: as for `predict`.

    Raises:
        InputError: as `predict` does.
    """
    rows = [row for _, row in _rows(opened, images, embedding(opened), batch_size)]
    return rows[0] if _is_one(images) else torch.stack(rows)


def embedding(opened: OpenedModel) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    """A function from network inputs [C, S, S] to the features [B, D] that enter the head."""
    head = opened.module.get_submodule(opened.record["head"]["at"])

    def features(batch: torch.Tensor) -> torch.Tensor:
        entering: list[torch.Tensor] = []
        hook = head.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
        try:
            opened.module(batch)
        finally:
            hook.remove()
        if not entering:
            raise InputError("embed: expected a network that calls its head as a module, received one that does not")
        axes = pooled_axes(entering[0].shape)
        return entering[0].mean(axes) if axes else entering[0]

    return _computing(opened, features)


def _computing(
    opened: OpenedModel, function: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    """The function on the network's device, in eval mode and float32."""
    module = opened.module

    @torch.inference_mode()
    def compute(images: Sequence[torch.Tensor]) -> torch.Tensor:
        device, training = next(module.parameters()).device, module.training
        module.eval()
        try:
            with full_float32(device):
                return function(torch.stack(list(images)).to(device)).float().cpu()
        finally:
            module.train(training)

    return compute


def _rows(
    opened: OpenedModel,
    images: Image | Iterable[Image],
    compute: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    batch_size: int,
) -> Iterator[tuple[str, torch.Tensor]]:
    unread: list[str] = []
    count = 0
    for name, row in rows_of(_spread(images), opened.preprocess, compute, batch_size=batch_size):
        count += 1
        if isinstance(row, str):
            unread.append(row)
        elif not torch.isfinite(row).all():
            unread.append(f"{name or 'image'}: expected finite outputs of the network, received others")
        else:
            yield name, row
    if unread:
        more = f"; and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        raise InputError(f"images: expected images that can be read, received {'; '.join(unread[:SHOWN])}{more}")
    if not count:
        raise InputError("images: expected at least one image, received none")


def _spread(images: Image | Iterable[Image]) -> Iterator[tuple[str, Image]]:
    """Each single image with the name of its file, or ""."""
    if isinstance(images, str | Path):
        for path in image_paths([str(images)]):
            yield path, path
    elif isinstance(images, bytes | Picture):
        yield "", images
    elif isinstance(images, np.ndarray | torch.Tensor):
        batch = cast(Iterable[Image], images if images.ndim == BATCH else [images])
        yield from (("", image) for image in batch)
    elif isinstance(cast(Any, images), Iterable):
        for each in images:
            yield from _spread(each)
    else:
        raise InputError(
            "images: expected paths, PIL images, bytes, numpy arrays, tensors, or a list of these, received a "
            f"{type(images).__name__}"
        )


def _is_one(images: Image | Iterable[Image]) -> bool:
    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        return list(image_paths([str(images)])) == [str(path)] if not path.is_dir() else False
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim != BATCH
    return isinstance(images, bytes | Picture)


def _prediction(
    kind: TaskKind,
    classes: Sequence[str],
    top: Sequence[tuple[str, float]],
    source: str,
    values: Sequence[float],
) -> Prediction:
    by_name = dict(zip(classes, values, strict=True))
    if kind is TaskKind.regression:
        return Prediction(source=source, values=by_name)
    if kind is TaskKind.multi_label:
        return Prediction(source=source, labels=tuple(name for name, _ in top), probabilities=by_name)
    return Prediction(source=source, label=top[0][0], probability=top[0][1], probabilities=by_name)
