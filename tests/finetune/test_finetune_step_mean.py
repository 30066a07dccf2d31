"""Each image of a step weighs the same, or its class's weight, however the step is shared out."""

import math

import pytest
import torch
from torch import nn

from graft.config.choices import ClassWeights, OnError
from graft.config.schema import LossConfig, MethodConfig, SchedulerConfig, SchedulerKind
from graft.finetune.methods.l2_sp import anchored
from graft.finetune.rate_search import range_test
from graft.finetune.step_mean import StepMean
from graft.models.stages import tensor_names
from graft.tasks.single_label import SingleLabel
from tests.finetune.processes import plain_network, processes

WEIGHED = {"loss": LossConfig(class_weights=ClassWeights.balanced, label_smoothing=0.1)}
METHODS = {**WEIGHED, "method": MethodConfig(l2_sp=0.5, distill=0.5)}
SETTINGS = {"plain": {}, "weighed": WEIGHED, "methods": METHODS}
TOLERANCE = {"atol": 1e-6, "rtol": 0.0}


def uneven(tiny, batch_size, train):
    """The tests' images, of which the first class has the most by far; each process's share is drawn by its rank."""

    class Data(tiny.Data):
        def loader(self, part):
            loader = super().loader(part)
            if self.trainer is not None:
                sampler = loader.batch_sampler
                sampler.rank, sampler.world = self.trainer.global_rank, self.trainer.world_size
            return loader

    data = Data(batch_size=batch_size, train=train)
    images = data.parts["train"]
    images.label = torch.where(torch.arange(train) % 6 < 4, 0, images.label)
    return data


def tuning(tiny, images, loss=None, method=None, **changes):
    network = plain_network(tiny)
    torch.manual_seed(5)
    teacher = plain_network(tiny)
    teacher.fc = nn.Linear(4, 7)
    counts = torch.bincount(images.label, minlength=3).tolist()
    return tiny.tuning(
        network,
        optimizer=tiny.optimizer(name="sgd", lr=0.1, weight_decay=0.0),
        scheduler=SchedulerConfig(kind=SchedulerKind.constant),
        task=SingleLabel(["a", "b", "c"], counts),
        loss=loss,
        method=method,
        teacher=teacher.eval().requires_grad_(False) if method else None,
        anchored=anchored(network, tiny.stages, tensor_names(network)) if method else frozenset(),
        **changes,
    )


def train(tiny, folder, *, batch_size, accumulate=1, images=18, devices=1, clip_norm=None, spoilt=(), **settings):
    """Weights after two epochs, and the epochs' rows."""
    data = uneven(tiny, batch_size, images)
    data.parts["train"].image[list(spoilt)] = math.nan
    trained = tuning(tiny, data.parts["train"], **settings)
    config = tiny.trainer(
        accumulate=accumulate, devices=devices, strategy="ddp" if devices > 1 else "auto", clip_norm=clip_norm,
        precision="32-true",
    )  # fmt: skip
    result = tiny.fit(trained, data, folder, trainer=config, checkpoint=tiny.checkpoint())
    weights = torch.load(result.last_path, weights_only=True)["state_dict"]
    return weights, result.history


def agree(one, other):
    (weights, history), (expected, rows) = one, other
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], **TOLERANCE)
    for row, wanted in zip(history, rows, strict=True):
        for figure in ("train/loss", "train/accuracy", "val/loss"):
            assert row[figure] == pytest.approx(wanted[figure], abs=1e-6), figure


# As one batch of 8 (18 images: 8, 8, 2), and of 16 (16, 2: the last accumulation has one batch of four).
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (1, 8), (4, 4)])
@pytest.mark.parametrize("settings", list(SETTINGS))
def test_batches_that_make_a_step_train_as_one_batch_does(tiny, tmp_path, batch_size, accumulate, settings):
    whole = train(tiny, tmp_path / "whole", batch_size=batch_size * accumulate, **SETTINGS[settings])
    parts = train(tiny, tmp_path / "parts", batch_size=batch_size, accumulate=accumulate, **SETTINGS[settings])
    agree(parts, whole)


def test_the_clipped_gradient_is_the_steps(tiny, tmp_path):
    whole = train(tiny, tmp_path / "whole", batch_size=16, clip_norm=0.5, **WEIGHED)
    parts = train(tiny, tmp_path / "parts", batch_size=4, accumulate=4, clip_norm=0.5, **WEIGHED)
    free = train(tiny, tmp_path / "free", batch_size=16, **WEIGHED)
    agree(parts, whole)
    assert not free[0]["network.fc.weight"].allclose(whole[0]["network.fc.weight"], atol=1e-3), "it was clipped"


def test_one_bad_batch_leaves_its_whole_step_out_of_weights_and_figures(tiny, tmp_path):
    skipping = {"on_nan": OnError.skip, "spoilt": [5], **WEIGHED}
    whole = train(tiny, tmp_path / "whole", batch_size=8, **skipping)
    parts = train(tiny, tmp_path / "parts", batch_size=2, accumulate=4, **skipping)
    agree(parts, whole)
    assert math.isfinite(whole[1][-1]["train/loss"])


def test_the_loss_that_a_range_test_sees_is_the_steps(tiny, monkeypatch):
    monkeypatch.setattr("graft.finetune.rate_search.STEPS", 5)
    monkeypatch.setattr("graft.finetune.rate_search.steepest", lambda rates, smoothed: 1.0)  # five steps show no slope
    losses = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        data = uneven(tiny, batch_size, 40)
        copied = tuning(tiny, data.parts["train"], **METHODS)
        found = range_test(copied, data.train_dataloader(), tiny.trainer(accumulate=accumulate, precision="32-true"))
        losses.append(found.losses)
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize(("batch_size", "accumulate", "whole"), [(4, 1, 8), (2, 2, 8), (2, 4, 16)])
def test_two_processes_train_as_one_batch_does(tiny, tmp_path, batch_size, accumulate, whole, settings):
    """Of 27 images the last step has 3: two here and one there. In accumulations, the last one is incomplete."""

    def work(rank):
        found = train(
            tiny, tmp_path / "two", batch_size=batch_size, accumulate=accumulate, images=27, devices=2,
            **SETTINGS[settings],
        )  # fmt: skip
        torch.save(found, tmp_path / f"{rank}.pt")

    assert processes(2, work) == [0, 0]
    alone = train(tiny, tmp_path / "one", batch_size=whole, images=27, **SETTINGS[settings])
    for rank in (0, 1):
        agree(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone)


def test_a_step_of_one_batch_is_left_as_it_is():
    mean = torch.tensor(2.0)
    step = StepMean()
    step.start(1, 1)
    assert step.share(mean, torch.tensor(3.0)) is mean
    assert step.correction == 1.0


def test_shares_add_up_to_the_weighed_mean():
    step = StepMean()
    step.start(4, 1)
    means, weights = [1.0, 5.0, 2.0], [2.0, 1.0, 5.0]
    shares = [step.share(torch.tensor(mean), torch.tensor(weight)) for mean, weight in zip(means, weights, strict=True)]
    assert float(sum(shares) / 4 * step.correction) == pytest.approx((2 + 5 + 10) / 8)
