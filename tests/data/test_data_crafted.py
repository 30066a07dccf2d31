"""Image files that were made to do harm: each is one unreadable image, named, and nothing else is lost."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.data.pixels import Unreadable, check_image, measure, read_pixels, sides

DESCRIPTION = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"


def write_npy(path: Path, description: bytes, content: bytes = b"\0" * 16) -> None:
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(description)) + description + content)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a.npy", b"x")


FILES: dict[str, Callable[[Path], None]] = {
    "parentheses": lambda path: write_npy(path, b"(((("),
    "deep": lambda path: write_npy(path, b"(" * 9000),
    "a terabyte": lambda path: write_npy(path, (DESCRIPTION % "(1000000, 1000000)").encode()),
    "more than numbers hold": lambda path: write_npy(path, (DESCRIPTION % f"({2**62}, {2**62})").encode()),
    "negative": lambda path: write_npy(path, (DESCRIPTION % "(-4, -4)").encode()),
    "no dimension": lambda path: write_npy(path, (DESCRIPTION % "()").encode()),
    "other bytes first": lambda path: write_npy(path, b"{'descr': '>u2', 'fortran_order': False, 'shape': (2, 4), }"),
    "objects": lambda path: write_npy(path, b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }"),
    "zip": write_zip,
    "fifo": os.mkfifo,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("write", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_a_crafted_file_is_unreadable_and_named(tmp_path: Path, write: Callable[[Path], None], suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    write(path)
    for read in (
        lambda: read_pixels(str(path), 3),
        lambda: measure(str(path)),
        lambda: sides(str(path)),
        lambda: check_image(str(path), 3, thorough=True),
        lambda: check_image(str(path), 3, thorough=False),
    ):
        with pytest.raises(Unreadable) as caught:
            read()
        assert caught.value.path == str(path)


def test_arrays_are_read_as_before(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    np.save(tmp_path / "a.npy", array)
    pixels = read_pixels(str(tmp_path / "a.npy"), 3)
    assert (pixels == array).all()
    assert pixels.flags.writeable
    assert measure(str(tmp_path / "a.npy")) == (4, 5, False)
    assert sides(str(tmp_path / "a.npy")) == (4, 5)


def check_bytes(path: Path, place: int, content: bytes) -> None:
    np.save(path, np.zeros((4, 5), np.uint8))
    whole = bytearray(path.read_bytes())
    place %= len(whole)
    whole[place : place + len(content)] = content
    path.write_bytes(whole)
    with suppress(Unreadable):
        assert read_pixels(str(path), 1).shape[2] == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 200), content=st.binary(min_size=1, max_size=12))
def test_an_array_with_other_bytes_is_an_image_or_unreadable(tmp_path: Path, place: int, content: bytes) -> None:
    check_bytes(tmp_path / "a.npy", place, content)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 200), content=st.binary(min_size=1, max_size=12))
def test_many_arrays_with_other_bytes_are_images_or_unreadable(tmp_path: Path, place: int, content: bytes) -> None:
    check_bytes(tmp_path / "a.npy", place, content)
