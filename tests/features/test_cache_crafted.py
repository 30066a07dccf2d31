"""Cache entries are a stranger's: whatever a header says, the entry is used as it was written or computed afresh."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.commands.cli import dispatch
from graft.features import header as headers
from graft.features.cache_folder import CacheFolder
from graft.features.store import entry_path
from tests.json_mutations import mutated

KEY = "ab" * 32
ROWS = torch.arange(2000.0).view(100, 20)


def ask(folder: Path, messages: list[str], rows: torch.Tensor = ROWS) -> torch.Tensor:
    cache = CacheFolder(folder, max_gb=1, say=messages.append)
    entry = cache.open_or_write(
        KEY, shape=tuple(rows.shape), dtype="float32", record={}, fill=lambda writer: writer.append(rows)
    )
    return entry.tensor


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Changes the header of an entry, and its checksum with it."""
    content = path.read_bytes()
    _, length, _ = headers._PREAMBLE.unpack(content[: headers._PREAMBLE.size])
    old = content[headers._PREAMBLE.size :][:length]
    text = json.dumps(change(json.loads(old))).encode()
    preamble = headers._PREAMBLE.pack(headers._MAGIC, len(text), zlib.crc32(text))
    path.write_bytes(
        (preamble + text).ljust(headers.first_row(len(text)), b"\0") + content[headers.first_row(length) :]
    )


CHANGES: dict[str, dict[str, Any]] = {
    "a negative block": {"block_bytes": -5},
    "no block": {"block_bytes": 0},
    "a block of text": {"block_bytes": "many"},
    "an unknown dtype": {"dtype": "complex128"},
    "a dtype that is a list": {"dtype": []},
    "a shape of text": {"shape": ["100", "20"]},
    "a shape that is a number": {"shape": 2000},
    "a negative shape": {"shape": [-100, -20]},
    "a huge shape": {"shape": [2**63, 2**63]},
    "many dimensions": {"shape": [1] * 70 + [2000]},
    "another shape of the same size": {"shape": [20, 100]},
    "checksums that are none": {"checksums": "zzzzzzzz"},
    "no checksums": {"checksums": ""},
    "a record that is a list": {"record": []},
    "a further field": {"more": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_crafted_header_is_damage_and_the_entry_is_computed_afresh(tmp_path: Path, change: dict[str, Any]) -> None:
    messages: list[str] = []
    ask(tmp_path, messages)
    rewrite(entry_path(tmp_path, KEY), lambda values: {**values, **change})
    assert torch.equal(ask(tmp_path, messages), ROWS)
    assert len(messages) == 1
    assert "computed afresh" in messages[0]


@pytest.mark.parametrize("text", [b"[" * 100_000, b"7", b"{}", b"\xff\xfe"])
def test_a_header_that_is_no_object_is_damage(tmp_path: Path, text: bytes) -> None:
    path = entry_path(tmp_path, KEY)
    preamble = headers._PREAMBLE.pack(headers._MAGIC, len(text), zlib.crc32(text))
    path.write_bytes((preamble + text).ljust(headers.first_row(len(text)), b"\0"))
    messages: list[str] = []
    assert torch.equal(ask(tmp_path, messages), ROWS)
    assert len(messages) == 1


@pytest.mark.parametrize("plant", ["fifo", "link", "socket"])
def test_what_is_no_file_is_damage_and_hangs_nobody(tmp_path: Path, plant: str) -> None:
    path, victim = entry_path(tmp_path, KEY), tmp_path / "victim"
    victim.write_text("precious")
    {
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(victim),
        "socket": lambda: os.mknod(path, 0o140600),
    }[plant]()
    messages: list[str] = []
    assert torch.equal(ask(tmp_path, messages), ROWS)
    assert "computed afresh" in messages[0]
    assert victim.read_text() == "precious"


def test_a_folder_by_an_entrys_name_is_answered_in_words(tmp_path: Path) -> None:
    from graft.config.faults import InputError

    entry_path(tmp_path, KEY).mkdir()
    with pytest.raises(InputError, match=r"cache\.dir: .* did not take an entry \(.*Is a directory"):
        ask(tmp_path, [])


def test_the_list_shows_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(tmp_path, [])
    rewrite(entry_path(tmp_path, KEY), lambda values: {**values, "record": {"what": "\x1b[31mred\nline"}})
    assert dispatch(["cache", "list", "--dir", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert len(output.splitlines()) == 2


def check_header(folder: Path, change: Callable[[Any], Any]) -> None:
    folder.mkdir(exist_ok=True)
    messages: list[str] = []
    ask(folder, messages)
    rewrite(entry_path(folder, KEY), change)
    for listed in CacheFolder(folder, max_gb=1, say=messages.append).entries():
        assert listed.fault or listed.header
    assert torch.equal(ask(folder, messages), ROWS)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=mutated())
def test_any_header_gives_the_rows(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    check_header(tmp_path / "cache", change)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=mutated(), more=st.integers(0, 3))
def test_any_of_many_headers_gives_the_rows(tmp_path: Path, change: Callable[[Any], Any], more: int) -> None:
    check_header(tmp_path / f"cache{more}", change)
