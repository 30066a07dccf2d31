"""Re-initialisers: the spread that they are named for, the same values each time, nothing of the donor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graft import transfer
from graft.transfer.adapt import ADAPTERS, Site, fit, parse


def adapted(
    rule: object, value: torch.Tensor, shape: tuple[int, ...], name: str = "conv.weight", **site: bool
) -> torch.Tensor:
    chain = fit(parse(rule), tuple(value.shape), Site(name, shape, **site))
    assert chain is not None
    return chain(value)


INITIALISERS = sorted(name for name in ADAPTERS if name.startswith("init:"))


@pytest.mark.parametrize("rule", INITIALISERS)
def test_initialisers_read_nothing_and_repeat(rule: str) -> None:
    shape = (32, 16, 3, 3)
    first, second = (adapted(rule, torch.full((1,), torch.nan), shape, name=name) for name in ("a.weight", "b.weight"))
    assert torch.isfinite(first).all()
    assert torch.equal(first, adapted(rule, torch.zeros(1), shape, name="a.weight"))
    constant = rule in ("init:zeros", "init:ones")
    assert torch.equal(first, second) == constant


@pytest.mark.parametrize(
    ("rule", "std"),
    [
        ("init:kaiming_normal", (2 / 288) ** 0.5),
        ({"name": "init:kaiming_normal", "mode": "fan_in"}, (2 / 144) ** 0.5),
        ("init:kaiming_uniform", (2 / 288) ** 0.5),
        ("init:xavier_normal", (2 / 432) ** 0.5),
        ("init:xavier_uniform", (2 / 432) ** 0.5),
        ("init:trunc_normal", 0.02 * 0.8796),
        ({"name": "init:trunc_normal", "std": 0.1}, 0.1 * 0.8796),
    ],
)
def test_initialisers_have_the_spread_that_they_are_named_for(rule: object, std: float) -> None:
    assert adapted(rule, torch.zeros(1), (32, 16, 3, 3)).std().item() == pytest.approx(std, rel=0.03)


def test_orthogonal_is_orthogonal() -> None:
    matrix = adapted("init:orthogonal", torch.zeros(1), (8, 20)).double()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rule", INITIALISERS)
def test_initialisers_give_norms_and_biases_their_neutral_values(rule: str) -> None:
    target = nn.BatchNorm2d(4)
    transfer({"0.weight": torch.ones(2, 2)}, nn.Sequential(nn.Linear(2, 2, bias=False), target), adapt={"1.*": rule})
    literal = {"init:zeros": 0.0, "init:ones": 1.0}.get(rule)
    assert target.weight.tolist() == [1.0 if literal is None else literal] * 4
    assert target.bias.tolist() == [0.0 if literal is None else literal] * 4
