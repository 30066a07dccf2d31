"""From the config's donor group to the rules of an account, and rules by which nothing may pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graft import TransferError, transfer
from graft.config.schema import DonorConfig
from graft.transfer import Rules, TensorInfo, account, rules_of, target_of_module


def test_the_users_renames_lead_to_the_names_that_the_backbones_own_expect() -> None:
    rules = rules_of(DonorConfig(rename=[["^a", "b"]]), auto_rename=[["^b", "c"]], seed=5)
    ledger = account({"a.w": TensorInfo((2,), "float32")}, {"c.w": TensorInfo((2,), "float32")}, rules)
    assert ledger.by_target["c.w"].source == "a.w"
    assert ledger.seed == 5


def test_head_skips_and_casts_come_through() -> None:
    donor = DonorConfig(cast=True, skip=["fc.bias"], adapt={"x.w": "output_pad"})
    rules = rules_of(
        donor, auto_skip={"fc.*": "new head"}, auto_ignore={"aux.*": "no place"}, auto_adapt={"q": "input_sum"}
    )
    ledger = account(
        {"x.w": TensorInfo((2,), "float16"), "aux.w": TensorInfo((1,), "float32")},
        {
            "x.w": TensorInfo((3,), "float32"),
            "fc.weight": TensorInfo((2, 2), "float32"),
            "fc.bias": TensorInfo((2,), "float32"),
        },
        rules,
    )
    verdicts = {entry.target: (entry.verdict.value, entry.cast) for entry in ledger.tensors}
    assert verdicts == {
        "x.w": ("adapted", True),
        "fc.weight": ("initialized", False),
        "fc.bias": ("initialized", False),
    }
    assert ledger.by_target["fc.weight"].reason == "new head"
    assert ledger.donor_tensors[1].reason == "no place"


def test_structure_never_fills_a_weight_with_a_bias() -> None:
    """Equal shapes hide it: a norm's bias first, as some files have it."""
    norm = nn.BatchNorm2d(4)
    donor = {
        name: norm.state_dict()[name]
        for name in ("bias", "weight", "running_mean", "running_var", "num_batches_tracked")
    }
    with pytest.raises(TransferError, match=r"position 0 expected weight \(4,\), received bias \(4,\)"):
        transfer(donor, nn.BatchNorm2d(4), match="structure")


def test_names_by_the_text_of_a_layer_are_refused() -> None:
    """str(layer) is the same for two layers, so a table made with it would hold one of them."""
    donor = {str(layer): layer.weight for layer in (nn.Linear(2, 2), nn.Linear(2, 2))}
    with pytest.raises(TransferError, match="4 of 4 target tensors have no source"):
        transfer(donor, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


SET_ASIDE = {
    "skip and ignore of everything": Rules(skip=["*"], ignore=["*"]),
    "skip alone, which excuses the donor's too": Rules(skip=["*"]),
    "fresh values for everything": Rules(adapt={"*": "init:zeros"}),
    "by the caller": Rules(auto_skip={"*": "new head"}, auto_ignore={"*": "old head"}),
    "all but the counter": Rules(skip=["weight", "bias", "running_*"]),
}


@pytest.mark.parametrize("rules", SET_ASIDE.values(), ids=SET_ASIDE)
def test_a_transfer_in_which_nothing_is_used_is_refused(rules: Rules) -> None:
    infos = target_of_module(nn.BatchNorm2d(4)).infos
    with pytest.raises(TransferError, match="received rules under which none of its 5 tensors fills anything"):
        account(infos, infos, rules)


def test_nothing_to_use_is_refused_too_and_the_target_keeps_its_values() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    with pytest.raises(TransferError, match="expected a donor of which something is used"):
        transfer({}, layer, adapt={"*": "init:ones"})
    assert torch.equal(layer.weight, before)


def test_without_a_donor_nothing_is_used_because_that_was_asked_for() -> None:
    infos = target_of_module(nn.Linear(2, 2)).infos
    ledger = account({}, infos, Rules(auto_skip={"*": "donor=none"}, without_donor=True))
    assert ledger.summary["initialized"] == 2
