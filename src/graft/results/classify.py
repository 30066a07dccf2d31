"""The network's answers to image files, batch by batch; an image that cannot be read is a row with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from graft.config.faults import InputError
from graft.results.load import OpenedModel, open_model

Reading = Future[torch.Tensor | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said of one file: its likeliest classes, best first, or why there is nothing to say."""

    file: str
    top: tuple[tuple[str, float], ...] = ()
    probabilities: tuple[float, ...] = ()
    """Of every class, in the model's order."""
    error: str | None = None

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """The form of a JSON line."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        label, probability = self.top[0]
        return {
            "file": self.file,
            "class": label,
            "probability": probability,
            "top": [{"class": name, "probability": share} for name, share in self.top],
            "probabilities": dict(zip(classes, self.probabilities, strict=True)),
        }


def predict(
    model: Path | str | OpenedModel,
    paths: Iterable[str],
    *,
    top: int = 1,
    batch_size: int = 32,
    device: str = "auto",
    threads: int = 4,
) -> Iterator[Answer]:
    """One answer a path, in order; images of the next batch are read while the present one is computed.

    Args:
        model: a run's folder, an exported model folder, or what `open_model` gave.
        device: auto (the GPU where there is one), cpu, cuda, cuda:1 …
        threads: how many read images.
    """
    opened = open_model(model) if isinstance(model, Path | str) else model
    place = find_device(device)
    opened.module.to(place)
    names = iter(paths)
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        waiting = _submit(pool, opened, names, batch_size)
        while waiting:
            following = _submit(pool, opened, names, batch_size)
            yield from _answers(opened, [(name, reading.result()) for name, reading in waiting], place, top)
            waiting = following


def find_device(wanted: str) -> torch.device:
    """Raises InputError where torch has no such device, before anything is read."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: expected one of this machine's, received {wanted!r} ({reason}); try cpu") from error
    return torch.device(wanted)


def _submit(
    pool: ThreadPoolExecutor, opened: OpenedModel, names: Iterator[str], count: int
) -> list[tuple[str, Reading]]:
    return [(name, pool.submit(_read, opened, name)) for name in islice(names, count)]


def _read(opened: OpenedModel, name: str) -> torch.Tensor | str:
    """The image as the network takes it [C, S, S], or why it cannot be read."""
    try:
        return opened.preprocess(name)
    except InputError as error:
        return str(error)


def _answers(
    opened: OpenedModel, read: Sequence[tuple[str, torch.Tensor | str]], place: torch.device, top: int
) -> Iterator[Answer]:
    images = [image for _, image in read if isinstance(image, torch.Tensor)]
    rows = iter(_probabilities(opened, images, place).tolist() if images else [])
    for name, image in read:
        if isinstance(image, str):
            yield Answer(file=name, error=image)
        else:
            yield _answer(name, next(rows), opened.classes, top)


@torch.inference_mode()
def _probabilities(opened: OpenedModel, images: Sequence[torch.Tensor], place: torch.device) -> torch.Tensor:
    logits_BK = opened.module(torch.stack(list(images)).to(place))
    return logits_BK.float().softmax(1).cpu()


def _answer(name: str, probabilities: Sequence[float], classes: Sequence[str], top: int) -> Answer:
    order = sorted(range(len(classes)), key=lambda k: -probabilities[k])[: max(1, top)]
    return Answer(
        file=name, top=tuple((classes[k], probabilities[k]) for k in order), probabilities=tuple(probabilities)
    )
