"""data.task=multi_label: binary cross-entropy and its options, figures in training and from predictions."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision

from graft.config.choices import TaskKind
from graft.config.faults import InputError
from graft.config.schema import ClassWeights, LossConfig
from graft.finetune.metrics import Evaluation
from graft.results.resampling import bootstrap, figures
from graft.tasks.evaluate_labels import label_figures
from graft.tasks.multi_label import MultiLabel
from graft.tasks.registry import task_of, task_of_record

NAMES = ["ant", "bee", "cicada"]
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.5, 1.0, -2.0], [0.2, 0.4, -1.0], [-1.0, -2.0, 0.1]])
LABELS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def by_hand(target, weight=1.0):
    p = LOGITS.sigmoid()
    return -(weight * target * p.log() + (1 - target) * (1 - p).log()).mean()


def test_the_loss_is_the_mean_over_images_and_labels():
    task = MultiLabel(NAMES)
    assert torch.allclose(task.criterion(LossConfig())(LOGITS, LABELS), by_hand(LABELS))
    assert torch.allclose(task.loss(LOGITS, LABELS), by_hand(LABELS))
    assert torch.allclose(task.answers(LOGITS), 1 / (1 + (-LOGITS).exp()))


def test_smoothing_moves_yes_and_no_towards_one_half():
    criterion = MultiLabel(NAMES).criterion(LossConfig(label_smoothing=0.2))
    assert torch.allclose(criterion(LOGITS, LABELS), by_hand(LABELS * 0.8 + 0.1))


def test_balanced_weights_are_the_images_without_a_label_over_those_with_it():
    task = task_of(TaskKind.multi_label, NAMES, LABELS.tolist())
    criterion = task.criterion(LossConfig(class_weights=ClassWeights.balanced))
    weight = torch.tensor([1.0, 1.0, 3.0])
    assert criterion.weight.equal(weight)
    assert torch.allclose(criterion(LOGITS, LABELS), by_hand(LABELS, weight))
    assert torch.allclose(task.loss(LOGITS, LABELS), by_hand(LABELS))
    assert task.state_dict() == criterion.state_dict() == {}


@pytest.mark.parametrize("labels", [[[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])
def test_balanced_weights_need_images_with_a_label_and_without(labels):
    task = task_of(TaskKind.multi_label, ["ant", "bee"], labels)
    with pytest.raises(InputError, match=r"loss\.class_weights: .* received all or none for bee"):
        task.criterion(LossConfig(class_weights=ClassWeights.balanced))


def test_the_figures_of_an_evaluation():
    evaluation = Evaluation("val", MultiLabel(NAMES))
    evaluation.reset("cpu")
    for cut in (slice(0, 1), slice(1, 4)):
        evaluation.update(by_hand(LABELS), LOGITS[cut], LABELS[cut], torch.arange(4)[cut])
    found = evaluation.figures(evaluation.sums)
    # said: ant+cicada, bee, ant+bee, cicada; one wrong of twelve
    assert found == pytest.approx({
        "val/loss": float(by_hand(LABELS)),
        "val/map": (1 + 1 + 1 / 2) / 3,  # cicada's one image comes second
        "val/f1": (1 + 1 + 2 / 3) / 3,
        "val/f1_micro": 10 / 11,
        "val/auroc": (1 + 1 + 2 / 3) / 3,
        "val/label_accuracy": 11 / 12,
    })  # fmt: skip
    assert evaluation.confusion() is None
    assert float(MultiLabel(NAMES).scored(LOGITS, LABELS)) == pytest.approx(4 * 11 / 12)


def random_case(images=60, labels=4):
    generator = np.random.default_rng(0)
    truth = (generator.random((images, labels)) < 0.3).astype(np.float64)
    return (0.6 * generator.random((images, labels)) + 0.3 * truth).round(2), truth


def test_predictions_have_the_figures_that_training_has():
    said, truth = random_case()
    task = MultiLabel(["a", "b", "c", "d"])
    found = figures(said, truth, TaskKind.multi_label)
    for name, metric in task.metrics().items():
        metric.update(torch.tensor(said), torch.tensor(truth))
        assert found[name] == pytest.approx(float(metric.compute()), abs=1e-6), name
    given = torch.tensor(said), torch.tensor(truth).long()
    each = label_figures(said, truth)
    assert each.average_precision == pytest.approx(multilabel_average_precision(*given, 4, average="none").numpy())
    assert each.auroc == pytest.approx(multilabel_auroc(*given, 4, average="none").numpy())


@pytest.mark.parametrize(("value", "names"), [(0, ("map", "f1", "auroc")), (1, ("map", "auroc"))])
def test_a_label_that_none_or_all_have_is_left_out_of_averages(value, names):
    said, truth = random_case()
    truth[:, 3] = value
    both = figures(said, truth, TaskKind.multi_label), figures(said[:, :3], truth[:, :3], TaskKind.multi_label)
    for name, metric in MultiLabel(["a", "b", "c", "d"]).metrics().items():
        metric.update(torch.tensor(said), torch.tensor(truth))
        assert float(metric.compute()) == pytest.approx(both[0][name], abs=1e-6)
        assert (both[0][name] == pytest.approx(both[1][name])) is (name in names), name


def test_without_any_label_only_the_share_of_right_ones_is_defined():
    said, truth = random_case()
    found = figures(said, 0 * truth, TaskKind.multi_label)
    for name, metric in MultiLabel(["a", "b", "c", "d"]).metrics().items():
        metric.update(torch.tensor(said), torch.tensor(0 * truth))
        assert float(metric.compute()) == pytest.approx(found[name], nan_ok=True)
        assert math.isnan(found[name]) is (name != "label_accuracy"), name


@pytest.mark.parametrize("metric", ["map", "f1", "f1_micro", "auroc", "label_accuracy"])
def test_a_bootstrap_equals_recomputing_on_drawn_images(metric):
    said, truth = random_case(30, 3)
    draws = np.random.default_rng(9).integers(0, 30, size=(100, 30))
    expected = [figures(said[rows], truth[rows], TaskKind.multi_label)[metric] for rows in draws]
    found = bootstrap(said, truth, metric, task=TaskKind.multi_label, resamples=100, seed=9)
    assert [found.low, found.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]))


def test_it_comes_back_from_a_record():
    record = {"classes": NAMES, "task": MultiLabel(NAMES).record()}
    assert isinstance(task_of_record(record), MultiLabel)
    assert task_of_record({"classes": NAMES}).kind is TaskKind.single_label
    with pytest.raises(InputError, match=r"as graft writes it \(single_label, multi_label, regression\)"):
        task_of_record({"classes": NAMES, "task": {"kind": "detection"}})
