"""Values that are not finite: found in one pass over a file, named tensor by tensor, and looked for only where used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from graft.transfer import TransferError, transfer
from graft.transfer.donor import count_unsound, is_finite
from graft.transfer.donors import open_donor

LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        (torch.tensor([1.0, -2.0]), True),
        (torch.tensor([LARGEST, LARGEST]), True),  # their sum overflows
        (torch.full((9,), 60000.0, dtype=torch.float16), True),
        (torch.tensor([float("inf"), float("-inf")]), False),
        (torch.tensor([1.0, float("nan")], dtype=torch.bfloat16), False),
        (torch.tensor([1.0, float("nan")]).to(torch.float8_e5m2), False),
        (torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn), True),
        (torch.tensor([complex(1, float("inf"))]), False),
        (torch.tensor([2**62, 2**62]), True),
        (torch.empty(0), True),
    ],
)
def test_finite_values_of_every_precision(values: torch.Tensor, finite: bool) -> None:
    assert is_finite(values) is finite


def test_what_is_unsound_is_counted() -> None:
    assert count_unsound(torch.tensor([1.0, float("nan"), float("inf"), float("-inf")])) == (1, 2)


def stored(folder: Path, **changed: torch.Tensor) -> Path:
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).state_dict()
    path = folder / "donor.safetensors"
    save_file({**state, **{name.replace("__", "."): value for name, value in changed.items()}}, path)
    return path


def test_a_file_s_floating_values_are_looked_at_as_one_run(tmp_path: Path) -> None:
    with open_donor(stored(tmp_path)) as donor:
        floating = [name for name, info in donor.infos.items() if info.dtype == "float32"]
        assert [run.numel() for run in donor.runs] == [sum(donor.read(name).numel() for name in floating)]
        assert donor.is_finite()


def test_runs_end_where_the_precision_changes(tmp_path: Path) -> None:
    path = tmp_path / "mixed.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.float16), "c": torch.arange(3)}, path)
    with open_donor(path) as donor:
        assert [(run.dtype, run.sum().item()) for run in donor.runs] == [(torch.float32, 3.0), (torch.float16, 2.0)]


def test_a_file_s_nan_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = stored(tmp_path, **{"2__bias": torch.tensor([float("nan"), float("inf")])})
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(TransferError, match=r"donor 2\.bias: expected finite values, received 1 NaN and 1 infinite of"):
        transfer(path, target)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_nan_in_what_is_not_used_does_no_harm(tmp_path: Path) -> None:
    path = stored(tmp_path, **{"2__bias": torch.tensor([float("nan"), 0.0])})
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ledger = transfer(path, target, ignore=["2.*"])
    assert ledger.summary["copied"] == 7
    assert torch.isfinite(target[0].weight).all()


def test_values_behind_a_header_that_is_not_aligned(tmp_path: Path) -> None:
    path = stored(tmp_path)
    expected = {name: value.clone() for name, value in load_file(path).items()}  # which maps the file
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].rstrip()
    header += b" " * (1 - len(header) % 4 + 4)
    assert len(header) % 4 == 1
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    transfer(path, target)
    assert all(torch.equal(value, expected[name]) for name, value in target.state_dict().items())
