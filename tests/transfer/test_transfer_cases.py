"""The cases of the tutorials, each beside the mistake that people make in it."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from graft import TransferError, transfer


def small(outputs: int = 4, inputs: int = 3, width: int = 8) -> nn.Sequential:
    """conv, norm, relu, conv, pool, flatten, dense."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(inputs, width, 3, padding=1),
            bn1=nn.BatchNorm2d(width),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(width, 6, 3, padding=1),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(6, outputs),
        )
    )


def randomized(module: nn.Module, seed: int = 1) -> nn.Module:
    """Every floating-point tensor drawn anew, statistics too, so that nothing passes for being at its start."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return module.eval()


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_untouched(module: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_copy_one_conv_layer_weight_and_bias_by_name() -> None:
    donor, target = randomized(small()), nn.Module()
    target.features = nn.Sequential(nn.Conv2d(3, 8, 3))
    ledger = transfer(donor.conv1, target.features[0])
    assert torch.equal(target.features[0].weight, donor.conv1.weight)
    assert torch.equal(target.features[0].bias, donor.conv1.bias)
    assert [entry.verdict.value for entry in ledger.tensors] == ["copied", "copied"]


def test_copy_one_conv_layer_into_one_without_bias_is_an_error() -> None:
    donor, target = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3, bias=False)
    before = state(target)
    with pytest.raises(TransferError, match="1 of 2 donor tensors have no use") as caught:
        transfer(donor, target)
    assert caught.value.unused == ("bias",)
    assert_untouched(target, before)


def test_copy_one_dense_layer() -> None:
    donor, target = nn.Linear(6, 4), nn.Linear(6, 4)
    transfer(donor, target)
    assert torch.equal(target.weight, donor.weight)
    assert torch.equal(target.bias, donor.bias)


def test_a_dense_layer_with_swapped_axes_is_an_error() -> None:
    target = nn.Linear(6, 4)
    before = state(target)
    with pytest.raises(TransferError, match=r"weight: expected \(4, 6\), received \(6, 4\)"):
        transfer({"weight": torch.rand(6, 4), "bias": torch.rand(4)}, target)
    assert_untouched(target, before)


def blocks(names: list[str]) -> nn.Module:
    module = nn.Module()
    for name in names:
        module.add_module(name, nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 3, 3), bn=nn.BatchNorm2d(3))))
    return module


@pytest.mark.parametrize(
    "rename",
    [
        [("block*", "encoder.block*")],
        [(r"^block(\d)\.", r"encoder.block\1.")],
        [("block1.*", "encoder.block1.*"), ("^block2", "encoder.block2")],
    ],
)
def test_nested_blocks_layer_by_layer(rename: list[tuple[str, str]]) -> None:
    donor, target = randomized(blocks(["block1", "block2"])), nn.Module()
    target.encoder = blocks(["block1", "block2"])
    ledger = transfer(donor, target, rename=rename)
    assert {entry.verdict.value for entry in ledger.tensors} == {"renamed"}
    assert ledger.by_target["encoder.block2.bn.running_var"].source == "block2.bn.running_var"
    for name, value in donor.state_dict().items():
        assert torch.equal(target.state_dict()[f"encoder.{name}"], value)


def test_matching_by_the_end_of_a_name_does_not_happen() -> None:
    """`block1.conv.weight` ends like `encoder.block1.conv.weight`; a rule must say that they are the same."""
    donor, target = blocks(["block1"]), nn.Module()
    target.encoder = blocks(["block1"])
    before = state(target)
    with pytest.raises(TransferError, match=r"try \"donor.rename=\[\['\^', 'encoder.'\]\]"):
        transfer(donor, target)
    assert_untouched(target, before)


def test_identical_models_in_memory() -> None:
    donor, target = randomized(small()), small().eval()
    image = torch.rand(2, 3, 9, 9)
    ledger = transfer(donor, target)
    assert torch.equal(donor(image), target(image))
    assert ledger.summary["copied"] == len(donor.state_dict())
    assert ledger.summary["parameters_transferred_fraction"] == 1.0


def test_identical_models_do_not_share_memory() -> None:
    donor, target = randomized(small()), small()
    transfer(donor, target)
    donor.conv1.weight.data.zero_()
    assert target.conv1.weight.abs().sum() > 0
    memories = {value.untyped_storage().data_ptr() for value in donor.state_dict().values()}
    assert not memories & {value.untyped_storage().data_ptr() for value in target.state_dict().values()}


def test_a_copy_equals_its_donor_and_is_not_the_same_object() -> None:
    """Values and the ledger tell whether a layer came over; `is`, and `==` on modules, say no to a true copy."""
    donor, target = randomized(small()), small()
    ledger = transfer(donor, target)
    assert target.conv1.weight is not donor.conv1.weight
    assert target.conv1 != donor.conv1
    assert torch.equal(target.conv1.weight, donor.conv1.weight)
    assert ledger.by_target["conv1.weight"].verdict.value == "copied"


def test_equal_values_under_another_name_are_no_match() -> None:
    """Two biases of zeros are equal and may still be two layers' biases."""
    donor, target = {"a.bias": torch.zeros(4)}, nn.ModuleDict({"b": nn.BatchNorm1d(4, affine=True)})
    with pytest.raises(TransferError, match="1 of 1 donor tensors have no use") as caught:
        transfer(donor, target, skip=["b.weight", "b.running_*", "b.num*"])
    assert caught.value.unfilled == ("b.bias",)


