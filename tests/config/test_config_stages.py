"""head=stages beside other options: what cannot be had together is answered before torch is imported."""

from __future__ import annotations

from collections.abc import Callable

import pytest

FaultsOf = Callable[..., dict[str, str]]


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["freeze=layer1-3"], "freeze", "expected backbone with head=stages, whose linear layer stands on every block"),
        (["freeze=none"], "freeze", "try freeze=backbone, or head=linear"),
        (["unfreeze=gradual"], "unfreeze", "expected never with head=stages"),
        (["freeze_bn=none"], "freeze_bn", "expected frozen or all with head=stages"),
        (["method.lora=4"], "method.lora", "expected null with head=stages"),
        (["donor.class_map=names"], "donor.class_map", "the donor's last layer has no rows"),
        (["head.pool=[]"], "head.pool", "one or more of mean, std, max"),
        (["head.pool=[mean,mean]"], "head.pool", "each once"),
        (["head.pool=[median]"], "head.pool", "one or more of mean, std, max"),
        (["head.taps=layer"], "head.taps", "one of block, stage"),
        (["head.dropout=0.2"], "head.dropout", "head=linear or head=mlp"),
    ],
)
def test_what_cannot_be_is_answered(faults_of: FaultsOf, overrides: list[str], key: str, said: str) -> None:
    faults = faults_of("head=stages", *overrides)
    assert list(faults) == [key]
    assert said in faults[key]


def test_without_it_its_keys_have_no_effect(faults_of: FaultsOf) -> None:
    assert "head=stages" in faults_of("head.pool=[max]")["head.pool"]
    assert "head=stages" in faults_of("head.taps=stage")["head.taps"]


def test_what_goes_together_is_taken(faults_of: FaultsOf) -> None:
    assert not faults_of("head=stages", "head.pool=[mean,max]", "head.taps=stage", "freeze_bn=all")
    assert not faults_of("head=linear", "freeze=layer1-3", "unfreeze=gradual")
