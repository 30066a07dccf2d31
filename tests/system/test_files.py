"""Files are written whole or not at all, whoever else writes the same path."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from graft.system.files import atomic_path, write_json, write_text


def test_threads_that_write_one_path_never_show_half_of_it(tmp_path: Path) -> None:
    path, texts, failures = tmp_path / "a.json", ["a" * 20_000, "b" * 20], list[Exception]()
    write_json(path, texts[0])
    done = threading.Event()

    def write(text: str) -> None:
        try:
            for _ in range(40):
                write_json(path, text)
        except OSError as error:
            failures.append(error)

    def read() -> None:
        while not done.is_set():
            if json.loads(path.read_text()) not in texts:
                failures.append(ValueError("neither text"))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(texts[number % 2],)) for number in range(4)]
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not failures
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_with_one_process_id_have_their_own_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
        assert first.name == second.name == "a.txt", "libraries look at the ending"
    assert path.read_text() == "first", "the last to finish"


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    leftover = next(tmp_path.glob(".a.txt.*.tmp"))
    write_text(tmp_path / "a.txt", "while it lives")
    assert leftover.exists(), "its writer may still finish"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    write_text(tmp_path / "b.txt", "of another name")
    assert leftover.exists()
    write_text(tmp_path / "a.txt", "afterwards")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt"}


def test_a_link_by_the_name_of_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".a.txt.0123456789abcdef.tmp").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "precious" / "file").exists()


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.txt", {"new": object()})
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
