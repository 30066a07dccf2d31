"""One training that graft and its peers are given: donor, images, what trains, for how long; and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A peer reads it from a file, so every value is JSON's."""

    images: str
    """A folder with train/, val/ and perhaps test/, and below each a folder a class."""
    donor: str
    """A safetensors file under the library's own names, the head of its old classes included."""
    library: str
    """torchvision or timm."""
    model: str
    head: str
    """The last layer's name in the model."""
    backbone: str
    """graft's option for it."""
    freeze: str
    """What is frozen, as graft's freeze= says it."""
    trains: tuple[str, ...]
    """The rest, as the beginnings of parameter names; none: everything trains."""
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epochs: int
    batch_size: int = 32
    threads: int = 1
    lr: float = 1e-3
    own_defaults: bool = False
    """Whether each peer varies its images, and chooses its optimizer, as it does when nothing is said; else no image is
    varied, and the rate is `lr`."""
    tune: bool = False
    """Whether graft finds out first how a step is computed fastest (trainer.tune=auto)."""
    seed: int = 0

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("trains", "mean", "std"):
            values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a peer tells of its training."""

    training: list[float]
    """Seconds of each epoch's training pass."""
    epochs: list[tuple[float, float]]
    """Seconds and processor time of each epoch with its evaluation."""
    after: tuple[float, float]
    """The same after the weights were saved: the evaluation on the test part, that nobody waits for."""
    accuracy: float
    """On the test part; where there is none, on the validation part."""
    images: int
    """Images of a training pass."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text(encoding="utf-8")))
