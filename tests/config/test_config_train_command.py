"""The real command: how fast it answers, what it never imports, its exit codes, its help, tab completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.config.help import groups_of

Command = Callable[..., "subprocess.CompletedProcess[str]"]

MISTAKES = (
    *("optimizer.lrr=1", "optimizer.lr=-1", "donor=fil", "data=folder", "data.batch_size=many", "freeze=[a"),
    *("+experiment=none_such", "--lr", "0.1"),
)


def imported(words: tuple[str, ...], root: Path) -> tuple[int, str, set[str]]:
    """Exit code, standard error without the import log, and the modules that `python train.py` imported."""
    command = [sys.executable, "-X", "importtime", "train.py", *words]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    lines = ended.stderr.splitlines()
    modules = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    said = "\n".join(line for line in lines if not line.startswith("import time:"))
    return ended.returncode, said, modules


def test_mistakes_are_answered_together_without_torch(root: Path) -> None:
    code, said, modules = imported(MISTAKES, root)
    assert code == 2
    keys = [line.split(":")[0] for line in said.splitlines()]
    assert keys == [
        *("--lr", "optimizer.lrr", "donor", "freeze", "+experiment", "experiment"),
        *("optimizer.lr", "data.batch_size", "data.root"),
    ]
    assert "Traceback" not in said
    assert "hydra" in modules
    assert modules & {"torch", "lightning", "torchvision", "timm", "numpy", "matplotlib"} == set()


@pytest.mark.parametrize("words", [("--help",), ("--cfg", "job"), ("-sc", "install=bash"), ("--version",)])
def test_questions_are_answered_without_torch(words: tuple[str, ...], root: Path) -> None:
    code, _, modules = imported(words, root)
    assert code == 0
    assert modules & {"torch", "lightning", "numpy"} == set()


def test_a_config_that_is_shown_is_checked_too(train: Command) -> None:
    ended = train("--cfg", "job", "optimizer.lrr=1")
    assert ended.returncode == 2
    assert ended.stderr == "optimizer.lrr: expected a key of the config, received an unknown key; try optimizer.lr\n"


def test_help_explains_the_job_and_lists_every_group_and_option(train: Command, root: Path) -> None:
    page = train("--help").stdout
    assert page.startswith("graft: transfer learning with every tensor accounted for.")
    assert page.count("python train.py") >= 6
    for group, options in groups_of(root / "conf").items():
        assert f"\n  {group} " in page
        assert all(option in page for option in options)
    for default in ("[efficientnet_lite0]", "[pretrained]", "[linear]", "[never]", "[solar_cells]", "freeze=backbone"):
        assert default in page
    assert "optimizer.lr=0.001          Learning rate of the trunk" in page
    assert 'eval "$(python train.py -sc install=bash)"' in page
    assert max(len(line) for line in page.splitlines()) <= 120


def test_help_stops_quietly_when_nobody_reads_on(root: Path) -> None:
    script = f"'{sys.executable}' train.py --help | head -1"
    run = subprocess.run(["sh", "-c", script], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout == "graft: transfer learning with every tensor accounted for.\n"
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("do", ["donor.", "donor="]),
        ("donor=f", ["donor=file"]),
        ("optimizer.l", ["optimizer.layer_decay=", "optimizer.lr=", "optimizer.lr_scale."]),
        ("seed=1 experiment=solar_cells_f", ["experiment=solar_cells_finetune"]),
    ],
)
def test_tab_completes_groups_options_and_keys(typed: str, completed: list[str], train: Command) -> None:
    ended = train("-sc", "query=bash", env={"COMP_LINE": f"python train.py {typed}"})
    assert ended.stdout.split() == completed


def test_tab_completes_in_a_real_bash(root: Path) -> None:
    script = (
        'eval "$(python train.py -sc install=bash)"; COMP_LINE="python train.py donor=f"; COMP_POINT=${#COMP_LINE};'
        'COMP_CWORD=2; COMP_WORDS=(python train.py donor=f); hydra_bash_completion; echo "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-c", script]
    ended = subprocess.run(
        command, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.stdout.split() == ["donor=file"]


# In place of graft.pipeline.run, whose own tests are elsewhere: what train.py does with each way that a run can end.
STAND_IN = """
import runpy, sys, types
from graft.config.faults import InputError, RunFailed
ENDS = {
    1: RunFailed("the loss is not finite"), 2: InputError("no images"), 3: OSError(28, "No space left"),
    5: KeyError("x"),
}
def run(config, folder, overrides, signals=None, watcher=None, inputs=None):
    if config.seed in ENDS:
        raise ENDS[config.seed]
    print(config.seed, folder.is_dir(), *overrides)
    (folder / "metrics.json").write_text('{"val/loss": 0.5}')
sys.modules["graft.pipeline.run"] = types.SimpleNamespace(run=run)
sys.modules["graft.pipeline.inputs"] = types.SimpleNamespace(shared_inputs=lambda: None)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def ended(root: Path, *words: str, full: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STAND_IN, *words]
    env = {**os.environ, **({"HYDRA_FULL_ERROR": "1"} if full else {})}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("seed", "code", "said"),
    [
        (0, 0, ""),
        (1, 1, "the loss is not finite\n"),
        (2, 2, "no images\n"),
        (3, 1, "OSError: [Errno 28] No space left\n"),
    ],
)
def test_each_end_has_its_exit_code_and_one_paragraph(
    seed: int, code: int, said: str, root: Path, tmp_path: Path
) -> None:
    run = ended(root, f"seed={seed}", f"hydra.run.dir={tmp_path}/run")
    assert (run.returncode, run.stderr) == (code, said)
    assert run.stdout == ("0 True seed=0\n" if seed == 0 else "")


def test_a_mistake_of_grafts_own_shows_where_it_is(root: Path, tmp_path: Path) -> None:
    run = ended(root, "seed=5", f"hydra.run.dir={tmp_path}/run")
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert "KeyError: 'x'" in run.stderr


def test_a_sweep_goes_on_after_a_mistake_of_grafts_own(root: Path, tmp_path: Path) -> None:
    sweep = ended(root, "-m", "seed=5,0", f"hydra.sweep.dir={tmp_path}/sweep")
    assert sweep.returncode == 1
    assert "0 True seed=0" in sweep.stdout
    assert "      0  seed=5     KeyError: 'x'" in sweep.stderr


def test_the_traceback_comes_on_request(root: Path, tmp_path: Path) -> None:
    run = ended(root, "seed=3", f"hydra.run.dir={tmp_path}/run", full=True)
    assert run.returncode == 1
    assert "Traceback" in run.stderr


def test_a_sweep_goes_on_after_a_failed_run_and_ends_with_1(root: Path, tmp_path: Path) -> None:
    sweep = ended(root, "-m", "seed=0,1,4", f"hydra.sweep.dir={tmp_path}/sweep")
    assert sweep.returncode == 1
    assert "0 True seed=0" in sweep.stdout
    assert "4 True seed=4" in sweep.stdout
    assert "1 of 3 trials failed:" in sweep.stderr
    assert "      1  seed=1     the loss is not finite" in sweep.stderr
    assert "Traceback" not in sweep.stderr
