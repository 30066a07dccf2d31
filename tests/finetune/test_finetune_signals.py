"""A signal ends a run behind the step at hand, and the run that goes on ends as if nothing had come."""

import os
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

from graft.config.faults import InputError
from graft.finetune.module import FineTuning
from graft.system.stopping import Stopped, StopSignals, outlive_signals

EPOCH = 7  # steps


def run(tiny, folder, signals=None):
    return tiny.fit(
        tiny.tuning(freeze="layer1-2"), tiny.Data(), folder, trainer=tiny.trainer(), checkpoint=tiny.checkpoint(),
        signals=signals,
    )  # fmt: skip


def weights(folder):
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    state = saved["graft"]
    rows = [{key: value for key, value in row.items() if "seconds" not in key and "per" not in key} for row in
            state["history"]]  # fmt: skip
    return {name: value.numpy().tobytes() for name, value in saved["state_dict"].items()}, rows


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(tiny, folder)
    return weights(folder)


@pytest.mark.parametrize(
    ("number", "hook", "at", "where"),
    [
        (signal.SIGTERM, "training_step", 2, "after step 3 of 14"),  # amid an epoch
        (signal.SIGUSR1, "training_step", EPOCH - 1, "after step 7 of 14"),  # the epoch's last step: its evaluation
        (signal.SIGINT, "validation_step", 1, "after step 7 of 14"),  # amid an evaluation
        (signal.SIGTERM, "on_validation_epoch_end", 0, "after step 7 of 14"),  # at an epoch's end
        (signal.SIGTERM, "on_fit_start", 0, "after step 1 of 14"),
    ],
)
def test_a_signal_stops_behind_the_step_and_the_run_goes_on(
    tiny, tmp_path, monkeypatch, undisturbed, number, hook, at, where
):
    calls = iter(range(1_000_000))
    original = getattr(FineTuning, hook)

    def signalled(self, *args):
        if next(calls) == at:
            os.kill(os.getpid(), number)
        return original(self, *args)

    with StopSignals() as signals, monkeypatch.context() as patch:
        patch.setattr(FineTuning, hook, signalled)
        with pytest.raises(Stopped) as stopped:
            run(tiny, tmp_path, signals)
    assert str(stopped.value) == f"stopped by {number.name} {where}"
    assert stopped.value.exit_code == 128 + number
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    result = run(tiny, tmp_path)
    assert result.resumed_from == tmp_path / "checkpoints" / "last.ckpt"
    assert weights(tmp_path) == undisturbed


def largest_tensor(checkpoint: Path) -> bytes:
    with zipfile.ZipFile(checkpoint) as archive:
        return archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tiny, tmp_path, undisturbed, capsys):
    run(tiny, tmp_path)
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    assert torch.load(previous, weights_only=True)["graft"]["position"] == [1, 0]
    content = bytearray(last.read_bytes())
    content[content.index(largest_tensor(last)) + 9] ^= 1
    last.write_bytes(content)
    run(tiny, tmp_path)
    said = capsys.readouterr().err
    assert "last.ckpt, which cannot be read" in said
    assert "does not match its checksum): going on from previous.ckpt, the checkpoint before it" in said
    assert weights(tmp_path) == undisturbed


def test_both_damaged_is_an_error(tiny, tmp_path):
    run(tiny, tmp_path)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "checkpoints" / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"previous\.ckpt, which cannot be read .*try resume=never"):
        run(tiny, tmp_path)


def test_outside_of_training_a_signal_ends_the_run_where_it_is():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(), pytest.raises(Stopped, match="stopped by SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def deferred_then_leave(signals, *numbers):
    with signals.deferred():
        for number in numbers:
            os.kill(os.getpid(), number)
        assert signals.received == numbers[0]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_a_deferred_signal_is_noted_and_a_second_interrupt_ends_the_process_at_once():
    with StopSignals() as signals, pytest.raises(Stopped, match="stopped by SIGUSR1"):
        deferred_then_leave(signals, signal.SIGUSR1, signal.SIGTERM)
    child = os.fork()
    if child == 0:
        with StopSignals() as signals:
            deferred_then_leave(signals, signal.SIGINT, signal.SIGINT)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT


@pytest.mark.parametrize(
    ("second", "code"), [(signal.SIGUSR2, 7), (signal.SIGTERM, 7), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_that_comes_twice_lets_the_stopped_process_say_its_word(second, code):
    child = os.fork()
    if child == 0:
        try:
            with StopSignals():
                os.kill(os.getpid(), signal.SIGUSR2)
        except Stopped:
            os.kill(os.getpid(), second)  # by whoever started it, while it says where it stands
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def test_a_forked_worker_passes_over_the_first_signal():
    with StopSignals():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_loaders_worker_heeds_its_parent_and_nobody_else():
    child = os.fork()
    if child == 0:
        outlive_signals(0)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            os.kill(os.getpid(), number)
        time.sleep(60)
        os._exit(7)
    time.sleep(0.5)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
