"""What a benchmark gives graft and its peers, and what it makes of their word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models

from benchmarks.case import Measured
from benchmarks.peers import PEERS, chosen
from benchmarks.peers.__main__ import main
from benchmarks.peers.network import network_of
from benchmarks.pictures import generated, solar_cells
from benchmarks.process import Ran, run_command
from benchmarks.task import Outcome, Task
from benchmarks.training import Trained, command, prolonged
from graft.config.command_line import check_command_line
from graft.config.compose import register
from graft.config.faults import InputError, RunFailed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A ResNet-18 at 32 pixels, its last layer alone to be trained, on 12 images."""
    torch.manual_seed(0)
    save_file(models.resnet18().state_dict(), tmp_path / "donor.safetensors")
    return Task(
        images=str(generated(tmp_path / "images", {"train": 12, "val": 4, "test": 6}, size=(40, 40))),
        donor=str(tmp_path / "donor.safetensors"), library="torchvision", model="resnet18", head="fc",
        backbone="resnet18", freeze="backbone", trains=("fc",), image_size=32, mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25), epochs=2, batch_size=4, threads=torch.get_num_threads(),
    )  # fmt: skip


def test_a_command_is_measured_to_its_end() -> None:
    busy = "x = bytearray(50_000_000); import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: 1"
    ran = run_command([sys.executable, "-c", busy], threads=1)
    assert ran.processor >= 0.3
    assert ran.seconds >= 0.3
    assert ran.peak >= 50_000_000


def test_a_command_has_as_many_threads_as_it_is_given() -> None:
    look = "import os; raise SystemExit(int(os.environ['OMP_NUM_THREADS']) * int(os.environ['MKL_NUM_THREADS']) - 9)"
    assert run_command([sys.executable, "-c", look], threads=3).seconds > 0


def test_a_command_that_fails_says_its_last_words() -> None:
    with pytest.raises(RunFailed, match=r"ended with code 3: …its last words$"):
        run_command([sys.executable, "-c", "print('its last words'); raise SystemExit(3)"], threads=1)
    assert run_command([sys.executable, "-c", "raise SystemExit(3)"], threads=1, codes=[3]).seconds > 0


def test_a_peer_watched_for_a_while_is_prolonged_by_its_quickest_epoch() -> None:
    outcome = Outcome(
        training=[9.0, 8.0], epochs=[(12.0, 11.0), (10.0, 10.5)], after=(3.0, 2.0), accuracy=0.75, images=100
    )
    trained = Trained(ran=Ran(seconds=40.0, processor=35.0, peak=1), outcome=outcome)
    assert prolonged(trained, 2, 30) == Measured(
        value=40 - 3 + 28 * 10.0, processor=35 - 2 + 28 * 10.5, beside={"accuracy": 0.75, "after epochs": 2}
    )
    assert prolonged(trained, 2, 2) == Measured(value=37, processor=33, beside={"accuracy": 0.75})


def test_a_task_and_an_outcome_come_back_from_their_files(task: Task, tmp_path: Path) -> None:
    task.write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == task
    outcome = Outcome(training=[1.0], epochs=[(2.0, 1.0)], after=(0.0, 0.0), accuracy=1.0, images=3)
    outcome.write(tmp_path / "outcome.json")
    assert Outcome.read(tmp_path / "outcome.json").training == [1.0]


def test_the_command_for_a_task_is_one_that_graft_takes(task: Task, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    register()
    for cache in ("auto", "features", "none"):
        words = command(task, tmp_path, cache=cache)[2:]
        assert f"donor.path={task.donor}" in words
        assert check_command_line(words, ROOT / "conf") == []


def test_every_way_starts_from_the_donor_and_trains_what_the_task_says(task: Task) -> None:
    donor, network = load_file(task.donor), network_of(task, 2)
    state = network.state_dict()
    assert all(state[name].equal(value) for name, value in donor.items() if not name.startswith("fc."))
    assert state["fc.weight"].shape == (2, 512)
    assert [name for name, value in network.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("name", ["tutorial", "optimised"])
def test_a_loop_trains_what_the_task_says_and_nothing_else(name: str, task: Task, tmp_path: Path) -> None:
    task.write(tmp_path / "task.json")
    main(name, str(tmp_path / "task.json"), str(tmp_path / "outcome.json"))
    outcome = Outcome.read(tmp_path / "outcome.json")
    assert len(outcome.training) == len(outcome.epochs) == 2
    assert outcome.images == 12
    assert 0 <= outcome.accuracy <= 1
    assert all(whole[0] >= training for training, whole in zip(outcome.training, outcome.epochs, strict=True))
    donor, weights = load_file(task.donor), torch.load(tmp_path / "outcome.weights", weights_only=True)
    kept = [key for key, _ in models.resnet18().named_parameters() if not key.startswith("fc.")]
    assert all(weights[key].equal(donor[key]) for key in kept)
    assert not weights["fc.weight"].equal(network_of(task, 2).state_dict()["fc.weight"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the peers' own
@pytest.mark.parametrize("name", ["huggingface", "keras"])
def test_a_library_trains_what_the_task_says(name: str, task: Task, tmp_path: Path) -> None:
    task.write(tmp_path / "task.json")
    words = [sys.executable, "-m", "benchmarks.peers", name, str(tmp_path / "task.json"), str(tmp_path / "o.json")]
    run_command(words, threads=1)
    assert len(Outcome.read(tmp_path / "o.json").training) == 2


def test_peers_are_chosen_by_name_library_and_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("tutorial, optimised", "torchvision") == ["tutorial", "optimised"]
    with pytest.raises(InputError, match="timm"):
        chosen("timm", "torchvision")
    with pytest.raises(InputError, match="--peers all"):
        chosen("sklearn", "timm")
    monkeypatch.setitem(PEERS, "fastai", PEERS["tutorial"].__class__(module="x", text="x", packages=("no_such_thing",)))
    with pytest.raises(InputError, match=r"graft-transfer\[bench\]"):
        chosen("all", "timm")


def test_the_solar_cells_keep_their_parts_and_a_few_of_each_class(tmp_path: Path) -> None:
    root = solar_cells(tmp_path / "cells", 32)
    counts = {part: len(list((root / part).glob("*/*"))) for part in ("train", "val", "test")}
    assert counts == {"train": 32, "val": 16, "test": 16}
    assert {folder.name for folder in (root / "val").iterdir()} == {"functional", "defective"}
