"""Two processes over gloo: they hold the same weights, and those are what one process with the same batches gets."""

import os
import signal

import pytest
import torch
from torch import nn

from graft.config.schema import MethodConfig, SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.finetune.methods.l2_sp import anchored
from graft.finetune.module import FineTuning
from graft.models.stages import tensor_names
from graft.system.stopping import Stopped, StopSignals
from tests.finetune.processes import plain_network, processes

pytestmark = pytest.mark.slow

SCHEDULES = {
    "never": {"freeze": "layer1-2", "kind": UnfreezeKind.never},
    "gradual": {
        "freeze": "backbone",
        "kind": UnfreezeKind.gradual,
        "unfreeze": {"start": "3 steps", "every": "3 steps"},
    },
    "lp_ft": {"freeze": "backbone", "kind": UnfreezeKind.lp_ft, "unfreeze": {"start": "4 steps"}},
    "at": {
        "freeze": "layer1",
        "kind": UnfreezeKind.at,
        "unfreeze": {"table": {"2 steps": "layer1-3", "5 steps": "layer1"}},
    },
}


class Shared:
    """The tests' data, each process's share of it drawn by its rank."""

    def __new__(cls, tiny, batch_size):
        class Data(tiny.Data):
            def loader(self, part):
                loader = super().loader(part)
                sampler = loader.batch_sampler
                if self.trainer is not None:
                    sampler.rank, sampler.world = self.trainer.global_rank, self.trainer.world_size
                return loader

        return Data(batch_size=batch_size, train=27)  # the last step: two images here, one there


