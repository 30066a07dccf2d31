"""The latency that is told is that of the exported network, for one image, and its median."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.inference import latency
from graft.inference.latency import latency_ms
from graft.inference.load import open_model
from graft.results.model import OpenedModel


def test_one_image_through_the_exported_network(torchvision_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], bool, bool]] = []
    clock = iter(range(0, 10**6, 1))

    def opened(*args: object, **options: object) -> OpenedModel:
        found = open_model(torchvision_model)
        found.module.register_forward_hook(
            lambda module, inputs, _: seen.append((tuple(inputs[0].shape), module.training, torch.is_grad_enabled()))
        )
        return found

    def now() -> float:
        """A second goes by from call to call; amid the sixth pass that is measured, a hundred more."""
        return next(clock) + (100.0 if len(seen) > 10 else 0.0)

    monkeypatch.setattr(latency, "open_model", opened)
    monkeypatch.setattr(latency.time, "perf_counter", now)
    assert latency_ms(torchvision_model, device="cpu") == 1000.0  # one that takes 101 s does not move the median
    assert set(seen) == {((1, 3, 64, 64), False, False)}
    assert len(seen) == latency.WARM_UP + 6  # out of patience


def test_fifty_repeats_where_they_are_quick(torchvision_model: Path) -> None:
    assert 0.1 < latency_ms(torchvision_model, device="cpu") < 2000
