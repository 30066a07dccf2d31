"""The loop that trains a head on kept features does what Lightning does, to the bit, and resumes as it does."""

import os
import signal

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from graft.config.choices import OnError
from graft.config.faults import InputError, RunFailed
from graft.config.schema import MethodConfig, OptimizerConfig, SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.data.loader import KeyedLoader
from graft.data.sampling import KeyedBatchSampler
from graft.finetune import fit as fitting
from graft.finetune.head_loop import HeadLoop, trains_head_alone
from graft.finetune.module import FineTuning
from graft.finetune.pruning import Pruned
from graft.models.cut import split
from graft.system.stopping import Stopped, StopSignals
from tests.finetune.endings import ending

EPOCH = 7  # batches
EPOCHS = 3
LAST = "layer3"


class Features(Dataset):
    def __init__(self, images, features):
        self.images, self.features = images, features

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        found = self.images[key]
        del found["image"]
        return {**found, "features": self.features[key[1]]}


def prepared(tiny, cut=LAST, **settings):
    """A head's training, and data that serve what lies in front of it."""
    one_cycle = SchedulerConfig(kind=SchedulerKind.one_cycle)
    tuning = tiny.tuning(**{"freeze": "backbone", "scheduler": one_cycle, **settings})
    prefix, tuning.route.behind[cut] = split(tuning.network, tiny.stages, cut)

    class Kept(tiny.Data):
        def loader(self, part):
            images = self.parts[part]
            with torch.no_grad():
                features = Features(images, prefix.eval()(images.image))
            sampler = KeyedBatchSampler(len(images), self.batch_size, seed=self.seed, shuffle=part == "train")
            return KeyedLoader(features, sampler, collate_fn=default_collate)

    return tuning, Kept()


def run(tiny, folder, trainer=None, signals=None, watcher=None, batch_size=4, shared=None, **settings):
    tuning, data = prepared(tiny, shared=shared, **settings)
    data.batch_size = batch_size
    config = tiny.trainer(**{"max_epochs": EPOCHS, **(trainer or {})})
    checkpoint = tiny.checkpoint(every_n_steps=2)
    return tiny.fit(tuning, data, folder, trainer=config, checkpoint=checkpoint, signals=signals, watcher=watcher)


@pytest.fixture
def loops(monkeypatch):
    """Those that were made."""
    made, make = [], HeadLoop.__init__

    def noted(self, *args):
        made.append(self)
        make(self, *args)

    monkeypatch.setattr(HeadLoop, "__init__", noted)
    return made


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        ({}, {}),
        ({"clip_norm": 1e-3}, {"seed": 3}),
        ({"precision": "bf16-mixed", "clip_norm": 1e-3}, {}),
        ({}, {"method": MethodConfig(ema=0.9)}),
        ({"accumulate": 2}, {"on_nan": OnError.skip}),
        ({"max_epochs": 12, "patience": 1}, {"optimizer": OptimizerConfig(name="adamw", lr=0.5)}),
    ],
    ids=["plain", "clipped", "bf16", "mean", "accumulated", "stopped early"],
)
def test_it_goes_as_lightnings_own(tiny, tmp_path, monkeypatch, loops, trainer, settings):
    own = run(tiny, tmp_path / "own", trainer, **settings)
    assert len(loops) == 1
    monkeypatch.setattr(fitting, "trains_head_alone", lambda *_: False)
    lightnings = run(tiny, tmp_path / "lightnings", trainer, **settings)
    assert len(loops) == 1
    assert ending(tmp_path / "own") == ending(tmp_path / "lightnings")
    assert own.epochs == lightnings.epochs
    assert own.epochs < 12 if "patience" in trainer else own.epochs == EPOCHS
    assert (own.metrics, own.steps, own.best_epoch) == (lightnings.metrics, lightnings.steps, lightnings.best_epoch)
    assert own.profile.keys() == lightnings.profile.keys()
    for part, outputs in own.outputs.items():
        assert outputs.answers.equal(lightnings.outputs[part].answers)
        assert outputs.index.equal(lightnings.outputs[part].index)


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(tiny, folder)
    return ending(folder)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("hook", "at", "own"),
    [
        ("training_step", 1, True),  # nothing saved yet
        ("training_step", 5, True),  # amid an epoch
        ("on_validation_epoch_end", 0, True),  # an epoch's batches done, its end not saved
        ("on_train_epoch_start", 1, True),  # between two epochs
        ("training_step", EPOCHS * EPOCH - 1, True),  # the last batch of all
        ("training_step", EPOCH + 4, False),  # as Lightning left it
    ],
)
def test_stopped_and_resumed_is_the_same_run(tiny, tmp_path, monkeypatch, reference, hook, at, own):
    calls, original = iter(range(1_000)), getattr(FineTuning, hook)

    def stopping(self, *args):
        if next(calls) == at:
            raise Killed
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, hook, stopping)
        if not own:
            patch.setattr(fitting, "trains_head_alone", lambda *_: False)
        with pytest.raises(Killed):
            run(tiny, tmp_path)
    run(tiny, tmp_path)
    assert ending(tmp_path) == reference


