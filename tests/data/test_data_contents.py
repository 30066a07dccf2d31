"""A file's content: hashed once for each version of the file, remembered, and never trusted where it may be another."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from graft.data import contents
from graft.data.contents import Contents

HASH = hashlib.sha256(b"pixels").hexdigest()[:32]


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be remembered as soon as it has been written."""
    monkeypatch.setattr(contents, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"pixels")
    return path


def looked(record: Path, *files: Path) -> Contents:
    """What a run does."""
    found = Contents(record)
    for file in files:
        assert found.of(str(file))[0] == hashlib.sha256(file.read_bytes()).hexdigest()[:32]
    found.keep()
    return found


def test_it_is_the_hash_of_the_bytes(file: Path) -> None:
    assert Contents().of(str(file)) == (HASH, file.stat())


def test_a_version_of_a_file_is_read_once(file: Path, tmp_path: Path) -> None:
    record = tmp_path / "cache" / "record"
    assert looked(record, file).hashed == 1
    assert looked(record, file).hashed == 0
    file.rename(tmp_path / "elsewhere")
    assert looked(record, tmp_path / "elsewhere").hashed == 1  # a rename is a change to the file system
    os.utime(tmp_path / "elsewhere")
    assert looked(record, tmp_path / "elsewhere").hashed == 1


def test_other_bytes_of_the_same_size_and_time_are_read(file: Path, tmp_path: Path) -> None:
    looked(tmp_path / "record", file)
    before = file.stat()
    file.write_bytes(b"others")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert looked(tmp_path / "record", file).hashed == 1


def test_a_file_that_has_just_changed_is_not_remembered(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again within the same tick of the file system's clock."""
    monkeypatch.setattr(contents, "SETTLED_SECONDS", 4.0)
    looked(tmp_path / "record", file)
    assert looked(tmp_path / "record", file).hashed == 1
    monkeypatch.setattr(time, "time", lambda: file.stat().st_ctime + 5)
    looked(tmp_path / "record", file)
    assert looked(tmp_path / "record", file).hashed == 0


def test_files_that_are_gone_leave_the_record(file: Path, tmp_path: Path) -> None:
    (tmp_path / "second").write_bytes(b"more")
    record = tmp_path / "record"
    looked(record, file, tmp_path / "second")
    size = record.stat().st_size
    looked(record, file)
    assert record.stat().st_size < size
    assert looked(record, file, tmp_path / "second").hashed == 1


@pytest.mark.parametrize(
    "content",
    [
        lambda whole: b"",
        lambda whole: whole[:-1],
        lambda whole: whole[:40] + b"\x00" + whole[41:],
        lambda whole: whole + whole,
        lambda whole: b"x" + whole[1:],
    ],
)
def test_a_damaged_record_is_none(file: Path, tmp_path: Path, content) -> None:
    record = tmp_path / "record"
    looked(record, file)
    record.write_bytes(content(record.read_bytes()))
    assert looked(record, file).hashed == 1
    assert looked(record, file).hashed == 0


def test_pipes_links_and_folders_in_its_place_are_not_read(file: Path, tmp_path: Path) -> None:
    looked(tmp_path / "whole", file)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "whole")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        assert looked(tmp_path / name, file).hashed == 1
    assert (tmp_path / "whole").stat().st_size > 0  # the link was replaced, not written through
    assert not (tmp_path / "link").is_symlink()


def test_a_folder_that_cannot_be_written_is_no_fault(file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert looked(tmp_path / "file" / "record", file).hashed == 1


def test_what_may_not_be_written_is_not(file: Path, tmp_path: Path) -> None:
    found = Contents(tmp_path / "record", writes=False)
    found.of(str(file))
    found.keep()
    assert not (tmp_path / "record").exists()
