"""A watched training ends when its watcher says so, in all of its processes at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from graft.finetune.checkpoint import FOLDER, LAST
from graft.finetune.pruning import Pruned, Pruning


class Patience:
    """Stops after so many epochs, and keeps what it was told."""

    def __init__(self, epochs):
        self.epochs = epochs
        self.told = []

    def should_stop(self, step, figures):
        self.told.append((step, figures["val/loss"]))
        return step + 1 == self.epochs


def test_it_is_asked_after_each_epoch_until_it_says_stop(tiny, tmp_path):
    watcher = Patience(2)
    with pytest.raises(Pruned, match="stopped early, after epoch 2") as pruned:
        tiny.fit(tiny.tuning(), tiny.Data(), tmp_path, trainer=tiny.trainer(max_epochs=4), watcher=watcher)
    assert [row["epoch"] for row in pruned.value.history] == [1, 2]
    assert watcher.told == [(row["epoch"] - 1, row["val/loss"]) for row in pruned.value.history]


def test_one_that_never_says_stop_changes_nothing(tiny, tmp_path):
    watcher = Patience(0)
    watched = tiny.fit(tiny.tuning(), tiny.Data(), tmp_path / "a", trainer=tiny.trainer(), watcher=watcher)
    alone = tiny.fit(tiny.tuning(), tiny.Data(), tmp_path / "b", trainer=tiny.trainer())
    assert watched.metrics == alone.metrics
    assert (tmp_path / "a" / FOLDER / LAST).exists()
    assert len(watcher.told) == watched.epochs


@pytest.mark.parametrize(("first", "own", "heard"), [(True, True, True), (False, False, True), (False, False, False)])
def test_the_first_process_alone_asks_and_every_one_heeds_its_answer(first, own, heard):
    watcher, sent = Patience(1), []

    def broadcast(answer):
        sent.append(answer)
        return heard

    trainer = SimpleNamespace(is_global_zero=first, strategy=SimpleNamespace(broadcast=broadcast))
    with pytest.raises(Pruned) if heard else nullcontext():
        Pruning(watcher).on_train_epoch_end(trainer, SimpleNamespace(history=[{"val/loss": 0.5}]))
    assert sent == [own]
    assert watcher.told == ([(0, 0.5)] if first else [])


RANK = """
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
import torch
sys.path.insert(0, sys.argv[1])
import conftest
from graft.finetune.module import FineTuning
from graft.finetune.pruning import Pruned
from test_finetune_pruning import Patience

tuning, data = conftest.tuning(), conftest.Data()
watcher = Patience(2)
try:
    conftest.fit(tuning, data, Path(sys.argv[2]), trainer=conftest.trainer(devices=2, max_epochs=4), watcher=watcher)
except Pruned as pruned:
    print(len(watcher.told), len(pruned.history))
"""


@pytest.mark.slow
def test_processes_that_train_together_leave_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, "-c", RANK, str(Path(__file__).parent), str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
                 "TORCHELASTIC_RUN_ID": "test"},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    assert said == [["2", "2"], ["0", "2"]]
