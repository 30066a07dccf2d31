"""Focal loss, adjusted logits, weights by name, and losses of a user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from graft.config.choices import LossKind, TaskKind
from graft.config.faults import InputError
from graft.config.presets import composed
from graft.config.schema import LossConfig
from graft.tasks.registry import task_of

OUTPUTS_BK = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [0.3, 0.2, 0.1], [-1.0, 0.0, 3.0]])
CLASSES = torch.tensor([0, 2, 1, 2])
TASK = task_of(TaskKind.single_label, ["cat", "dog", "owl"], [0, 0, 0, 0, 0, 0, 1, 1, 1, 2])


def loss(kind: LossKind, target: torch.Tensor = CLASSES, **settings: Any) -> float:
    return float(TASK.criterion(LossConfig(kind=kind, **settings))(OUTPUTS_BK, target))


def test_focal_loss_is_that_of_the_paper() -> None:
    p = OUTPUTS_BK.softmax(1).gather(1, CLASSES[:, None])[:, 0]
    assert loss(LossKind.focal, gamma=2.0) == pytest.approx(float((-((1 - p) ** 2) * p.log()).mean()), rel=1e-6)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"weights": {"owl": 3.0}, "label_smoothing": 0.2}])
def test_focal_loss_without_focus_is_cross_entropy(settings: dict[str, Any], soft: bool) -> None:
    target = torch.tensor([[0.7, 0.2, 0.1]] * 4) if soft else CLASSES
    expected = loss(LossKind.task, target, **settings)
    assert loss(LossKind.focal, target, gamma=0.0, **settings) == pytest.approx(expected, rel=1e-6)


def test_focal_loss_of_several_labels_without_focus_is_binary_cross_entropy() -> None:
    task = task_of(TaskKind.multi_label, ["a", "b", "c"], [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    target = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]])
    plain = float(F.binary_cross_entropy_with_logits(OUTPUTS_BK, target))
    assert float(task.criterion(LossConfig(kind=LossKind.focal, gamma=0.0))(OUTPUTS_BK, target)) == pytest.approx(plain)
    p = torch.where(target == 1, OUTPUTS_BK.sigmoid(), 1 - OUTPUTS_BK.sigmoid())
    expected = float((-((1 - p) ** 2) * p.log()).mean())
    assert float(task.criterion(LossConfig(kind=LossKind.focal))(OUTPUTS_BK, target)) == pytest.approx(expected)


def test_adjusted_logits_add_each_classs_share() -> None:
    shift_K = 0.5 * torch.tensor([0.6, 0.3, 0.1]).log()
    expected = float(F.cross_entropy(OUTPUTS_BK + shift_K, CLASSES))
    assert loss(LossKind.logit_adjusted, tau=0.5) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="training images of every class with logit_adjusted"):
        task_of(TaskKind.single_label, ["a", "b"], [0, 0]).criterion(LossConfig(kind=LossKind.logit_adjusted))


def test_weights_by_name() -> None:
    expected = float(F.cross_entropy(OUTPUTS_BK, CLASSES, weight=torch.tensor([1.0, 2.0, 5.0])))
    assert loss(LossKind.task, weights={"dog": 2.0, "owl": 5.0}) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="received 'dgo'; try dog"):
        loss(LossKind.task, weights={"dgo": 2.0})


def test_a_loss_of_ones_own_gives_a_value_for_each_image_or_the_mean() -> None:
    plain = loss(LossKind.task)
    own = LossConfig(kind=LossKind.custom, target="tests.own_losses:each_image", kwargs={"scale": 2.0})
    assert float(TASK.criterion(own)(OUTPUTS_BK, CLASSES)) == pytest.approx(2 * plain)
    own = LossConfig(kind=LossKind.custom, target="tests.own_losses:Mean", kwargs={"smoothing": 0.1})
    expected = loss(LossKind.task, label_smoothing=0.1)
    assert float(TASK.criterion(own)(OUTPUTS_BK, CLASSES)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tests.own_losses:Trained", "a loss without parameters"),
        ("tests.own_losses:constant", "a loss with a gradient"),
        ("tests.own_losses:broken", r"received IndexError: .*\n  .*own_losses.py, line \d+, in broken"),
        ("tests.own_losses:matrix", r"a loss for each of 2 images, received \[2, 3\]"),
        ("math:pi", "loss.target: expected a function or class"),
    ],
)
def test_what_is_wrong_with_a_loss_shows_before_training(target: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        TASK.criterion(LossConfig(kind=LossKind.custom, target=target))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loss=custom"], "^loss.target: expected the import path of a loss with loss=custom"),
        (["loss=focal", "data.task=regression"], "(?m)^loss: expected task or custom with data.task=regression"),
        (["loss.gamma=1"], "loss.gamma: expected nothing with loss=task"),
        (["loss=custom", "loss.target=torch:zeros", "loss.weights={a: 2}"], "loss.weights: expected nothing with loss"),
        (["loss.weights={a: 2}", "loss.class_weights=balanced"], "loss.weights: expected nothing with loss.class_w"),
        (["loss.weights={a: 0}"], "for each entry a finite number above 0"),
        (["loss=custom", "loss.target=nosuchpackage:loss"], "a module that exists"),
    ],
)
def test_what_a_loss_cannot_be_had_with(words: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        composed(words)
