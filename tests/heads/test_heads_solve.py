"""Solved heads against scikit-learn's, and against what a minimum must satisfy."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from graft.heads import rows
from graft.heads.ridge import solve_ridge
from graft.heads.rows import Head, Scaling
from graft.heads.solve import solve
from graft.tasks.convex import Sigmoid, SmoothL1, Softmax, one_hot


def features(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Correlated, of very different spread, with one column that does not vary."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    made = torch.randn(rows, width, generator=generator) @ mixing * torch.logspace(-1, 2, width) + 3
    made[:, 1] = 7.0
    return made


def classes(x: torch.Tensor, outputs: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scaled = (x - x.mean(0)) / x.std(0).clamp_min(1e-3)
    noise = torch.randn(len(x), outputs, generator=generator)
    return (scaled @ torch.randn(x.shape[1], outputs, generator=generator) + 2 * noise).argmax(1)


@pytest.mark.parametrize(("rows", "width"), [(120, 20), (40, 90)], ids=["more rows", "more features"])
@pytest.mark.parametrize("penalty", [1e-2, 1e-4])
@pytest.mark.parametrize("outputs", [2, 5])
def test_softmax_heads_answer_as_scikit_learns(rows, width, penalty, outputs):
    x = features(rows, width)
    y = classes(x, outputs)
    solution = solve(x, Softmax(float(rows), one_hot(y, outputs)), penalties=[penalty])
    # Two classes: scikit-learn has one row of weights, w = w1 - w0, whose norm is penalised half as much.
    strength = 1 / (penalty * rows) * (2 if outputs == 2 else 1)
    reference = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
    scaled = Scaling.of(x)(x).numpy()
    expected = torch.from_numpy(reference.fit(scaled, y.numpy()).predict_proba(scaled))
    assert torch.allclose(solution.head(x).softmax(1), expected, atol=2e-5)


@pytest.mark.parametrize(("rows", "width"), [(120, 20), (40, 90)], ids=["more rows", "more features"])
def test_class_weights_weigh_as_scikit_learns(rows, width):
    x = features(rows, width)
    y = classes(x, 3)
    weight = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    loss = Softmax(float(rows), one_hot(y, 3) * weight)
    head = solve(x, loss, penalties=[1e-3]).head
    scaled = Scaling.of(x)(x).numpy()
    reference = LogisticRegression(
        C=1 / (1e-3 * rows), tol=1e-10, max_iter=20_000, class_weight=dict(enumerate(weight.tolist()))
    )
    expected = torch.from_numpy(reference.fit(scaled, y.numpy()).predict_proba(scaled))
    assert torch.allclose(head(x).softmax(1), expected, atol=2e-5)


def test_sigmoid_heads_answer_each_label_as_scikit_learns():
    x = features(100, 12)
    labels = torch.stack([classes(x, 2, seed=seed) for seed in (3, 4)], 1).double()
    head = solve(x, Sigmoid(100.0, labels, 1 - labels), penalties=[1e-3]).head
    scaled = Scaling.of(x)(x).numpy()
    for place in range(2):
        reference = LogisticRegression(C=1 / (1e-3 * 100), tol=1e-10, max_iter=20_000).fit(
            scaled, labels[:, place].numpy()
        )
        expected = torch.from_numpy(reference.predict_proba(scaled)[:, 1])
        assert torch.allclose(head(x)[:, place].sigmoid(), expected, atol=2e-5)


LOSSES = {
    "softmax": lambda target: Softmax(7.0, target.softmax(1)),
    "sigmoid": lambda target: Sigmoid(7.0, 3 * target.sigmoid(), 1 - target.sigmoid()),
    "smooth_l1": lambda target: SmoothL1(7.0, target, beta=0.5),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_the_values(kind):
    generator = torch.Generator().manual_seed(0)
    loss = LOSSES[kind](torch.randn(6, 3, generator=generator, dtype=torch.float64))
    logits = (2 * torch.randn(6, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    (expected,) = torch.autograd.grad(loss.value(logits), logits)
    assert torch.allclose(loss.gradient(logits.detach()), expected, atol=1e-12)
    halves = [loss.rows(slice(0, 2)), loss.rows(slice(2, 6))]
    parts = [half.value(part) for half, part in zip(halves, logits.detach().split([2, 4]), strict=True)]
    assert float(sum(parts)) == pytest.approx(float(loss.value(logits.detach())))


def test_softmax_values_are_torchs_with_smoothing():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 1])
    smoothed = one_hot(target, 4) * 0.9 + 0.1 / 4
    expected = F.cross_entropy(logits, target, label_smoothing=0.1)
    assert float(Softmax(5.0, smoothed).value(logits)) == pytest.approx(float(expected))


def test_the_penalty_with_the_lowest_validation_loss_is_chosen():
    x = features(200, 60)
    y = classes(x, 3)
    loss = Softmax(100.0, one_hot(y[:100], 3))
    solution = solve(x[:100], loss, validation=lambda head: float(F.cross_entropy(head(x[100:]), y[100:])))
    losses = [point.loss for point in solution.path]
    assert solution.chosen == losses.index(min(losses))
    assert 0 < solution.chosen < len(losses) - 1
    assert not solution.at_end
    alone = solve(x[:100], loss, penalties=[solution.penalty])
    assert torch.allclose(solution.head(x).softmax(1), alone.head(x).softmax(1), atol=2e-5)
    assert not solution.complete  # three weaker ones were worse, so the rest was not tried


@pytest.mark.parametrize(("sign", "end"), [(1, 2), (-1, 0)], ids=["weakest", "strongest"])
def test_a_penalty_at_the_end_of_the_path_is_told(sign, end):
    x = features(50, 5)
    y = classes(x, 2)
    loss = Softmax(50.0, one_hot(y, 2))
    penalties = [1e-1, 1e-2, 1e-3]
    solution = solve(x, loss, validation=lambda head: sign * float(F.cross_entropy(head(x), y)), penalties=penalties)
    assert solution.chosen == end
    assert solution.at_end


def test_the_same_input_gives_the_same_bits():
    x = features(80, 30)
    loss = Softmax(80.0, one_hot(classes(x, 4), 4))
    first, second = (solve(x, loss, penalties=[1e-2, 1e-3]).head for _ in range(2))
    assert torch.equal(first.weight_KD, second.weight_KD)
    assert torch.equal(first.bias_K, second.bias_K)


def test_blocks_find_the_head_that_rows_held_at_once_do(monkeypatch):
    x = features(300, 16)
    y = classes(x, 3)
    loss = Softmax(300.0, one_hot(y, 3))
    held = solve(x, loss, penalties=[1e-3]).head
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    monkeypatch.setattr(rows, "BLOCK", 64)
    assert torch.allclose(solve(x, loss, penalties=[1e-3]).head(x).softmax(1), held(x).softmax(1), atol=2e-5)
    monkeypatch.setattr(rows, "ROTATED", 4)
    assert torch.allclose(solve(x, loss, penalties=[1e-3]).head(x).softmax(1), held(x).softmax(1), atol=2e-5)


def test_features_that_cannot_be_solved_are_refused():
    loss = Softmax(2.0, one_hot(torch.tensor([0, 1]), 2))
    with pytest.raises(ValueError, match="finite"):
        solve(torch.tensor([[1.0], [math.nan]]), loss)
    with pytest.raises(ValueError, match="at least one image"):
        solve(torch.zeros(0, 3), loss)
    with pytest.raises(ValueError, match="finite loss"):
        solve(torch.tensor([[1.0], [2.0]]), loss, validation=lambda head: math.nan)
    with pytest.raises(ValueError, match="finite features"):
        solve_ridge(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [math.nan]]))


def test_a_constant_feature_has_no_weight():
    x = features(50, 5)
    head = solve(x, Softmax(50.0, one_hot(classes(x, 2), 2)), penalties=[1e-3]).head
    assert head.weight_KD[:, 1].abs().max() == 0


@pytest.mark.parametrize(("rows", "width"), [(30, 6), (15, 40)], ids=["more rows", "more features"])
def test_ridge_answers_and_leaves_one_out_as_scikit_learn_does(rows, width):
    x = features(rows, width)
    target = torch.randn(rows, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + x[:, :1].double()
    solution = solve_ridge(x, target, penalties=[1e-2])
    scaled = Scaling.of(x)(x).numpy()
    reference = Ridge(alpha=1e-2 * rows)
    expected = torch.from_numpy(reference.fit(scaled, target.numpy()).predict(scaled))
    assert torch.allclose(solution.head(x), expected, atol=1e-6)
    left_out = torch.from_numpy(cross_val_predict(reference, scaled, target.numpy(), cv=LeaveOneOut()))
    assert torch.allclose(solution.left_out_NK, left_out, atol=1e-6)
    assert solution.errors[0] == pytest.approx(float((left_out - target).square().mean()))


def test_ridge_takes_the_penalty_that_leaves_out_best():
    x = features(40, 10)
    target = torch.randn(40, 1, generator=torch.Generator().manual_seed(5))
    solution = solve_ridge(x, target)
    assert solution.errors[solution.chosen] == min(solution.errors)
    assert isinstance(solution.head, Head)