@pytest.mark.parametrize(
    ("number", "hook", "at", "where"),
    [
        (signal.SIGTERM, "training_step", 2, "after step 3 of 21"),
        (signal.SIGINT, "validation_step", 1, "after step 7 of 21"),
        (signal.SIGTERM, "on_validation_epoch_end", 0, "after step 7 of 21"),
    ],
)
def test_a_signal_stops_behind_the_step_and_the_run_goes_on(
    tiny, tmp_path, monkeypatch, reference, number, hook, at, where
):
    calls, original = iter(range(1_000)), getattr(FineTuning, hook)

    def signalled(self, *args):
        if next(calls) == at:
            os.kill(os.getpid(), number)
        return original(self, *args)

    with StopSignals() as signals, monkeypatch.context() as patch:
        patch.setattr(FineTuning, hook, signalled)
        with pytest.raises(Stopped, match=f"stopped by {number.name} {where}"):
            run(tiny, tmp_path, signals=signals)
    run(tiny, tmp_path)
    assert ending(tmp_path) == reference


def test_smaller_batches_make_the_same_steps_from_where_it_stands(tiny, tmp_path, monkeypatch, loops):
    calls, original = iter(range(1_000)), FineTuning.training_step

    def full(self, *args):
        if next(calls) == EPOCH + 3:
            raise torch.OutOfMemoryError("full")
        return original(self, *args)

    monkeypatch.setattr(FineTuning, "training_step", full)
    result = run(tiny, tmp_path)
    assert len(loops) == 2
    assert (result.batch_size, result.accumulate, result.steps) == (2, 2, EPOCHS * EPOCH)


def test_a_watcher_stops_it(tiny, tmp_path):
    class Patience:
        def should_stop(self, step, figures):
            return step == 1

    with pytest.raises(Pruned) as pruned:
        run(tiny, tmp_path, watcher=Patience())
    assert [row["epoch"] for row in pruned.value.history] == [1, 2]


def test_a_loss_that_is_not_finite_stops_it_before_the_step(tiny, tmp_path):
    with pytest.raises(RunFailed, match="became NaN or infinite"):
        run(tiny, tmp_path, optimizer=tiny.optimizer(lr=1e38, weight_decay=1e38))


def test_lightning_does_not_go_on_from_what_it_has_not_written(tiny, tmp_path, monkeypatch):
    run(tiny, tmp_path)
    monkeypatch.setattr(fitting, "trains_head_alone", lambda *_: False)
    with pytest.raises(InputError, match="received one of a head on kept features"):
        run(tiny, tmp_path)


@pytest.mark.parametrize(
    ("settings", "trainer", "alone"),
    [
        ({}, {}, True),
        ({"kind": UnfreezeKind.lp_ft, "unfreeze": {"start": "1 epoch"}}, {}, False),
        ({"freeze": "layer1-2", "cut": "layer2"}, {}, False),
        ({}, {"devices": 2}, False),
        ({}, {"profiler": "pytorch"}, False),
    ],
)
def test_what_is_more_than_a_head_is_lightnings(tiny, settings, trainer, alone):
    tuning, data = prepared(tiny, **settings)
    config = tiny.trainer(**trainer)
    tuning.plan = tiny.plan_for(tuning, data, config)
    assert trains_head_alone(tuning, config) is alone
