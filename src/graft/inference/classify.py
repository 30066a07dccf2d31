"""Predictions for image files, batch by batch. An image that cannot be read gives a row with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path

import torch

from graft.config.faults import InputError
from graft.inference.batches import rows_of
from graft.inference.load import open_model
from graft.inference.views import TTA, Views
from graft.results.model import OpenedModel
from graft.results.threshold import read_threshold
from graft.system.machine import full_float32
from graft.tasks.answers import FORMS, Answer, Form


def predict(
    model: Path | str | OpenedModel,
    paths: Iterable[str],
    *,
    top: int | None = None,
    threshold: float | None = None,
    batch_size: int = 32,
    device: str = "auto",
    threads: int = 4,
    tta: str = "none",
) -> Iterator[Answer]:
    """Yields one answer per path, in order. The images of the next batch are read in the meantime.

    Args:
        model: a run's folder, an exported model folder, or the result of `open_model`.
        top: single_label: number of classes to return; None: the most likely one.
        threshold: multi_label: labels above this probability are returned; None: one half.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 …
        threads: number of threads that read images.
        tta: test-time augmentation, that is, what is averaged with the image: its mirror image (flips), another crop
            (crops), both (flips+crops), or nothing (none). It takes two or four times as long.

    Raises:
        InputError: there is no such model or device.
    """
    opened = open_model(model) if isinstance(model, Path | str) else model
    form = form_of(opened, top=top, threshold=threshold)
    views = TTA[tta](opened)
    return _each(opened, views, form, paths, batch_size=batch_size, place=find_device(device), threads=threads)


def form_of(opened: OpenedModel, *, top: int | None = None, threshold: float | None = None) -> Form:
    """How the model's answers are worded: of two classes by the threshold that its run has chosen, if it has.

    Raises:
        InputError: a choice that the model's task does not have.
    """
    form = FORMS[opened.task.kind](opened.classes, top=top, threshold=threshold)
    if (chosen := read_threshold(opened.record)) is not None:
        form.decision = opened.classes.index(chosen.positive), chosen.probability
    return form


def _each(
    opened: OpenedModel,
    views: Views,
    form: Form,
    paths: Iterable[str],
    *,
    batch_size: int,
    place: torch.device,
    threads: int,
) -> Iterator[Answer]:
    opened.module.to(place)
    rows = rows_of(
        ((name, name) for name in paths), views, lambda images: _values(opened, images, place),
        batch_size=batch_size, threads=threads,
    )  # fmt: skip
    for name, row in rows:
        values = row if isinstance(row, str) else row.tolist()
        if isinstance(values, str):
            yield Answer(file=name, error=values)
        elif all(map(isfinite, values)):
            yield form.answer(name, values)
        else:
            yield Answer(file=name, error=f"{name}: expected finite outputs of the network, received others")


def find_device(wanted: str) -> torch.device:
    """The torch device. Raises InputError if torch has no such device, before anything is read."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: expected one of this machine's, received {wanted!r} ({reason}); try cpu") from error
    return torch.device(wanted)


@torch.inference_mode()
def _values(opened: OpenedModel, images: Sequence[torch.Tensor], place: torch.device) -> torch.Tensor:
    """Predictions [B, K], each averaged over an image's views. All given images pass through the network at once."""
    total: list[torch.Tensor] = []
    with full_float32(place):
        for view_BCSS in torch.stack(list(images), dim=1):
            total.append(opened.task.answers(opened.module(view_BCSS.to(place))).cpu())
    return torch.stack(total).mean(0)
