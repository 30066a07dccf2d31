"""The range test suggests a rate and leaves no trace: not a bit of the network, not a random number."""

import copy
import math
import random

import numpy as np
import pytest
import torch

from graft.config.faults import RunFailed
from graft.config.schema import SchedulerConfig, SchedulerKind, UnfreezeKind
from graft.finetune.rate_search import HIGHEST, LOWEST, STEPS, range_test, rate_at, smooth, steepest
from graft.models.fingerprint import digests
from graft.models.stages import tensor_names

RATES = [rate_at(step) for step in range(STEPS)]


def state_of(module):
    return (
        digests(module, tensor_names(module)),
        [(name, parameter.requires_grad, parameter.grad) for name, parameter in module.named_parameters()],
        [(name, part.training, "train" in vars(part)) for name, part in module.named_modules()],
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        random.getstate(),
    )


def make(tiny, **changes):
    settings = {
        "freeze": "backbone",
        "kind": UnfreezeKind.gradual,
        "unfreeze": {"start": "2 steps", "every": "2 steps"},
    }
    return tiny.tuning(scheduler=SchedulerConfig(kind=SchedulerKind.cosine), **{**settings, **changes})


def test_nothing_of_the_run_changes(tiny, tmp_path):
    plain, probed = make(tiny), make(tiny)
    before = state_of(probed.network)
    found = range_test(probed, tiny.Data().train_dataloader(), tiny.trainer())
    assert state_of(probed.network) == before
    assert found == range_test(make(tiny), tiny.Data().train_dataloader(), tiny.trainer())
    first = tiny.fit(plain, tiny.Data(), tmp_path / "plain", trainer=tiny.trainer(max_epochs=1))
    second = tiny.fit(probed, tiny.Data(), tmp_path / "probed", trainer=tiny.trainer(max_epochs=1))
    assert first.history[0]["train/loss"] == second.history[0]["train/loss"]
    names = tensor_names(plain.network)
    assert digests(plain.network, names) == digests(probed.network, names)


def test_it_trains_in_the_first_phase_alone_at_the_rates_it_says(tiny, monkeypatch):
    """A schedule that thaws after two steps does not thaw in the test, and scales stay what they are."""
    tuning = make(tiny, optimizer=tiny.optimizer(name="sgd", weight_decay=0.0, lr_scale={"head": 2}))
    seen, moved, step = [], [], type(tuning).training_step

    def watched(self, batch, batch_idx):
        seen.append({group["name"]: group["lr"] for group in self.optimizers(use_pl_optimizer=False).param_groups})
        moved.append({name.split(".")[0] for name, p in self.network.named_parameters() if p.requires_grad})
        return step(self, batch, batch_idx)

    monkeypatch.setattr(type(tuning), "training_step", watched)
    found = range_test(tuning, tiny.Data().train_dataloader(), tiny.trainer())
    assert set(map(frozenset, moved)) == {frozenset({"fc"})}
    assert [held["head"] for held in seen[: len(found.rates)]] == pytest.approx([2 * rate for rate in found.rates])
    assert all(set(held) == {"head", "head/no_decay"} for held in seen)
    assert len(found.rates) == len(found.losses) == len(found.smoothed) > 50
    assert found.rates[0] == LOWEST
    assert LOWEST < found.suggestion < HIGHEST


def test_a_scale_of_what_thaws_later_is_no_mistake(tiny):
    """The test has the run's own groups, of which the first phase trains some."""
    tuning = make(tiny, optimizer=tiny.optimizer(lr_scale={"layer3": 0.1}))
    found = range_test(tuning, tiny.Data().train_dataloader(), tiny.trainer())
    assert LOWEST < found.suggestion < HIGHEST


def test_accumulated_batches_are_one_step(tiny):
    found = range_test(make(tiny), tiny.Data().train_dataloader(), tiny.trainer(accumulate=2))
    assert len(found.losses) <= STEPS
    assert math.isfinite(sum(found.losses))


def test_features_enter_at_the_cut(tiny):
    """The copy trains its own part behind the cut, not the run's."""
    network = tiny.network()
    behind = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1), network.fc)
    tuning = tiny.tuning(network, freeze="backbone", behind={"layer3": behind})
    before = copy.deepcopy(network.state_dict())
    label = torch.arange(8) % 3
    features = torch.randn(8, 4, 4, 4) + label[:, None, None, None]
    batches = [{"features": features, "target": label, "label": label, "index": label}] * 5
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    found = range_test(tuning, loader, tiny.trainer())
    assert all(before[name].equal(value) for name, value in network.state_dict().items())
    assert min(found.smoothed) < found.smoothed[0]


def falling(centre, rise):
    """A loss that falls around one rate and explodes above another."""
    return [
        2.0 - 1.0 / (1 + math.exp(-4 * (math.log10(rate) - math.log10(centre)))) + (rate / rise) ** 2 for rate in RATES
    ]


@pytest.mark.parametrize("centre", [1e-4, 1e-3, 3e-2])
def test_the_suggestion_is_where_the_loss_falls_fastest(centre):
    suggestion = steepest(RATES, falling(centre, rise=1.0))
    assert suggestion == pytest.approx(centre, rel=0.1)


def test_a_loss_that_is_not_finite_is_the_end_of_the_test():
    losses = falling(1e-3, rise=1.0)
    assert steepest(RATES, [*losses[:90], *[math.nan] * (len(RATES) - 90)]) == steepest(RATES, losses)
    with pytest.raises(RunFailed, match="received no finite one"):
        steepest(RATES, [math.nan] * len(RATES))


def test_the_average_has_no_beginning():
    assert smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    assert smooth([1.0, 0.0])[1] == pytest.approx(0.9 / 1.9)


@pytest.mark.parametrize("losses", [[], [1.0] * 5, [1.0 + rate for rate in RATES]])
def test_a_loss_that_never_falls_is_said_so(losses):
    with pytest.raises(RunFailed, match=r"optimizer\.lr=find: expected a loss that falls before it diverges"):
        steepest(RATES[: len(losses)], losses)
