"""data.task=single_label: cross-entropy, and an evaluation's figures."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.schema import ClassWeights, LossConfig
from graft.finetune.metrics import Evaluation
from graft.results.resampling import bootstrap, figures, paired_difference
from graft.tasks.evaluate import area_under_roc
from graft.tasks.single_label import CrossEntropy, SingleLabel, balanced_weights

TASK = SingleLabel(["a", "b", "c"])

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-1.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
HARD = torch.tensor([0, 1, 1, 2])
SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4], [0.0, 0.5, 0.5]])


def test_hard_targets():
    expected = -LOGITS.log_softmax(1)[torch.arange(4), HARD].mean()
    assert torch.allclose(CrossEntropy(LossConfig())(LOGITS, HARD), expected)


def test_soft_targets():
    expected = -(SOFT * LOGITS.log_softmax(1)).sum(1).mean()
    assert torch.allclose(CrossEntropy(LossConfig())(LOGITS, SOFT), expected)


def test_label_smoothing_spreads_a_share_over_all_classes():
    smoothed = 0.9 * F.one_hot(HARD, 3) + 0.1 / 3
    expected = -(smoothed * LOGITS.log_softmax(1)).sum(1).mean()
    assert torch.allclose(CrossEntropy(LossConfig(label_smoothing=0.1))(LOGITS, HARD), expected)


def test_balanced_weights_weigh_classes_alike_and_images_one_on_average():
    weights = balanced_weights([10, 30, 60])
    assert torch.allclose(weights * torch.tensor([10.0, 30.0, 60.0]), torch.full((3,), 100 / 3))
    criterion = CrossEntropy(LossConfig(class_weights=ClassWeights.balanced), [10, 30, 60])
    per_image = -LOGITS.log_softmax(1)[torch.arange(4), HARD]
    expected = (per_image * weights[HARD]).sum() / weights[HARD].sum()
    assert torch.allclose(criterion(LOGITS, HARD), expected)
    assert criterion.state_dict() == {}


def test_an_image_weighs_what_its_class_or_its_mixture_of_classes_does():
    criterion = CrossEntropy(LossConfig(class_weights=ClassWeights.balanced, label_smoothing=0.1), [10, 30, 60])
    weights = balanced_weights([10, 30, 60])
    assert criterion.weights(HARD).equal(weights[HARD])
    assert criterion.weights(SOFT)[0] == pytest.approx(float(0.7 * weights[0] + 0.2 * weights[1] + 0.1 * weights[2]))
    one_hot = F.one_hot(HARD, 3).float()
    assert torch.allclose(criterion(LOGITS, one_hot), criterion(LOGITS, HARD)), "a mixture of one class is that class"
    assert CrossEntropy(LossConfig()).weights(HARD) is None


def test_weighed_soft_targets_are_divided_by_what_their_images_weigh():
    criterion = CrossEntropy(LossConfig(class_weights=ClassWeights.balanced), [10, 30, 60])
    weights = balanced_weights([10, 30, 60])
    expected = -(SOFT * weights * LOGITS.log_softmax(1)).sum() / (SOFT * weights).sum()
    assert torch.allclose(criterion(LOGITS, SOFT), expected)


@pytest.mark.parametrize("counts", [None, [3, 0]])
def test_balanced_weights_need_images_of_every_class(counts):
    with pytest.raises(InputError, match=r"loss\.class_weights"):
        CrossEntropy(LossConfig(class_weights=ClassWeights.balanced), counts)


def test_a_class_that_no_image_shows_is_counted_too():
    assert SingleLabel.learnt(("a", "b", "c"), [1, 1, 0]).counts == [1, 2, 0]


def test_hard_labels_are_the_batchs_own_or_the_likeliest():
    assert TASK.label({"target": HARD}).equal(HARD)
    assert TASK.label({"target": SOFT}).tolist() == [0, 1, 2, 1]
    assert TASK.label({"target": SOFT, "label": HARD}).equal(HARD)


def test_an_evaluation_is_the_same_however_the_images_are_batched():
    found = []
    for cuts in ((4,), (1, 3), (2, 2)):
        evaluation = Evaluation("val", TASK)
        evaluation.keeps_outputs = True
        evaluation.reset("cpu")
        rows = zip(LOGITS.split(cuts), HARD.split(cuts), torch.arange(4).split(cuts), strict=True)
        for logits, label, index in rows:
            evaluation.update(F.cross_entropy(logits, label), logits, label, index)
        found.append(evaluation.figures(evaluation.sums))
        assert evaluation.confusion() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
        assert evaluation.outputs().answers.equal(LOGITS.softmax(1))
    assert found[0] == pytest.approx(
        {
            "val/loss": float(F.cross_entropy(LOGITS, HARD)),
            "val/accuracy": 0.75,
            "val/f1": (1 + 2 / 3 + 2 / 3) / 3,
            "val/auroc": 1.0,
        }
    )
    assert found[1] == pytest.approx(found[0])
    assert found[2] == pytest.approx(found[0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_answer_that_is_not_finite_counts_as_no_class_but_leaves_the_figures_undefined(value):
    """argmax takes NaN for the largest, so that a network of nothing but NaN would be right about the first class."""
    evaluation = Evaluation("val", TASK)
    evaluation.reset("cpu")
    logits = LOGITS.clone()
    logits[1, 0] = value
    evaluation.update(F.cross_entropy(logits, HARD), logits, HARD, torch.arange(4))
    found = evaluation.figures(evaluation.sums)
    assert set(found) == {"val/loss", "val/accuracy", "val/f1", "val/auroc"}
    assert not any(math.isfinite(value) for value in found.values())
    said = logits.softmax(1).double().numpy()
    assert all(math.isnan(value) for value in figures(said, HARD.numpy(), TaskKind.single_label).values())
    drawn = bootstrap(said, HARD.numpy(), "accuracy")
    assert math.isnan(drawn.low)
    gain = paired_difference(said, LOGITS.softmax(1).double().numpy(), HARD.numpy(), "accuracy")
    assert math.isnan(gain.value)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("present", [1, 2])
def test_classes_that_a_part_lacks_are_left_out_of_averages(classes, present):
    """In training, in metrics.json and in what is computed of predictions alike."""
    generator = np.random.default_rng(classes)
    said = generator.dirichlet(np.ones(classes), size=40).round(2)  # rounding makes ties
    truth = generator.integers(0, present, 40)
    found = figures(said, truth, TaskKind.single_label)
    for name, metric in SingleLabel([str(k) for k in range(classes)]).metrics().items():
        metric.update(torch.tensor(said), torch.tensor(truth))
        assert float(metric.compute()) == pytest.approx(found[name], abs=1e-6, nan_ok=True), name
    assert math.isnan(found["auroc"]) is (present == 1)
    each = [area_under_roc(said[:, k], truth == k, np.ones((1, 40)))[0] for k in range(present)]
    assert present == 1 or found["auroc"] == pytest.approx(np.mean(each))
    assert found["f1"] == pytest.approx(f1_score(truth, said.argmax(1), range(present)))


def f1_score(truth, said, classes):
    """The mean over the classes, from their counts."""
    of_class = [((said == k) & (truth == k)).sum() / ((said == k).sum() + (truth == k).sum()) for k in classes]
    return 2 * float(np.mean(of_class))


def test_it_knows_the_training_parts_counts():
    task = SingleLabel.learnt(["a", "b", "c"], [0, 0, 2, 1, 0])
    assert task.counts == [3, 1, 1]
    assert task.scored(LOGITS, HARD) == 3
    assert task.answers(LOGITS).equal(LOGITS.softmax(1))
    assert (task.record(), task.described()) == ({"kind": "single_label"}, "3 classes (a, b, c)")
