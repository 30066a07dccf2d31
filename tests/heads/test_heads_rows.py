"""Scaled features are computed once for a process's heads on the same features."""

import torch

from graft.heads import rows
from graft.heads.rows import rows_of
from graft.system.machine import threads


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))


def test_equal_features_are_scaled_once():
    assert rows_of(features()) is rows_of(features())


def test_other_values_types_and_threads_are_other_features():
    first = rows_of(features())
    changed = features()
    changed[3, 2] += 1e-6
    with threads(torch.get_num_threads() + 1):
        others = [rows_of(features())]
    others += [rows_of(changed), rows_of(features().double()), rows_of(features().reshape(10, 12))]
    assert len({id(each) for each in (first, *others)}) == 5


def test_what_is_remembered_stays_within_its_bound(monkeypatch):
    size = rows_of(features(1)).size
    monkeypatch.setattr(rows, "REMEMBERED", 4 * 20 * 6 * 8)
    assert size < rows.REMEMBERED
    for seed in range(10):
        rows_of(features(seed))
    assert 0 < sum(each.size for each in rows._remembered.values()) <= rows.REMEMBERED
