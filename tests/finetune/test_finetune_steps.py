"""graft's loop over batches does what Lightning's does, to the bit and in every count of progress."""

import lightning as L
import pytest

from graft.config.choices import OnError
from graft.config.schema import MethodConfig, SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.finetune import fit as fitting
from graft.finetune.checkpoint import CheckpointFile
from graft.finetune.module import FineTuning
from graft.finetune.steps import Steps, take_own_steps
from tests.finetune.endings import whole


class Stopped(Exception):
    pass


def run(tiny, folder, trainer=None, **settings):
    gradual = {
        "freeze": "backbone", "kind": UnfreezeKind.gradual, "unfreeze": {"start": "4 steps", "every": "6 steps"},
        "scheduler": SchedulerConfig(kind=SchedulerKind.one_cycle),
    }  # fmt: skip
    tuning = tiny.tuning(**{**gradual, **settings})
    config = tiny.trainer(**{"max_epochs": 3, **(trainer or {})})
    return tiny.fit(tuning, tiny.Data(), folder, trainer=config, checkpoint=tiny.checkpoint(every_n_steps=3))


@pytest.fixture
def went(monkeypatch):
    """How often graft's loop went a step."""
    steps = []
    step = Steps._step

    def counted(self, *args):
        steps.append(None)
        step(self, *args)

    monkeypatch.setattr(Steps, "_step", counted)
    return steps


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        ({}, {}),
        ({"clip_norm": 1e-3}, {}),
        ({"precision": "bf16-mixed", "clip_norm": 1e-3}, {}),
        ({}, {"method": MethodConfig(ema=0.9)}),
        ({"max_epochs": 2}, {"freeze": "none", "kind": UnfreezeKind.never, "unfreeze": {}}),
        ({"profiler": "shares"}, {"on_nan": OnError.skip}),
    ],
)
def test_it_goes_as_lightnings_own(tiny, tmp_path, monkeypatch, went, trainer, settings):
    own = run(tiny, tmp_path / "own", trainer, **settings)
    taken = len(went)
    monkeypatch.setattr(fitting, "take_own_steps", lambda trainer: None)
    lightnings = run(tiny, tmp_path / "lightnings", trainer, **settings)
    assert taken == len(went) == own.steps == lightnings.steps > 10
    assert whole(tmp_path / "own") == whole(tmp_path / "lightnings")
    assert own.metrics == lightnings.metrics
    assert own.profile.keys() == lightnings.profile.keys()


def test_either_goes_on_from_the_others_checkpoint(tiny, tmp_path, monkeypatch, went):
    run(tiny, tmp_path / "own")
    original, calls = FineTuning.training_step, iter(range(1_000))

    def stopping(self, *args):
        if next(calls) == 11:
            raise Stopped
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "take_own_steps", lambda trainer: None)
        patch.setattr(FineTuning, "training_step", stopping)
        with pytest.raises(Stopped):
            run(tiny, tmp_path / "both")
    before = len(went)
    run(tiny, tmp_path / "both")
    assert len(went) > before, "its first batch goes Lightning's way, the others its own"
    assert whole(tmp_path / "both") == whole(tmp_path / "own")


@pytest.mark.parametrize(
    ("settings", "able"),
    [
        ({}, True),
        ({"precision": "bf16-mixed"}, True),
        ({"accumulate_grad_batches": 2}, False),
        ({"precision": "64-true"}, False),
        ({"profiler": "pytorch"}, False),
        ({"strategy": "ddp_spawn", "devices": 2}, False),
    ],
)
def test_what_it_cannot_do_is_left_to_lightning(tmp_path, settings, able):
    trainer = L.Trainer(
        **{"accelerator": "cpu", "devices": 1, "logger": False, "default_root_dir": tmp_path, **settings},
        plugins=[CheckpointFile()], enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    assert take_own_steps(trainer) is able
    assert isinstance(trainer.fit_loop.epoch_loop, Steps) is able


def test_a_release_of_lightning_that_nobody_has_compared_goes_its_own_way(tmp_path, monkeypatch):
    monkeypatch.setattr("graft.finetune.steps.L.__version__", "2.7.0")
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path)
    assert not take_own_steps(trainer)
