"""Early stopping: when it comes, and that it comes at the same epoch for a run that was stopped and goes on."""

import math

import pytest

from graft.config.faults import ConfigError
from graft.config.presets import composed
from graft.config.schema import CheckpointConfig
from graft.finetune.early_stop import has_stalled
from graft.finetune.module import FineTuning
from tests.finetune.endings import ending


def history(*losses):
    return [{"val/loss": loss, "val/accuracy": 1 - loss} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "patience", "stalled"),
    [
        ((0.5,), 1, False),
        ((0.5, 0.6), 1, True),
        ((0.5, 0.5), 1, True),  # equals do not improve
        ((0.5, 0.4), 1, False),
        ((0.5, 0.4, 0.6), 2, False),
        ((0.5, 0.4, 0.6, 0.41), 2, True),
        ((0.5, 0.4, 0.6, 0.39), 2, False),
        ((math.nan, math.nan), 2, True),
        ((math.nan, 0.4, math.inf), 2, False),
    ],
)
def test_the_best_epoch_is_so_many_epochs_ago(losses, patience, stalled):
    assert has_stalled(history(*losses), CheckpointConfig(), patience) is stalled
    upwards = CheckpointConfig(monitor="val/accuracy", direction="max")
    assert has_stalled(history(*losses), upwards, patience) is stalled


class Interrupted(Exception):
    pass


def run(tiny, folder, **changes):
    """At a rate that is far too high the loss soon rises."""
    return tiny.fit(
        tiny.tuning(optimizer=tiny.optimizer(lr=0.3)),
        tiny.Data(),
        folder,
        trainer=tiny.trainer(max_epochs=12, patience=changes.pop("patience", 2)),
        **changes,
    )


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    return run(tiny, folder), folder


def test_training_ends_there_with_the_best_epochs_weights(tiny, stopped, tmp_path):
    result, _ = stopped
    losses = [row["val/loss"] for row in result.history]
    best = losses.index(min(losses))
    assert result.epochs == len(losses) == best + 3 < 12
    assert result.best_epoch == best + 1
    assert result.metrics["val/loss"] == pytest.approx(min(losses), rel=1e-6)
    longer = run(tiny, tmp_path, patience=12)
    assert [row["val/loss"] for row in longer.history[: len(losses)]] == losses
    assert longer.epochs == 12


def test_a_run_that_goes_on_stops_at_the_same_epoch_with_the_same_bits(tiny, stopped, tmp_path, monkeypatch):
    result, folder = stopped
    calls = iter(range(1000))
    original = FineTuning.training_step

    def interrupted(self, *args):
        if next(calls) == 7 * (result.epochs - 1) + 3:  # amid the last epoch
            raise Interrupted
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "training_step", interrupted)
        with pytest.raises(Interrupted):
            run(tiny, tmp_path, checkpoint=tiny.checkpoint(every_n_steps=2))
    again = run(tiny, tmp_path, checkpoint=tiny.checkpoint(every_n_steps=2))
    assert again.resumed_from is not None
    assert again.epochs == result.epochs
    assert ending(tmp_path) == ending(folder)


def test_a_run_that_has_stopped_does_not_go_on(tiny, stopped):
    result, folder = stopped
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    again = run(tiny, folder)
    assert again.epochs == result.epochs
    assert again.metrics == result.metrics
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before


def test_the_last_epoch_of_an_early_stop_is_not_exported():
    with pytest.raises(ConfigError, match=r"trainer\.patience: expected checkpoint\.epoch=best"):
        composed(["trainer.patience=3", "checkpoint.epoch=last"])
    with pytest.raises(ConfigError, match=r"trainer\.patience: expected .*1"):
        composed(["trainer.patience=0"])
