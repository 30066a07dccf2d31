import pytest
import torch
import torch.nn.functional as F

from graft.config.faults import InputError
from graft.config.schema import ClassWeights, LossConfig
from graft.finetune.loss import Criterion, balanced_weights, label_of
from graft.finetune.metrics import Evaluation, check_monitor

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-1.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
HARD = torch.tensor([0, 1, 1, 2])
SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4], [0.0, 0.5, 0.5]])


def test_hard_targets():
    expected = -LOGITS.log_softmax(1)[torch.arange(4), HARD].mean()
    assert torch.allclose(Criterion(LossConfig())(LOGITS, HARD), expected)


def test_soft_targets():
    expected = -(SOFT * LOGITS.log_softmax(1)).sum(1).mean()
    assert torch.allclose(Criterion(LossConfig())(LOGITS, SOFT), expected)


def test_label_smoothing_spreads_a_share_over_all_classes():
    smoothed = 0.9 * F.one_hot(HARD, 3) + 0.1 / 3
    expected = -(smoothed * LOGITS.log_softmax(1)).sum(1).mean()
    assert torch.allclose(Criterion(LossConfig(label_smoothing=0.1))(LOGITS, HARD), expected)


def test_balanced_weights_weigh_classes_alike_and_images_one_on_average():
    weights = balanced_weights([10, 30, 60])
    assert torch.allclose(weights * torch.tensor([10.0, 30.0, 60.0]), torch.full((3,), 100 / 3))
    criterion = Criterion(LossConfig(class_weights=ClassWeights.balanced), [10, 30, 60])
    per_image = -LOGITS.log_softmax(1)[torch.arange(4), HARD]
    expected = (per_image * weights[HARD]).sum() / weights[HARD].sum()
    assert torch.allclose(criterion(LOGITS, HARD), expected)
    assert criterion.state_dict() == {}


@pytest.mark.parametrize("counts", [None, [3, 0]])
def test_balanced_weights_need_images_of_every_class(counts):
    with pytest.raises(InputError, match=r"loss\.class_weights"):
        Criterion(LossConfig(class_weights=ClassWeights.balanced), counts)


def test_hard_labels_are_the_batchs_own_or_the_likeliest():
    assert label_of({"target": HARD}).equal(HARD)
    assert label_of({"target": SOFT}).tolist() == [0, 1, 2, 1]
    assert label_of({"target": SOFT, "label": HARD}).equal(HARD)


def test_an_evaluation_is_the_same_however_the_images_are_batched():
    found = []
    for cuts in ((4,), (1, 3), (2, 2)):
        evaluation = Evaluation("val", 3)
        evaluation.keeps_outputs = True
        evaluation.reset("cpu")
        rows = zip(LOGITS.split(cuts), HARD.split(cuts), torch.arange(4).split(cuts), strict=True)
        for logits, label, index in rows:
            evaluation.update(F.cross_entropy(logits, label), logits, label, index)
        found.append(evaluation.figures(evaluation.loss.values))
        assert evaluation.confusion() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
        assert evaluation.outputs().probabilities.equal(LOGITS.softmax(1))
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


@pytest.mark.parametrize(
    ("monitor", "direction", "message"),
    [
        ("test/accuracy", "max", r"received 'test/accuracy' \(a choice made on test would flatter the test\)"),
        ("val/acuracy", "max", r"received 'val/acuracy'; try val/accuracy"),
        ("val/loss", "down", r"checkpoint\.direction: expected min or max, received 'down'"),
    ],
)
def test_what_a_checkpoint_is_not_chosen_by(monitor, direction, message):
    with pytest.raises(InputError, match=message):
        check_monitor(monitor, direction)
