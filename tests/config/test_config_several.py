"""More than one process: what is answered before any is started."""

import pytest

from graft.config.command_line import check_command_line
from graft.config.compose import register

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}


def faults(root, *words):
    register()
    return [str(fault) for fault in check_command_line(list(words), root / "conf")]


@pytest.mark.parametrize("words", [("trainer=ddp",), ("trainer.devices=1,2",), ("trainer.devices=2,1",)])
def test_a_sweep_does_not_start_processes_that_would_repeat_it(root, words):
    assert faults(root, "-m", "seed=0,1", *words) == [
        "trainer.devices: expected 1 with -m, where every further process would repeat the whole sweep, received 2;"
        " try hydra/launcher=process"
    ]
    assert faults(root, "-m", "seed=0,1", *words, "hydra/launcher=process") == []


def test_a_single_run_may_start_them(root):
    assert faults(root, "trainer=ddp") == []


def test_torchrun_must_start_as_many_as_are_asked_for(root, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert faults(root, "trainer=ddp", "hydra.run.dir=outputs/x") == []
    assert faults(root, "hydra.run.dir=outputs/x") == [
        "trainer.devices: expected as many processes as torchrun has started (2), received 1 on 1 machine;"
        " try trainer=ddp trainer.devices=2"
    ]


def test_torchrun_starts_no_sweep_that_keeps_a_ledger(root, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    words = ("-m", "seed=0,1", "trainer=ddp", "hydra.sweep.dir=outputs/x")
    for sweeper in ("grid", "bayes"):
        assert faults(root, *words, f"hydra/sweeper={sweeper}") == [
            "-m: expected one process for the sweep, which starts those of each trial itself, received 2 processes of"
            " torchrun's; try python train.py -m hydra/launcher=process trainer=ddp trainer.devices=2 …"
        ]
    assert faults(root, *words, "hydra/sweeper=basic") == []
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert faults(root, "-m", "seed=0,1", "hydra.sweep.dir=outputs/x") == []


def test_torchrun_needs_a_folder_by_its_name(root, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert faults(root, "trainer=ddp") == [
        "hydra.run.dir: expected a folder by its name with torchrun, as a time differs from process to process,"
        " received none; try hydra.run.dir=outputs/NAME"
    ]


def test_several_processes_need_a_batch_size(root):
    assert faults(root, "trainer=ddp", "data.batch_size=auto") == [
        "data.batch_size: expected a number with several processes, which must agree on it, received auto;"
        " try data.batch_size=32"
    ]