def test_partial_with_a_different_last_layer() -> None:
    donor, target = randomized(small(outputs=10)), small(outputs=3)
    head = target.fc.weight.clone()
    ledger = transfer(donor, target, skip=["fc.*"])
    assert torch.equal(target.fc.weight, head)
    assert torch.equal(target.conv2.weight, donor.conv2.weight)
    entry = ledger.by_target["fc.weight"]
    assert (entry.verdict.value, entry.source, entry.reason) == ("initialized", None, "skip: fc.*")
    excused = {each.source: each.reason for each in ledger.donor_tensors if not each.used}
    assert excused.keys() == {"fc.weight", "fc.bias"}
    assert "fc.weight keeps its own values" in excused["fc.weight"]


def test_a_different_last_layer_is_not_left_out_silently() -> None:
    """A lenient load_state_dict lets a missing name pass; another shape must not pass here either."""
    donor, target = small(outputs=10), small(outputs=3)
    before = state(target)
    with pytest.raises(TransferError, match=r"fc.weight: expected \(3, 6\), received \(10, 6\) from fc.weight"):
        transfer(donor, target)
    assert_untouched(target, before)


def test_a_donor_that_lacks_a_layer_is_an_error_that_names_it() -> None:
    donor = {name: value for name, value in small().state_dict().items() if not name.startswith("bn1.")}
    with pytest.raises(TransferError, match="5 of 11 target tensors have no source, 0 of 6") as caught:
        transfer(donor, small())
    assert caught.value.unfilled[:2] == ("bn1.weight", "bn1.bias")
    assert "donor.skip=[bn1.*]" in str(caught.value)


def test_different_names_through_a_table() -> None:
    donor, target = (
        nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Linear(2, 2))),
        nn.Sequential(OrderedDict(x=nn.Linear(2, 2), y=nn.Linear(2, 2))),
    )
    table = {"a.weight": "y.weight", "a.bias": "y.bias", "b.weight": "x.weight", "b.bias": "x.bias"}
    transfer(donor, target, match="table", table=table)
    assert torch.equal(target.y.weight, donor.a.weight)
    assert torch.equal(target.x.bias, donor.b.bias)


def test_a_table_that_leaves_names_out_is_an_error() -> None:
    donor, target = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(TransferError, match="1 of 2 target tensors have no source, 1 of 2 donor tensors"):
        transfer(donor, target, match="table", table={"weight": "weight"})


