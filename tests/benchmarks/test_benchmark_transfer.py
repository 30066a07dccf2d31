"""What a transfer may cost beside plain loading: memory always, time where the machine allows a judgement."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.measure import measure
from benchmarks.transfer_case import make


@pytest.mark.slow
def test_a_resnet50_takes_at_most_its_own_size_again_and_little_more_time(tmp_path: Path) -> None:
    times, *memory = make(Namespace(model="resnet50"), tmp_path)
    for comparison in memory:  # none where the system does not tell
        assert measure(comparison, repeats=1)["others"][0]["kept"]
    # The limit is 1.3 (`python -m benchmarks transfer --check`); a machine that is busy elsewhere blurs it.
    assert measure(times, repeats=9)["others"][0]["ratio_quartiles"][0] < 1.6
