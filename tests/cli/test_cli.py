"""The `graft` command: what it offers, and its answers to mistakes, without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from graft.cli import COMMANDS, dispatch, usage
from graft.config.faults import InputError


def test_every_command_offers_what_the_door_calls():
    for module, _ in COMMANDS.values():
        command = import_module(module)
        assert callable(command.configure)
        assert callable(command.run)


def test_help_lists_the_commands_and_imports_no_torch():
    check = "assert 'torch' not in sys.modules"
    code = f"import sys; from graft.cli import main; sys.argv = ['graft', '--help']; main(); {check}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == usage()
    for name in COMMANDS:
        assert name in done.stdout


def test_an_unknown_command_names_the_nearest():
    with pytest.raises(InputError, match="try predict"):
        dispatch(["predct"])


def test_plan_needs_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cd"):
        dispatch(["plan"])


def test_mistakes_end_with_code_2_and_a_paragraph(tmp_path):
    code = "import sys; from graft.cli import main; sys.argv = ['graft', 'report', sys.argv[1]]; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "none")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("graft: ")
    assert "Traceback" not in done.stderr
