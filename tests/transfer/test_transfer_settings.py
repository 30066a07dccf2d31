"""Live layers that are set otherwise: equal shapes do not mean an equal function, and the ledger says so."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import nn

from graft.transfer import TransferError, Verdict, transfer


def norms(eps: float, count: int = 1, momentum: float | None = 0.1) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict((f"bn{i}", nn.BatchNorm2d(3, eps=eps, momentum=momentum)) for i in range(count))
    ).eval()


def filled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.01 + 0.01)
    return module


def test_another_epsilon_of_a_live_batch_norm_is_remarked_and_left() -> None:
    donor, target = filled(norms(1e-3, count=5)), norms(1e-5, count=5)
    ledger = transfer(donor, target)
    assert torch.equal(target.bn0.running_var, donor.bn0.running_var)
    assert ledger.remarks == [
        "bn0.running_var, bn1.running_var, bn2.running_var and 2 more: eps is 0.001 in the donor, 1e-05 in the target, "
        "so the norms compute something else; try the donor's eps or donor.adapt={'*running_var': epsilon_fold}, "
        "which is exact in evaluation"
    ]
    image = torch.rand(2, 3, 4, 4)
    assert (donor.bn0(image) - target.bn0(image)).abs().max() > 1e-3


def test_another_epsilon_is_folded_when_a_rule_says_so() -> None:
    donor, target = filled(norms(1e-3, count=2)), norms(1e-5, count=2)
    ledger = transfer(donor, target, adapt={"*running_var": "epsilon_fold"})
    entry = ledger.by_target["bn1.running_var"]
    assert (entry.verdict, entry.rule) == (Verdict.adapted, "epsilon_fold: var' = var + 0.001 − 1e-05")
    assert ledger.remarks == []
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(target(image), donor(image))
    assert target.bn0.eps == 1e-5


def test_a_state_dict_s_epsilon_can_be_told() -> None:
    donor, target = filled(norms(1e-3)), norms(1e-5)
    with pytest.raises(TransferError, match=r"needs the donor's epsilon.*try \{name: epsilon_fold, before: 0\.001\}"):
        transfer(donor.state_dict(), target, adapt={"*running_var": "epsilon_fold"})
    transfer(donor.state_dict(), target, adapt={"*running_var": {"name": "epsilon_fold", "before": 1e-3}})
    image = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(target(image), donor(image))


def test_a_fold_of_equal_epsilons_is_a_rule_without_effect() -> None:
    with pytest.raises(TransferError, match="'\\*running_var' changes nothing"):
        transfer(norms(1e-5), norms(1e-5), adapt={"*running_var": "epsilon_fold"})


def test_a_fold_joins_another_adapter() -> None:
    donor = filled(nn.BatchNorm2d(3, eps=1e-3))
    target = nn.BatchNorm2d(2, eps=1e-5)
    others = ("weight", "bias", "running_mean")
    transfer(
        donor,
        target,
        adapt={**dict.fromkeys(others, "output_truncate"), "running_var": ["output_truncate", "epsilon_fold"]},
    )
    torch.testing.assert_close(target.running_var, donor.running_var[:2] + 1e-3 - 1e-5)


@pytest.mark.parametrize(
    ("donor", "target", "said"),
    [
        (
            nn.Conv2d(2, 2, 3, stride=2),
            nn.Conv2d(2, 2, 3),
            "weight: stride is (2, 2) in the donor, (1, 1) in the target, so the same weights compute something else; "
            "try the donor's stride",
        ),
        (
            nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(2, 2, 3, padding=1),
            "weight: padding_mode is reflect in the donor, zeros in the target, so the same weights compute something "
            "else; try the donor's padding_mode",
        ),
        (
            nn.BatchNorm1d(2, momentum=0.01),
            nn.BatchNorm1d(2),
            "running_var: momentum is 0.01 in the donor, 0.1 in the target, so statistics move at another pace in "
            "training; try the donor's momentum",
        ),
        (
            nn.LayerNorm(2, eps=1e-6),
            nn.LayerNorm(2),
            "weight: eps is 1e-06 in the donor, 1e-05 in the target, so the norms compute something else; try the "
            "donor's eps",
        ),
    ],
)
def test_layers_that_are_set_otherwise_are_remarked(donor: nn.Module, target: nn.Module, said: str) -> None:
    assert transfer(donor, target).remarks == [said]


def with_beside(layer: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 2, 3), beside=layer))


class Attention(nn.Module):
    """Its tensors are those of the layers within it."""

    def __init__(self, heads: int, *, window: object = 7) -> None:
        super().__init__()
        self.num_heads, self.window_size = heads, window
        self.qkv = nn.Linear(8, 24)


@pytest.mark.parametrize(
    ("donor", "target", "said"),
    [
        (nn.Conv2d(2, 2, 3), nn.ConvTranspose2d(2, 2, 3), "weight: layer is Conv2d in the donor, ConvTranspose2d in"),
        (
            nn.BatchNorm2d(2), nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
            "running_var: layer is BatchNorm in the donor, InstanceNorm2d in",
        ),
        (nn.LayerNorm(4), nn.GroupNorm(2, 4), "weight: layer is LayerNorm in the donor, GroupNorm in"),
        (nn.GroupNorm(1, 4), nn.GroupNorm(2, 4), "weight: num_groups is 1 in the donor, 2 in"),
        (nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4), "in_proj_weight: num_heads is 2 in the donor, 4 in"),
        (Attention(2), Attention(4), "qkv.weight: num_heads is 2 in the donor, 4 in"),
        (nn.LSTM(2, 2), nn.LSTM(2, 2, batch_first=True), "weight_ih_l0: batch_first is False in the donor, True in"),
        (nn.RNN(2, 2), nn.RNN(2, 2, nonlinearity="relu"), "weight_ih_l0: nonlinearity is tanh in the donor, relu in"),
        (
            with_beside(nn.MaxPool2d(2)), with_beside(nn.MaxPool2d(3, 2)),
            r"conv.weight: beside is MaxPool2d\(.*kernel_size=2.*\) in the donor, MaxPool2d\(.*kernel_size=3",
        ),
        (
            with_beside(nn.MaxPool2d((2, 3))), with_beside(nn.MaxPool2d([3, 2])),
            r"conv.weight: beside is MaxPool2d\(.*kernel_size=\(2, 3\).*\) in the donor, .*kernel_size=\(3, 2\)",
        ),
        (
            with_beside(nn.AvgPool2d(3, 1, 1)), with_beside(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
            "conv.weight: beside is .*count_include_pad=True.* in the donor, .*count_include_pad=False",
        ),
        (with_beside(nn.ReLU()), with_beside(nn.GELU()), r"conv.weight: beside is ReLU\(\) in the donor, GELU\("),
        (with_beside(nn.Identity()), with_beside(nn.ReLU()), r"conv.weight: beside is Identity in the donor, ReLU\("),
        (
            nn.Sequential(with_beside(nn.ReLU()), nn.MaxPool2d(2)),
            nn.Sequential(with_beside(nn.ReLU()), nn.AvgPool2d(2)),
            r"0.conv.weight: ../1 is MaxPool2d\(.* in the donor, AvgPool2d\(",
        ),
    ],
)  # fmt: skip
def test_what_computes_otherwise_under_equal_shapes_is_remarked(donor: nn.Module, target: nn.Module, said: str) -> None:
    (remark,) = transfer(donor, target).remarks
    assert re.match(said, remark), remark


@pytest.mark.parametrize(
    ("donor", "target"),
    [
        (nn.BatchNorm2d(2), nn.SyncBatchNorm(2)),
        (with_beside(nn.ReLU()), with_beside(nn.ReLU(inplace=True))),
        (with_beside(nn.MaxPool2d(2)), with_beside(nn.MaxPool2d((2, 2), (2, 2)))),
        (with_beside(nn.AdaptiveAvgPool2d(1)), with_beside(nn.AdaptiveAvgPool2d((1, 1)))),
        (with_beside(nn.Dropout(0.1)), with_beside(nn.Identity())),
        (Attention(2, window=7), Attention(2, window=[7, 7])),
    ],
)
def test_what_computes_the_same_is_not(donor: nn.Module, target: nn.Module) -> None:
    assert transfer(donor, target).remarks == []


def test_one_network_in_two_libraries_is_set_alike() -> None:
    donor, target = torchvision.models.resnet18(), timm.create_model("resnet18")
    assert transfer(donor, target).remarks == []


@pytest.mark.parametrize("side", ["donor", "target"])
def test_a_sparse_tensor_is_answered(side: str) -> None:
    sparse = nn.Linear(3, 3)
    sparse.weight = nn.Parameter(torch.eye(3).to_sparse())
    donor, target = (sparse, nn.Linear(3, 3)) if side == "donor" else (nn.Linear(3, 3), sparse)
    with pytest.raises(TransferError, match=rf"^{side}.*dense tensors, received a sparse_coo one under 'weight'"):
        transfer(donor, target)


def test_layers_that_are_set_alike_are_not() -> None:
    def layers() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 2, 3, stride=2, padding="valid"), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))

    assert transfer(layers(), layers()).remarks == []


def test_another_kernel_has_another_padding() -> None:
    donor, target = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 5, padding=2)
    assert transfer(donor, target, adapt={"weight": "kernel_pad"}).remarks == []


def test_what_is_skipped_is_not_compared() -> None:
    assert transfer(nn.Conv2d(2, 2, 3, stride=2), nn.Conv2d(2, 2, 3), skip=["weight"]).remarks == []
