"""What a training says of itself is so: whose weights it ends with, what its losses are, how many steps it takes."""

import pytest
import torch
import torch.nn.functional as F

from graft.config.schema import ClassWeights, LossConfig, MethodConfig, RegressionLoss, UnfreezeKind
from graft.tasks.multi_label import MultiLabel
from graft.tasks.regression import Regression
from graft.tasks.single_label import SingleLabel

BALANCED = LossConfig(class_weights=ClassWeights.balanced, label_smoothing=0.2)


def plain_losses(network, images):
    """Of a part, image by image, by the network as it stands."""
    with torch.no_grad():
        return F.cross_entropy(network.eval()(images.image), images.label).item()


@pytest.mark.parametrize("method", [{}, {"ema": 0.5}], ids=["weights", "mean"])
@pytest.mark.parametrize("every_n_steps", [None, 1])
def test_a_run_ends_with_the_weights_of_its_best_epoch_which_is_not_its_last(tiny, tmp_path, method, every_n_steps):
    data = tiny.Data()
    images = data.parts["train"]
    images.label = (images.label + 1) % 3  # what it learns is wrong, more so in each epoch
    tuning = tiny.tuning(optimizer=tiny.optimizer(lr=0.002), method=MethodConfig(**method))
    result = tiny.fit(
        tuning, data, tmp_path, trainer=tiny.trainer(max_epochs=4),
        checkpoint=tiny.checkpoint(every_n_steps=every_n_steps),
    )  # fmt: skip
    losses = [row["val/loss"] for row in result.history]
    assert result.best_epoch == 1 + losses.index(min(losses)) < 4
    assert losses[-1] > min(losses) + 0.05
    assert plain_losses(tuning.network, data.parts["val"]) == pytest.approx(min(losses), rel=1e-4)
    assert result.metrics["val/loss"] == pytest.approx(min(losses), rel=1e-4)
    assert result.metrics["test/loss"] == pytest.approx(plain_losses(tuning.network, data.parts["test"]), rel=1e-4)
    best, last = (torch.load(path, weights_only=True) for path in (result.best_path, result.last_path))
    assert (best["epoch"] + 1, last["epoch"] + 1) == (result.best_epoch, 4)  # Lightning's own count is from 0
    for part in ("val", "test"):
        with torch.no_grad():
            expected = tuning.network(data.parts[part].image).softmax(1)
        torch.testing.assert_close(result.outputs[part].answers, expected, atol=1e-5, rtol=1e-4)


def single_label(images):
    return SingleLabel(["a", "b", "c"], torch.bincount(images["train"].label).tolist())


def multi_label(images):
    for part in images.values():
        part.label = torch.stack([part.label == 0, part.label != 1, part.image.mean((1, 2, 3)) > 0.5], 1).float()
    return MultiLabel.learnt(["a", "b", "c"], images["train"].label.tolist())


def regression(images):
    for part in images.values():
        part.label = 100 + 30 * part.image.mean((2, 3))
    return Regression.learnt(["a", "b", "c"], images["train"].label.tolist())


def by_hand(task, answers_NK, label):
    """From what was said of each image, in the data's own terms."""
    if isinstance(task, SingleLabel):
        return -answers_NK[torch.arange(len(label)), label].log().mean()
    if isinstance(task, MultiLabel):
        return -(label * answers_NK.log() + (1 - label) * (1 - answers_NK).log()).mean()
    return (((answers_NK - label) / task.std_K) ** 2).mean()


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (single_label, BALANCED),
        (multi_label, BALANCED),
        (regression, LossConfig(regression=RegressionLoss.smooth_l1)),
    ],
    ids=["single_label", "multi_label", "regression"],
)
def test_a_loss_of_evaluation_knows_no_weights_and_no_smoothing(tiny, tmp_path, make, loss):
    """So that runs which differ in these can be compared, and the best epoch is the best at the same thing."""
    data = tiny.Data(batch_size=5)  # no part is a whole number of batches
    images = data.parts["train"]
    keep = torch.cat([torch.arange(0, 26, 3), torch.tensor([1, 4, 2])])  # 9, 2 and 1 of the classes
    images.label, images.image = images.label[keep], images.image[keep]
    task = make(data.parts)
    tuning = tiny.tuning(task=task, loss=loss)
    result = tiny.fit(tuning, data, tmp_path, trainer=tiny.trainer(), checkpoint=tiny.checkpoint())
    assert result.history[result.best_epoch - 1]["val/loss"] == pytest.approx(result.metrics["val/loss"], rel=1e-4)
    for part, outputs in result.outputs.items():
        expected = float(by_hand(task, outputs.answers, outputs.label))
        assert result.metrics[f"{part}/loss"] == pytest.approx(expected, rel=1e-4)
        with torch.no_grad():
            trained_by = float(tuning.criterion(tuning.network(data.parts[part].image), data.parts[part].label))
        assert abs(trained_by - expected) > 0.01


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 7), (2, 4), (3, 3), (6, 2), (7, 1), (9, 1)])
def test_an_epochs_steps_count_its_last_incomplete_accumulation(tiny, tmp_path, accumulate, steps):
    """26 images in batches of 4 are 7 batches. Rates, phases and what is frozen go by the same count."""
    tuning = tiny.tuning(
        freeze="backbone", kind=UnfreezeKind.gradual, unfreeze={"start": "1 epoch", "every": "1 epoch"}
    )
    trainer = tiny.trainer(max_epochs=3, accumulate=accumulate)
    result = tiny.fit(tuning, tiny.Data(), tmp_path, trainer=trainer, checkpoint=tiny.checkpoint())
    assert (tuning.plan.steps_per_epoch, tuning.plan.total_steps) == (steps, 3 * steps)
    assert [row["step"] for row in result.history] == [steps, 2 * steps, 3 * steps]
    assert result.steps == 3 * steps
    assert [phase.start_step for phase in result.phases] == [0, steps, 2 * steps]
    assert [row["frozen"].count("layer") for row in result.history] == [3, 2, 1]
    assert [row["lr"] for row in result.history] == [
        tuning.plan.rate_at(step - 1) for step in (steps, 2 * steps, 3 * steps)
    ]
