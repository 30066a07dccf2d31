"""Names from files cannot steer the terminal, and no terminal is too poor for graft's letters."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from graft.commands.cli import exit_code
from graft.config.faults import InputError
from graft.page.terminal import aligned, print_table
from graft.system.processes import say
from graft.system.terminal import printable

HOSTILE = "a\x1b[31m\x9b2J\r\x07b\u202ec\udcffd"
SHOWN = r"a\x1b[31m\x9b2J\r\x07b\u202ec\udcffd"


def refuse() -> int:
    raise InputError(HOSTILE)


def test_what_steers_is_written_as_an_escape_and_the_rest_stays() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("Zürich → 東京\n\tx = 1") == "Zürich → 東京\n\tx = 1"


def test_lines_tables_and_errors_pass_it(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    print_table(["name"], [[HOSTILE]])
    assert exit_code("graft", refuse) == 2
    output, errors = capsys.readouterr()
    assert output.count(SHOWN) == 2
    assert SHOWN in errors
    assert not set("\x1b\x9b\x07") & set(output + errors)
    assert aligned([[HOSTILE]]) == [SHOWN]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_an_arrow_gets_an_escape(encoding: str) -> None:
    program = "from graft.system.terminal import accept_every_letter as a; a(); print('a \\u2192 b')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == b"a \\u2192 b\n"