def test_a_table_with_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(TransferError, match=r"expects a target 'wieght' that there is not; try weight"):
        transfer(nn.Linear(2, 2), nn.Linear(2, 2), table={"weight": "wieght", "bias": "bias"})


def test_fewer_output_channels() -> None:
    donor, target = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 5, 3)
    image = torch.rand(1, 3, 6, 6)
    ledger = transfer(donor, target, adapt={"*": "output_truncate"})
    torch.testing.assert_close(target(image), donor(image)[:, :5])
    assert ledger.by_target["weight"].rule == "output_truncate: W' = W[:5]"
    assert [entry.verdict.value for entry in ledger.tensors] == ["adapted", "adapted"]


def test_fewer_output_channels_must_take_bias_and_norm_along() -> None:
    donor, target = small(width=8), small(width=5)
    before = state(target)
    with pytest.raises(TransferError) as caught:
        transfer(donor, target, adapt={"conv1.weight": "output_truncate"})
    for name in ("conv1.bias", "bn1.weight", "bn1.running_var", "conv2.weight"):
        assert f"{name}: expected" in str(caught.value)
    assert "donor.adapt={bn1.weight: output_truncate}" in str(caught.value)
    assert "donor.adapt={conv2.weight: input_select}" not in str(caught.value).split("conv2.weight: expected")[0]
    assert_untouched(target, before)


def test_weight_bias_norm_and_consumer_adapt_together() -> None:
    donor, target = randomized(small(width=8)), small(width=5).eval()
    transfer(
        donor, target, adapt={"conv1.*": "output_truncate", "bn1.*": "output_truncate", "conv2.weight": "input_select"}
    )
    image = torch.rand(2, 3, 7, 7)
    kept = donor.bn1(donor.conv1(image))[:, :5]
    torch.testing.assert_close(target.bn1(target.conv1(image)), kept)
    torch.testing.assert_close(target.conv2.weight, donor.conv2.weight[:, :5])


def test_more_input_channels() -> None:
    donor, target = nn.Conv2d(3, 4, 3), nn.Conv2d(6, 4, 3)
    transfer(donor, target, adapt={"weight": "input_repeat"})
    image = torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(target(torch.cat([image, image], dim=1)), donor(image))


def test_more_input_channels_with_zeros_ignore_what_is_added() -> None:
    donor, target = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    transfer(donor, target, adapt={"weight": "input_zero"})
    image, depth = torch.rand(1, 3, 6, 6), torch.rand(1, 1, 6, 6)
    torch.testing.assert_close(target(torch.cat([image, depth], dim=1)), donor(image))


def test_fewer_input_channels_by_averaging() -> None:
    donor, target = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(1, 4, 3, bias=False)
    ledger = transfer(donor, target, adapt={"weight": "input_mean"})
    torch.testing.assert_close(target.weight, donor.weight.mean(dim=1, keepdim=True))
    assert "changes the function" in ledger.by_target["weight"].reason


def test_averaging_over_the_wrong_axis_cannot_pass() -> None:
    """The mean over axis 0 (outputs) has another shape; nothing broadcasts it into place."""
    target = nn.Conv2d(1, 4, 3, bias=False)
    before = state(target)
    with pytest.raises(TransferError, match="expected"):
        transfer({"weight": torch.rand(4, 3, 3, 3).mean(dim=0, keepdim=True)}, target)
    assert_untouched(target, before)


