"""The array store: what is read back is what was written, or it is known not to be."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import pytest
import torch

from graft.features import header, store
from graft.features.header import Damaged, array_bytes, read_header
from graft.features.store import Writer, entry_bytes, entry_path, open_entry
from graft.system.stopping import Stopped

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BLOCK", 256)
    monkeypatch.setattr(header, "BLOCK", 256)


def write(folder: Path, rows: torch.Tensor, dtype: str = "float32") -> Path:
    with Writer(folder, KEY, tuple(rows.shape), dtype, {"cut": "layer3"}) as writer:
        for piece in rows.split(3):
            writer.append(piece)
        writer.seal()
    return entry_path(folder, KEY)


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
def test_rows_come_back_bit_for_bit(tmp_path: Path, dtype: str, resident_bytes: int) -> None:
    rows = (torch.randn(10, 4, 5) * 50).abs().to(store.DTYPES[dtype])
    write(tmp_path, rows, dtype)
    entry = open_entry(tmp_path, KEY, resident_bytes=resident_bytes)
    assert entry is not None
    assert entry.resident is (resident_bytes > 0)
    assert entry.tensor.dtype == rows.dtype
    assert torch.equal(entry.tensor, rows)
    assert entry.header.record == {"cut": "layer3"}


def test_size_on_disk_is_the_size_announced(tmp_path: Path) -> None:
    path = write(tmp_path, torch.randn(10, 400))
    assert path.stat().st_size == entry_bytes((10, 400), "float32", {"cut": "layer3"})
    assert array_bytes((10, 400), "bfloat16") == 8000


def test_no_entry_is_none(tmp_path: Path) -> None:
    assert open_entry(tmp_path, KEY) is None


def test_changing_the_tensor_leaves_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, torch.zeros(10, 400))
    before = path.read_bytes()
    entry = open_entry(tmp_path, KEY)
    assert entry is not None
    entry.tensor.fill_(1)
    assert path.read_bytes() == before


def test_a_worker_maps_the_file_instead_of_receiving_the_rows(tmp_path: Path) -> None:
    rows = torch.randn(50, 400)
    write(tmp_path, rows)
    entry = open_entry(tmp_path, KEY, resident_bytes=1 << 30)
    pickled = pickle.dumps(entry)
    assert len(pickled) < 1000
    received = pickle.loads(pickled)
    assert torch.equal(received.tensor, rows)


def test_unsealed_leaves_nothing(tmp_path: Path) -> None:
    with Writer(tmp_path, KEY, (4, 2), "float32") as writer:
        writer.append(torch.zeros(3, 2))
    assert list(tmp_path.iterdir()) == []


def test_sealing_too_early_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path, KEY, (4, 2), "float32")
    writer.append(torch.zeros(3, 2))
    with pytest.raises(AssertionError, match="every row"):
        writer.seal()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_any_flipped_bit_is_found(tmp_path: Path, resident_bytes: int) -> None:
    path = write(tmp_path, torch.randn(10, 40))
    whole = path.read_bytes()
    first_row = len(whole) - 1600
    header_end = len(whole[:first_row].rstrip(b"\0"))
    for position in (0, 9, 13, 20, header_end - 1, first_row, first_row + 255, first_row + 256, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(Damaged):
            open_entry(tmp_path, KEY, resident_bytes=resident_bytes)
    path.write_bytes(whole)
    assert open_entry(tmp_path, KEY, resident_bytes=resident_bytes) is not None


@pytest.mark.parametrize("length", [0, 8, 15, 100, 4096, 5000])
def test_a_truncated_entry_is_found(tmp_path: Path, length: int) -> None:
    path = write(tmp_path, torch.randn(10, 40))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(Damaged, match=path.name):
        open_entry(tmp_path, KEY)
    with pytest.raises(Damaged, match=path.name):
        read_header(path)


def test_an_entry_under_anothers_name_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, torch.randn(10, 40))
    path.rename(entry_path(tmp_path, "cd" * 32))
    with pytest.raises(Damaged, match=KEY):
        open_entry(tmp_path, "cd" * 32)


def test_a_signal_while_room_is_claimed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGUSR1)

    monkeypatch.setattr(os, "posix_fallocate", stopped)
    with pytest.raises(Stopped):
        Writer(tmp_path, "0" * 64, (2, 3), "float32")
    assert list(tmp_path.iterdir()) == []
