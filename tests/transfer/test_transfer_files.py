"""From a file's path to a module, and the hash that the ledger records."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graft import TransferError, transfer
from graft.config.faults import InputError
from graft.models.fingerprint import fingerprint


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))


def saved(folder: Path, values: dict[str, torch.Tensor], suffix: str) -> Path:
    path = folder / f"donor{suffix}"
    if suffix == ".safetensors":
        save_file(values, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in values.items()}, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_a_donor(tmp_path: Path, suffix: str, kind: type) -> None:
    donor, target = net(), net()
    path = saved(tmp_path, donor.state_dict(), suffix)
    ledger = transfer(kind(path), target)
    assert all(torch.equal(value, donor.state_dict()[name]) for name, value in target.state_dict().items())
    assert ledger.to_dict()["donor"]["source"] == str(path)
    assert ledger.to_dict()["donor"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_live_tensors_have_a_hash_of_their_own_that_stays() -> None:
    donor = net()
    ledger = transfer(donor, net())
    digest = ledger.to_dict()["donor"]["sha256"]
    assert digest == fingerprint(donor)
    assert transfer(dict(donor.state_dict()), net()).sha256 == digest
    with torch.no_grad():
        donor[0].bias[0] += 1
    assert ledger.sha256 == digest
    assert transfer(donor, net()).sha256 == fingerprint(donor) != digest


def test_the_hash_of_a_layer_is_of_what_it_held_before() -> None:
    """Even where the transfer itself overwrites it: both layers share their memory."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.bias = first.bias
    before = fingerprint(first)
    assert transfer(first, second, match="name").sha256 == before


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_module_outlives_its_file(tmp_path: Path, suffix: str) -> None:
    """Values were copied out of the mapping: overwriting the file does not reach the module."""
    target = net()
    path = saved(tmp_path, net().state_dict(), suffix)
    transfer(path, target)
    before = target[0].weight.clone()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(target[0].weight, before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_nan_in_the_last_tensor_of_a_file_leaves_the_target_alone(tmp_path: Path, suffix: str) -> None:
    values, target = net().state_dict(), net()
    values["1.running_var"][2] = torch.nan
    before = target[0].weight.clone()
    with pytest.raises(
        TransferError, match=r"1.running_var: expected finite values, received 1 NaN and 0 infinite of 6"
    ):
        transfer(saved(tmp_path, values, suffix), target)
    assert torch.equal(target[0].weight, before)


def test_the_hash_is_of_the_file_that_was_read_or_of_none(tmp_path: Path) -> None:
    path = saved(tmp_path, net().state_dict(), ".safetensors")
    ledger = transfer(path, net())
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="expected the file as it was opened, received a changed one"):
        ledger.to_dict()
