"""How the penalty of a solved head is chosen: by validation images, or by folds where they are few."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from graft.config.schema import LossConfig
from graft.heads import choice, rows
from graft.heads.choice import Examples, choose_head
from graft.heads.rows import Scaling
from graft.heads.solve import PENALTIES
from graft.tasks.single_label import CrossEntropy


def examples(count: int, seed: int, *, width: int = 30, noise: float = 6.0) -> Examples:
    """Three classes whose means are apart in three of the features, beside much noise."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 3
    features = torch.randn(count, width, generator=generator) * noise
    features[torch.arange(count), target] += 8.0
    return Examples(features, target)


def test_the_penalty_with_the_lowest_validation_loss_is_chosen():
    train, val = examples(90, 0), examples(60, 1)
    chosen = choose_head(train, val, CrossEntropy(LossConfig()), 3)
    scaled = Scaling.of(train.features_ND)
    losses = []
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / (penalty * 90), tol=1e-10, max_iter=20_000)
        model.fit(scaled(train.features_ND).numpy(), train.target.numpy())
        answers = torch.from_numpy(model.predict_log_proba(scaled(val.features_ND).numpy()))
        losses.append(float(-answers[torch.arange(60), val.target].mean()))
    assert chosen.folds == 0
    assert chosen.penalty == PENALTIES[losses.index(min(losses))]
    assert chosen.loss == pytest.approx(min(losses), abs=1e-4)
    assert 0 < chosen.chosen < len(PENALTIES) - 1
    assert not chosen.at_end


def test_few_validation_images_leave_the_choice_to_folds_of_the_training_images():
    train = examples(90, 0)
    misleading = Examples(torch.zeros(9, 30), torch.zeros(9, dtype=torch.int64))
    chosen = choose_head(train, misleading, CrossEntropy(LossConfig()), 3)
    by_many = choose_head(train, examples(3000, 2), CrossEntropy(LossConfig()), 3)
    assert chosen.folds == choice.FOLDS
    assert abs(chosen.chosen - by_many.chosen) <= 1
    assert torch.equal(
        chosen.head.weight_KD, choose_head(train, misleading, CrossEntropy(LossConfig()), 3).head.weight_KD
    )


def test_views_of_an_image_are_in_one_fold():
    """Else a fold would be judged by images that its head was solved on, and the weakest penalty would look best."""
    train = examples(60, 0)
    noisy = Examples(torch.cat([train.features_ND[:]] * 4), train.target.repeat(4), torch.arange(60).repeat(4))
    few = Examples(torch.zeros(3, 30), torch.arange(3))
    once = choose_head(train, few, CrossEntropy(LossConfig()), 3)
    four = choose_head(noisy, few, CrossEntropy(LossConfig()), 3)
    assert four.penalty == once.penalty
    assert four.loss == pytest.approx(once.loss, rel=1e-3)


def test_refit_pulls_at_each_image_as_before():
    train, val = examples(90, 0), examples(60, 1)
    criterion = CrossEntropy(LossConfig())
    chosen = choose_head(train, val, criterion, 3, refit=True)
    features = torch.cat([train.features_ND[:], val.features_ND[:]])
    scaled = Scaling.of(features)(features).numpy()
    model = LogisticRegression(C=1 / (chosen.penalty * 90), tol=1e-10, max_iter=20_000)
    model.fit(scaled, torch.cat([train.target, val.target]).numpy())
    expected = torch.from_numpy(model.predict_proba(scaled))
    assert chosen.refit
    assert torch.allclose(chosen.head(features).softmax(1), expected, atol=1e-4)


def test_the_strongest_penalty_is_said_to_be_at_the_end():
    generator = torch.Generator().manual_seed(0)
    noise = [Examples(torch.randn(80, 40, generator=generator), torch.arange(80) % 2) for _ in range(2)]
    assert choose_head(noise[0], noise[1], CrossEntropy(LossConfig()), 2).at_end


def test_the_loss_of_all_is_of_heads_that_did_not_see_the_image() -> None:
    """Of each fold by heads of the other four, of the validation images by the chosen head; a mean over images."""
    train, val = examples(100, 0), examples(60, 1)
    criterion = CrossEntropy(LossConfig())
    chosen = choose_head(train, val, criterion, 3)
    order = torch.argsort(train.target, stable=True)
    fold_N = torch.empty(100, dtype=torch.int64)
    fold_N[order] = torch.arange(100) % 5
    x, y, total = train.features_ND[:].double(), train.target, 0.0
    for fold in range(5):
        inside = fold_N != fold
        scaling = Scaling.of(x[inside])
        z = scaling(x)
        strength = 1 / (chosen.penalty * int(inside.sum()))
        model = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000).fit(z[inside].numpy(), y[inside].numpy())
        answers = torch.from_numpy(model.predict_log_proba(z[~inside].numpy()))
        total -= float(answers.gather(1, y[~inside, None]).sum())
    received = choice.loss_of_all(train, val, criterion, 3, chosen)
    assert received == pytest.approx((total + chosen.loss * 60) / 160, rel=2e-3)


def test_where_folds_chose_the_penalty_their_loss_is_of_all() -> None:
    train, val = examples(100, 0), examples(20, 1)
    criterion = CrossEntropy(LossConfig())
    chosen = choose_head(train, val, criterion, 3)
    assert chosen.folds == 5
    assert choice.loss_of_all(train, val, criterion, 3, chosen) == chosen.loss


def test_validation_images_are_read_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        """Features that are never asked for as a whole."""

        def __init__(self, values_ND: torch.Tensor) -> None:
            self.values_ND, self.shape, self.most = values_ND, values_ND.shape, 0

        def __len__(self) -> int:
            return len(self.values_ND)

        def __getitem__(self, rows: slice) -> torch.Tensor:
            block = self.values_ND[rows]
            self.most = max(self.most, len(block))
            return block

    monkeypatch.setattr(rows, "BLOCK", 64)
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    train, val = examples(300, 0), examples(200, 1)
    parts = [Rows(part.features_ND[:]) for part in (train, val)]
    streamed = [Examples(read, part.target) for read, part in zip(parts, (train, val), strict=True)]
    choice = choose_head(*streamed, CrossEntropy(LossConfig()), 3)
    held = choose_head(train, val, CrossEntropy(LossConfig()), 3)
    assert [read.most for read in parts] == [64, 64]
    assert choice.penalty == held.penalty
    assert torch.allclose(choice.head.weight_KD, held.head.weight_KD, atol=1e-4)
