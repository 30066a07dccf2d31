"""Hidden layers on kept features: stopped early, over a path of weight decays, the same bits each time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from graft.config.schema import LossConfig
from graft.heads.choice import Examples
from graft.heads.layers import LayersChoice, Stopping, train_layers
from graft.tasks.single_label import CrossEntropy

CRITERION = CrossEntropy(LossConfig())
STOPPING = Stopping(decays=(1.0, 0.01), patience=3, batch_size=16, seed=0)


def examples(count: int, seed: int) -> Examples:
    """Two rings, which no linear layer tells apart, and noise."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (count,), generator=generator)
    angle = 6.283 * torch.rand(count, generator=generator)
    radius = 1 + 1.5 * target + 0.5 * torch.randn(count, generator=generator)
    noise = torch.randn(count, 6, generator=generator)
    return Examples(torch.cat([torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None], noise], 1), target)


def fresh_layers(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def adamw(layers: nn.Module, decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(layers.parameters(), lr=0.01, weight_decay=decay)


def trained(train: Examples, val: Examples, stopping: Stopping = STOPPING, dropout: float = 0.0) -> LayersChoice:
    return train_layers(fresh_layers(dropout), train, val, CRITERION, adamw, stopping)


def loss(layers: nn.Module, part: Examples) -> float:
    with torch.no_grad():
        return float(CRITERION(layers.eval()(part.features_ND[:]).double(), part.target))


def test_the_best_epoch_of_the_best_decay_is_taken() -> None:
    train, val = examples(160, 0), examples(120, 1)
    choice = trained(train, val)
    assert [point.penalty for point in choice.path] == [1.0, 0.01]
    assert choice.loss == min(point.loss for point in choice.path) < 0.6
    assert abs(loss(choice.layers, val) - choice.loss) < 1e-12
    assert choice.folds == 0
    again = trained(train, val, replace(STOPPING, decays=(choice.penalty,), epochs=choice.epoch))
    assert again.epoch == choice.epoch
    for name, value in choice.layers.state_dict().items():
        assert torch.equal(value, again.layers.state_dict()[name])


def test_training_ends_when_the_loss_has_stopped_falling() -> None:
    train, val = examples(160, 0), examples(120, 1)
    longer = trained(train, val, replace(STOPPING, decays=(0.01,), patience=1000, epochs=120))
    choice = trained(train, val, replace(STOPPING, decays=(0.01,)))
    assert choice.epoch < 100, "it ends by itself"
    assert longer.loss <= choice.loss
    none = trained(train, Examples(val.features_ND, 1 - val.target), replace(STOPPING, decays=(0.01,)))
    assert none.epoch == 1, "a loss that only rises is best after the first epoch"


@pytest.mark.parametrize("patience", [1, 3])
def test_it_trains_no_longer_than_patience_says(patience: int) -> None:
    train, val = examples(160, 0), examples(120, 1)
    rising = Examples(val.features_ND, 1 - val.target)  # best after the first epoch
    steps: list[int] = []

    def counted(layers: nn.Module, decay: float) -> torch.optim.Optimizer:
        optimizer = adamw(layers, decay)
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        return optimizer

    one = replace(STOPPING, decays=(0.01,), epochs=1)
    train_layers(fresh_layers(), train, rising, CRITERION, counted, one)
    an_epoch = len(steps)
    train_layers(fresh_layers(), train, rising, CRITERION, counted, replace(one, epochs=50, patience=patience))
    assert len(steps) - an_epoch == (1 + patience) * an_epoch


def test_order_and_dropout_follow_from_the_seed_alone() -> None:
    train, val = examples(160, 0), examples(120, 1)
    states = []
    for seed, before in ((0, 5), (0, 6), (1, 5)):
        torch.manual_seed(before)
        choice = trained(train, val, replace(STOPPING, seed=seed), dropout=0.3)
        states.append(choice.layers.state_dict())
        assert float(torch.rand(1)) == float(torch.rand(1, generator=torch.Generator().manual_seed(before)))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_few_validation_images_leave_the_choice_to_folds() -> None:
    train, misleading = examples(160, 0), examples(20, 1)
    misleading = Examples(misleading.features_ND, 1 - misleading.target)
    choice = trained(train, misleading)
    assert choice.folds == 5
    assert choice.epoch > 1, "the validation images would have stopped it at once"
    assert loss(choice.layers, examples(500, 2)) < 0.6


def test_layers_that_are_given_stay_as_they_are() -> None:
    layers = fresh_layers()
    before = copy.deepcopy(layers.state_dict())
    train_layers(layers, examples(60, 0), examples(60, 1), CRITERION, adamw, replace(STOPPING, epochs=2))
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_rare_rows_that_weigh_more_are_drawn_more_often() -> None:
    train, val = examples(160, 0), examples(120, 1)
    weight = torch.where(train.target == 0, 50.0, 0.02).double()
    heavy = Examples(train.features_ND, train.target, None, weight)
    choice = trained(heavy, Examples(val.features_ND, torch.zeros_like(val.target)))
    assert bool((choice.layers(val.features_ND[:]).argmax(1) == 0).all())


def test_one_decay_is_no_path_that_ends() -> None:
    assert not trained(examples(60, 0), examples(60, 1), replace(STOPPING, decays=(0.1,), epochs=2)).at_end
