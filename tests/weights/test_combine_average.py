"""Averages of weights, batch-norm statistics and the greedy recipe: the arithmetic, exactly."""

import argparse
import math

import pytest
import torch
from torch import nn

from graft.commands.interpolate import _alphas, choose
from graft.commands.soup import greedy
from graft.config.choices import TaskKind
from graft.config.figures import LOSS, headline
from graft.weights.average import average
from graft.weights.combine_write import merged_certificate
from graft.weights.statistics import moved_norms, recompute


def test_an_average_is_the_weighted_sum():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)},
        {"w": torch.tensor([5.0, -2.0]), "n": torch.tensor(9)},
    ]
    mixed = average(states, [0.25, 0.75])
    assert mixed["w"].tolist() == [4.0, -1.0]
    assert mixed["n"].item() == 7


def test_what_all_members_share_keeps_every_bit():
    value = torch.randn(100, generator=torch.Generator().manual_seed(0))
    mixed = average([{"w": value}, {"w": value.clone()}, {"w": value.clone()}], [1 / 3, 1 / 3, 1 / 3])
    assert torch.equal(mixed["w"], value)
    assert mixed["w"].data_ptr() != value.data_ptr()


def test_sums_are_taken_in_double_precision_and_dtypes_stay():
    many = [{"w": torch.full((1,), 1.0)}, *[{"w": torch.full((1,), 2.0**-24)} for _ in range(15)]]
    exact = (1 + 15 * 2.0**-24) / 16
    assert average(many, [1 / 16] * 16)["w"].item() == torch.tensor(exact, dtype=torch.float32).item()
    halves = [{"w": torch.ones(2, dtype=torch.float16)}, {"w": torch.zeros(2, dtype=torch.float16)}]
    assert average(halves, [0.5, 0.5])["w"].dtype == torch.float16


def test_weights_and_names_must_fit():
    state = {"w": torch.zeros(1)}
    with pytest.raises(AssertionError, match="sum to 1"):
        average([state, state], [0.5, 0.6])
    with pytest.raises(AssertionError, match="same tensors"):
        average([state, {"v": torch.zeros(1)}], [0.5, 0.5])


def test_greedy_keeps_what_does_not_make_it_worse():
    scores = {(2, 0): 0.8, (2, 0, 1): 0.79, (2, 0, 3): 0.8}
    chosen, trials = greedy([2, 0, 1, 3], 0.75, lambda tried: scores[tried])
    assert chosen == (2, 0, 3)
    assert trials == [((2, 0), 0.8), ((2, 0, 1), 0.79), ((2, 0, 3), 0.8)]


def test_greedy_keeps_nothing_whose_score_is_nan():
    chosen, _ = greedy([0, 1], 0.9, lambda tried: math.nan)
    assert chosen == (0,)


def test_greedy_is_never_worse_than_its_best_member():
    chosen, _ = greedy([1, 0], 0.9, lambda tried: 0.5)
    assert chosen == (1,)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(2)
        self.second = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(2 * self.first(x) + 1)


def test_statistics_are_the_mean_over_the_batches_of_what_enters():
    module = Normed()
    with torch.no_grad():
        module.first.running_mean.fill_(3.0)
        module.second.running_mean.fill_(7.0)
        module.second.num_batches_tracked.fill_(100)  # a member's, which must not weigh in
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 2, generator=generator), torch.randn(4, 2, generator=generator), torch.zeros(1, 2)]
    assert recompute(module, ["second"], batches) == 12
    with torch.no_grad():
        entering = [2 * module.first(batch) + 1 for batch in batches[:2]]
    expected_mean = torch.cat(entering).mean(0)  # each image weighs the same
    expected_var = (8 * entering[0].var(0) + 4 * entering[1].var(0)) / 12
    torch.testing.assert_close(module.second.running_mean, expected_mean)
    torch.testing.assert_close(module.second.running_var, expected_var)
    assert module.first.running_mean.tolist() == [3.0, 3.0]  # left alone
    assert module.second.momentum == 0.1
    assert not any(part.training for part in module.modules())


def test_only_statistics_that_differ_are_recomputed():
    module = Normed()
    one = {name: value.clone() for name, value in module.state_dict().items()}
    other = {name: value.clone() for name, value in one.items()}
    other["second.running_var"] += 0.5
    assert moved_norms(module, [one, other]) == ("second",)
    assert moved_norms(module, [one, dict(one)]) == ()


def test_the_best_alpha_then_the_lower_loss_then_the_middle():
    rows = [
        {"alpha": 0.0, "accuracy": 0.8, "loss": 0.5},
        {"alpha": 0.4, "accuracy": 0.9, "loss": 0.4},
        {"alpha": 0.7, "accuracy": 0.9, "loss": 0.3},
        {"alpha": 1.0, "accuracy": 0.9, "loss": 0.3},
    ]
    assert choose(rows, headline(TaskKind.single_label))["alpha"] == 0.7
    rows[1]["loss"] = math.nan
    assert choose(rows, headline(TaskKind.single_label))["alpha"] == 0.7
    assert choose(rows, LOSS)["alpha"] == 0.7
    assert choose([{**row, "loss": 0.1 if row["alpha"] == 0 else 0.3} for row in rows], LOSS)["alpha"] == 0.0


def test_alphas_are_sorted_shares():
    assert _alphas("1,0,0.5,0.5") == [0.0, 0.5, 1.0]
    for text in ("2", "-0.1", "a", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="0 to 1"):
            _alphas(text)


def test_a_certificate_of_several_says_where_they_differ():
    copied = {"origin": "copied", "source": "x", "trained": False}
    one = {"each": {"a": copied, "b": {"origin": "initialized", "source": None, "trained": True}}}
    other = {"each": {"a": {**copied, "trained": True}, "b": copied}}
    merged = merged_certificate([one, other])
    assert merged["each"]["a"] == {"origin": "copied", "source": "x", "trained": True}
    assert merged["each"]["b"] == {"origin": "several", "source": None, "trained": True}
    assert merged["summary"] == {"copied, trained": 1, "several, trained": 1}