def train(tiny, folder, count, schedule, **changes):
    """A run of 2 epochs of 7 steps whose batches of 4 images are shared out to so many processes."""
    tuning = tiny.tuning(
        plain_network(tiny), **SCHEDULES[schedule], scheduler=SchedulerConfig(kind=SchedulerKind.constant)
    )
    settings = {"devices": count, "strategy": "ddp" if count > 1 else "auto", "max_epochs": 2}
    result = tiny.fit(
        tuning, Shared(tiny, 4 // count), folder, trainer=tiny.trainer(**settings),
        checkpoint=tiny.checkpoint(every_n_steps=1), **changes,
    )  # fmt: skip
    return tuning, result


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_two_processes_train_as_one_does(tiny, tmp_path, schedule):
    def work(rank):
        tuning, result = train(tiny, tmp_path / "two", 2, schedule)
        last = torch.load(result.last_path, weights_only=True)
        torch.save(
            {"best": tuning.network.state_dict(), "verified": result.frozen_verified, "history": result.history,
             "outputs": result.outputs["test"].index, "last": last["state_dict"]},
            tmp_path / f"{rank}.pt",
        )  # fmt: skip

    assert processes(2, work) == [0, 0]
    one, result = train(tiny, tmp_path / "one", 1, schedule)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(value.equal(second["best"][name]) for name, value in first["best"].items())
    assert first["verified"] is second["verified"] is True
    assert first["outputs"].tolist() == list(range(6))
    expected = torch.load(result.last_path, weights_only=True)["state_dict"]
    for name, value in first["last"].items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    never = one.plan.never_trained
    start = plain_network(tiny).state_dict()
    assert all(first["last"][f"network.{name}"].equal(start[name]) for name in never)
    for row, other in zip(first["history"], result.history, strict=True):
        assert row["frozen"] == other["frozen"]
        for figure in ("train/loss", "val/loss", "val/accuracy"):
            assert row[figure] == pytest.approx(other[figure], abs=1e-5)


def train_with_methods(tiny, folder, count):
    """4 epochs under a schedule that the validation decides, with all that is kept or computed beside the weights."""
    network, teacher = plain_network(tiny), plain_network(tiny)
    torch.manual_seed(5)
    teacher.fc = nn.Linear(4, 7)
    tuning = tiny.tuning(
        network,
        freeze="backbone",
        kind=UnfreezeKind.plateau,
        unfreeze={"patience": 1, "min_delta": 10.0, "warmup": "3 steps", "phase_factors": [1.0, 0.5]},
        scheduler=SchedulerConfig(kind=SchedulerKind.constant),
        method=MethodConfig(ema=0.9, l2_sp=0.1, distill=0.5),
        teacher=teacher.eval().requires_grad_(False),
        anchored=anchored(network, tiny.stages, tensor_names(network)),
    )
    settings = {"devices": count, "strategy": "ddp" if count > 1 else "auto", "max_epochs": 4}
    data = Shared(tiny, 4 // count)
    result = tiny.fit(
        tuning, data, folder, trainer=tiny.trainer(**settings), checkpoint=tiny.checkpoint(every_n_steps=3)
    )
    return tuning, result


def test_methods_and_decisions_are_those_of_one_process(tiny, tmp_path):
    """The running mean, L2-SP, distillation and plateau."""

    def work(rank):
        tuning, result = train_with_methods(tiny, tmp_path / "two", 2)
        state = {"weights": tuning.network.state_dict(), "mean": tuning.methods.state()["average"]["tensors"]}
        phases = [phase.start_step for phase in result.phases]
        torch.save({**state, "decisions": list(tuning.plan.decisions), "phases": phases, "history": result.history,
                    "verified": result.frozen_verified}, tmp_path / f"{rank}.pt")  # fmt: skip

    assert processes(2, work) == [0, 0]
    one, result = train_with_methods(tiny, tmp_path / "one", 1)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for kept in ("weights", "mean"):
        assert all(value.equal(second[kept][name]) for name, value in first[kept].items()), kept
    assert first["decisions"] == second["decisions"] == list(one.plan.decisions) == [14, 21, 28]
    assert first["phases"] == second["phases"] == [phase.start_step for phase in result.phases] == [0, 14, 21]
    assert first["verified"] is second["verified"] is True
    two, alone = (
        torch.load(tmp_path / count / "checkpoints" / "last.ckpt", weights_only=True) for count in ("two", "one")
    )
    for name, value in alone["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, atol=1e-5, rtol=1e-4)
    for name, value in alone["graft"]["average"]["tensors"].items():
        torch.testing.assert_close(two["graft"]["average"]["tensors"][name], value, atol=1e-5, rtol=1e-4)
    for row, other in zip(first["history"], result.history, strict=True):
        for figure in ("train/loss", "val/loss", "val/accuracy", "lr/layer3"):
            assert row[figure] == (None if other[figure] is None else pytest.approx(other[figure], abs=1e-5))


def test_ranks_hold_the_same_weights_at_every_step(tiny, tmp_path):
    def work(rank):
        seen = []
        end = FineTuning.on_train_batch_end

        def watching(self, *args):
            end(self, *args)
            seen.append({name: value.clone() for name, value in self.network.state_dict().items()})

        FineTuning.on_train_batch_end = watching
        train(tiny, tmp_path / "run", 2, "gradual")
        torch.save(seen, tmp_path / f"{rank}.pt")

    assert processes(2, work) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(first) == len(second) == 14
    assert all(
        value.equal(other[name]) for one, other in zip(first, second, strict=True) for name, value in one.items()
    )


def test_a_signal_to_one_process_stops_both_and_one_alone_goes_on(tiny, tmp_path):
    """A resume with another number of processes, too."""

    def work(rank):
        calls = iter(range(1_000_000))
        step = FineTuning.training_step

        def signalled(self, *args):
            if next(calls) == 4 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, *args)

        FineTuning.training_step = signalled
        with StopSignals() as signals, pytest.raises(Stopped, match="stopped by SIGTERM after step 5 of 14"):
            train(tiny, tmp_path / "run", 2, "gradual", signals=signals)
        return 3

    assert processes(2, work) == [3, 3]
    _, whole = train(tiny, tmp_path / "whole", 1, "gradual")
    _, result = train(tiny, tmp_path / "run", 1, "gradual")
    assert result.resumed_from is not None
    one, other = (torch.load(ending.last_path, weights_only=True)["state_dict"] for ending in (whole, result))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-4)
