"""NaN and infinity stop a run before they reach the weights, or the step is left out whole."""

import math
from contextlib import nullcontext

import pytest
import torch

from graft.config.choices import OnError
from graft.config.faults import RunFailed

BAD = 5  # an image


def run(tiny, folder, data, hook=None, **changes):
    tuning = tiny.tuning(**changes)
    if hook:
        hook(tuning.network)
    return tuning, tiny.fit(
        tuning, data, folder, trainer=tiny.trainer(max_epochs=1), checkpoint=tiny.checkpoint(every_n_steps=1)
    )


def bad_data(tiny):
    data = tiny.Data()
    data.parts["train"].image[BAD] = math.nan
    return data


def step_of(tiny, image):
    """The step of the first epoch in which the image is trained on."""
    batches = [batch["index"].tolist() for batch in tiny.Data().train_dataloader()]
    return next(step for step, batch in enumerate(batches) if image in batch)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(tiny, tmp_path):
    step = step_of(tiny, BAD)
    assert step > 0
    with pytest.raises(RunFailed, match=rf"the gradients of every group became NaN or infinite in step {step + 1};"):
        run(tiny, tmp_path, bad_data(tiny))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_group_whose_gradient_is_not_finite_is_named(tiny, tmp_path, value):
    def spoil(network):
        network.layer2.conv.weight.register_hook(lambda grad: torch.full_like(grad, value))

    with pytest.raises(RunFailed, match=r"the gradients of group layer2 became NaN or infinite in step 1;"):
        run(tiny, tmp_path, tiny.Data(), spoil)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_gradient_is_finite_though_its_square_is_not(tiny, tmp_path):
    def enlarge(network):
        network.layer2.conv.weight.register_hook(lambda grad: torch.full_like(grad, 1e30))

    before = tiny.network().layer2.conv.weight.detach().clone()
    tuning, result = run(tiny, tmp_path, tiny.Data(), enlarge, on_nan=OnError.skip)
    assert result.steps_skipped == 0
    assert not tuning.network.layer2.conv.weight.equal(before)  # every step was taken
    assert bool(tuning.network.layer2.conv.weight.isfinite().all())


def test_weights_that_are_not_finite_are_not_saved(tiny, tmp_path):
    with pytest.raises(RunFailed, match=r"the weights became NaN or infinite after step 1 \(every group\)"):
        run(tiny, tmp_path, tiny.Data(), optimizer=tiny.optimizer(lr=1e38, weight_decay=1e38))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_skipped_step_leaves_nothing_behind(tiny, tmp_path):
    """Weights, momentum and batch-norm statistics are those of a run that had frozen rates in that step alone."""
    before = {}

    def remember(tuning):
        step = tuning.global_step
        before[step] = {name: value.clone() for name, value in tuning.network.state_dict().items()}

    data, step = bad_data(tiny), step_of(tiny, BAD)
    tuning = tiny.tuning(on_nan=OnError.skip)
    original = tuning.on_train_batch_start

    def watched(batch, batch_idx):
        remember(tuning)
        original(batch, batch_idx)

    tuning.on_train_batch_start = watched
    result = tiny.fit(tuning, data, tmp_path, trainer=tiny.trainer(max_epochs=1), checkpoint=tiny.checkpoint())
    assert result.steps_skipped == 1
    assert result.steps == 7
    assert all(value.equal(before[step + 1][name]) for name, value in before[step].items())
    assert not before[step + 1]["fc.weight"].equal(before[min(step + 2, 6)]["fc.weight"])
    assert math.isfinite(result.history[0]["train/loss"])
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["graft"]["finite"] == {"skipped": 1, "in_a_row": 0}


def test_an_epoch_of_nothing_but_skipped_steps_is_an_end(tiny, tmp_path):
    data = tiny.Data()
    data.parts["train"].image[:] = math.nan
    with pytest.raises(RunFailed, match=r"NaN or infinite in 7 steps on end, up to step 7"):
        run(tiny, tmp_path, data, on_nan=OnError.skip)


@pytest.mark.parametrize(("value", "fine"), [(1e30, True), (math.inf, False), (math.nan, False)])
def test_weights_may_be_large_and_must_be_finite(tiny, value, fine):
    """The squares of some finite numbers are not finite."""
    tuning = tiny.tuning()
    tuning.adopt(tuning.plan)
    with torch.no_grad():
        tuning.network.layer2.conv.weight[0, 0, 0, 0] = value
    with nullcontext() if fine else pytest.raises(RunFailed, match="layer2"):
        tuning.finite.check(3)
