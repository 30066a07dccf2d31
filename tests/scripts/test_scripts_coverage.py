"""The coverage of intervals, on features that need no network."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def script(root: Path) -> dict[str, Any]:
    return runpy.run_path(str(root / "scripts" / "coverage.py"))


def test_an_interval_covers_what_lies_in_it(script: dict[str, Any]) -> None:
    """Wilson's interval of 18 of 20 is 0.699 to 0.972."""
    right = torch.arange(20) < 18
    assert [script["covered"](right, truth) for truth in (0.69, 0.70, 0.97, 0.98)] == [False, True, True, False]


def test_intervals_of_runs_on_a_few_images_hold_the_accuracy_on_the_rest(script: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(600) % 2
    features = torch.randn(600, 4, generator=generator) + label[:, None]
    shares = script["coverage"](features, label, runs=12, images=40)
    assert set(shares) == {"held out", "out of fold", "out of fold, head of all"}
    assert all(share >= 0.75 for share in shares.values())
