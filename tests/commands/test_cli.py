"""The `graft` command: what it offers, and its answers to mistakes, without torch."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import graft
from graft.commands.cli import COMMANDS, dispatch, main, usage
from graft.config.faults import InputError, RunFailed
from graft.config.program import program


def test_every_command_offers_what_the_door_calls():
    for module, _ in COMMANDS.values():
        command = import_module(module)
        assert callable(command.configure)
        assert callable(command.run)


def test_help_lists_the_commands_and_imports_no_torch():
    check = "assert 'torch' not in sys.modules"
    code = f"import sys; from graft.commands.cli import main; sys.argv = ['graft', '--help']; main(); {check}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == usage()
    for name in COMMANDS:
        assert name in done.stdout


def test_an_unknown_command_names_the_nearest():
    with pytest.raises(InputError, match="try predict"):
        dispatch(["predct"])


def graft_command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from graft.commands.cli import main; sys.exit(main())", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_training_is_a_command_in_any_folder(tmp_path):
    shown = graft_command("train", "--cfg", "job", "seed=5", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\nseed: 5\n" in shown.stdout
    asked = graft_command("train", "--help", folder=tmp_path)
    assert "\n  graft train [group=option] [key=value] …\n" in asked.stdout
    assert "train.py" not in asked.stdout
    assert list(tmp_path.iterdir()) == []


def test_plan_is_training_in_that_mode(tmp_path):
    shown = graft_command("plan", "--cfg", "job", folder=tmp_path)
    assert "mode: plan\n" in shown.stdout
    wrong = graft_command("plan", "optimizer.lrr=1", folder=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "optimizer.lrr: expected a key of the config, received an unknown key; try optimizer.lr\n"


def test_what_is_printed_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/graft", "best"])
    assert program() == ["graft", "train"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py"), "seed=1"])
    assert program() == ["python", "train.py"]
    module = SimpleNamespace(name="graft.commands.train")  # whose file has the script's name
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", module)
    assert program() == ["graft", "train"]


def test_mistakes_end_with_code_2_and_a_paragraph(tmp_path):
    code = "import sys; from graft.commands.cli import main; sys.argv[:1] = ['graft', 'report']; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "none")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("graft: ")
    assert "Traceback" not in done.stderr


def fails(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("expected a, received b"), 2, "graft: expected a, received b\n"),
        (RunFailed("the weights moved"), 1, "graft: the weights moved\n"),
        (OSError(28, "No space left on device"), 1, "graft: OSError: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "graft: stopped\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_each_end_has_its_exit_code_and_a_paragraph(error, code, said, monkeypatch, capsys):
    monkeypatch.setattr("graft.commands.report.run", fails(error))
    monkeypatch.setattr(sys, "argv", ["graft", "report", "run"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert main() == code
    assert capsys.readouterr().err == said


def test_a_mistake_of_grafts_own_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("graft.commands.report.run", fails(KeyError("x")))
    monkeypatch.setattr(sys, "argv", ["graft", "report", "run"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(KeyError, match="x"):
        main()


def test_a_file_of_grafts_own_that_is_missing_keeps_its_traceback(monkeypatch, tmp_path, capsys):
    """A user's file that is missing does not: nothing in graft has to be mended for it."""
    monkeypatch.setattr(sys, "argv", ["graft", "report", "run"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    own = Path(graft.__file__).parent / "models" / "no_such_table.csv"
    monkeypatch.setattr("graft.commands.report.run", lambda args: own.stat())
    with pytest.raises(FileNotFoundError, match="no_such_table"):
        main()
    monkeypatch.setattr("graft.commands.report.run", lambda args: (tmp_path / "mine.csv").stat())
    assert main() == 1
    assert capsys.readouterr().err.startswith("graft: FileNotFoundError: ")


def test_the_traceback_is_there_for_who_asks_for_it(monkeypatch):
    monkeypatch.setattr("graft.commands.report.run", fails(OSError(28, "No space left on device")))
    monkeypatch.setattr(sys, "argv", ["graft", "report", "run"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(OSError, match="No space left"):
        main()