def test_kernel_and_channels_too_different_re_initialised() -> None:
    donor, target = (nn.Sequential(nn.Conv2d(*conv), nn.BatchNorm1d(2)) for conv in ((3, 4, 3), (5, 64, 7)))
    ledger = transfer(donor, target, adapt={"0.*": "init:kaiming_normal"}, seed=3)
    entry = ledger.by_target["0.weight"]
    assert (entry.verdict.value, entry.source) == ("initialized", None)
    assert entry.rule.startswith("init:kaiming_normal: N(0, gain²/fan_out)")
    assert target[0].weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    assert torch.equal(target[0].bias, torch.zeros(64))
    first = target[0].weight.clone()
    transfer(donor, target, adapt={"0.*": "init:kaiming_normal"}, seed=4)
    assert not torch.equal(target[0].weight, first)
    transfer(donor, target, adapt={"0.*": "init:kaiming_normal"}, seed=3)
    assert torch.equal(target[0].weight, first)


def trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_feature_extraction_leaves_frozen_parameters_frozen() -> None:
    donor, target = randomized(small()), small(outputs=2)
    for name, parameter in target.named_parameters():
        parameter.requires_grad = name.startswith("fc.")
    transfer(donor, target, skip=["fc.*"])
    assert trainable(target) == {"fc.weight", "fc.bias"}
    assert torch.equal(target.conv1.weight, donor.conv1.weight)
    target(torch.rand(2, 3, 6, 6)).sum().backward()
    assert target.conv1.weight.grad is None


def test_fine_tuning_trains_from_the_donor_and_leaves_it_alone() -> None:
    donor, target = randomized(small()), small(outputs=2)
    transfer(donor, target, skip=["fc.*"])
    before = state(donor)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    target.train()
    target(torch.rand(2, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    assert_untouched(donor, before)
    assert not torch.equal(target.conv1.weight, donor.conv1.weight)


def test_the_hybrid_with_two_learning_rates_keeps_the_optimizers_parameters() -> None:
    """An optimizer made before the transfer still trains the same parameters after it."""
    donor, target = randomized(small()), small(outputs=2)
    trunk = [parameter for name, parameter in target.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.SGD([{"params": trunk, "lr": 1e-4}, {"params": target.fc.parameters(), "lr": 1e-1}])
    transfer(donor, target, skip=["fc.*"])
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in target.parameters()}


def test_first_layers_and_a_new_gap_dense_256_head() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = small()[:4]
            self.head = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 2)
            )

    donor, target = randomized(small()), Network()
    ledger = transfer(donor, target, rename=[("^", "trunk.")], skip=["head.*"], ignore=["fc.*"])
    assert torch.equal(target.trunk.conv2.weight, donor.conv2.weight)
    assert {entry.target for entry in ledger.tensors if entry.source is None} == {
        "head.2.weight",
        "head.2.bias",
        "head.4.weight",
        "head.4.bias",
    }


def test_load_saved_weights_after_replacing_the_head() -> None:
    saved = {f"module.{name}": value for name, value in randomized(small(outputs=10)).state_dict().items()}
    target = small(outputs=10)
    target.fc = nn.Linear(6, 2)
    ledger = transfer(saved, target, skip=["fc.*"])
    assert torch.equal(target.bn1.running_mean, saved["module.bn1.running_mean"])
    assert ledger.remarks == ['prefix "module." stripped from all donor names']
    entry = ledger.by_target["conv1.weight"]
    assert (entry.verdict.value, entry.source, entry.rule) == (
        "renamed",
        "module.conv1.weight",
        'prefix "module." stripped',
    )


def test_a_pretrained_file_with_other_names_by_structure() -> None:
    donor, target = randomized(small()), nn.Sequential(*small())
    ledger = transfer(donor, target, match="structure")
    image = torch.rand(1, 3, 5, 5)
    assert torch.equal(target.eval()(image), donor(image))
    assert ledger.by_target["6.weight"].source == "fc.weight"
    assert ledger.by_target["6.weight"].rule == "structure: position 9"


def test_structure_with_another_order_is_an_error() -> None:
    donor = dict(reversed(list(small().state_dict().items())))
    with pytest.raises(TransferError, match=r"match=structure: position 0 expected conv1.weight"):
        transfer(donor, small(), match="structure")
