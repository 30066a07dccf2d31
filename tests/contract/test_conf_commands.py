"""The command in each header of conf/ is one that graft accepts, as a shell would split it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from graft.config.command_line import check_command_line
from graft.config.compose import register

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted(str(file.relative_to(CONF)) for file in CONF.glob("*/*.yaml"))
EXPLAINED = "   "  # what follows so much space is said of the command


@pytest.mark.parametrize("file", FILES)
def test_the_command_is_right_but_for_its_paths(file: str) -> None:
    register()
    lines = (CONF / file).read_text(encoding="utf-8").splitlines()
    command = next(line for line in lines if "python train.py" in line).lstrip("# ").split(EXPLAINED)[0]
    faults = check_command_line(shlex.split(command)[2:], CONF)
    assert [str(fault) for fault in faults if "that exists" not in fault.expected] == []
