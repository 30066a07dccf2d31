"""Writing values: all or nothing, never shared, checked."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from graft import TransferError, transfer
from graft.transfer import Donor, Rules, account_donor, donor_of_mapping, donor_of_module, inject, target_of_module


def net(outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, outputs))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_untouched(module: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def with_value(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**net().state_dict(), name: value}


LAST = "3.bias"
SPOILED: list[tuple[str, dict[str, torch.Tensor], str]] = [
    ("nan", with_value(LAST, torch.tensor([1.0, torch.nan, 2, 3])), "donor 3.bias: .* 1 NaN and 0 infinite of 4"),
    ("infinite", with_value(LAST, torch.tensor([1.0, torch.inf, -torch.inf, 3])), "0 NaN and 2 infinite of 4"),
    ("shape", with_value(LAST, torch.zeros(5)), r"3.bias: expected \(4,\), received \(5,\)"),
    ("dtype", with_value(LAST, torch.zeros(4, dtype=torch.float64)), "3.bias: expected float32, received float64"),
    ("extra", with_value("more", torch.zeros(4)), "1 of 10 donor tensors have no use"),
    ("nothing", {}, "9 of 9 target tensors have no source"),
]


@pytest.mark.parametrize(("donor", "message"), [case[1:] for case in SPOILED], ids=[case[0] for case in SPOILED])
def test_on_any_error_the_target_is_bit_identical(donor: dict[str, torch.Tensor], message: str) -> None:
    """The fault is in the last tensor, so that a write before the last check would show."""
    target = net()
    before = state(target)
    with pytest.raises(TransferError, match=message) as caught:
        transfer(donor, target)
    assert isinstance(caught.value, ValueError)
    assert_untouched(target, before)


def test_a_read_that_fails_leaves_the_target_alone() -> None:
    values = net().state_dict()
    donor = donor_of_mapping(values)

    def read(name: str) -> torch.Tensor:
        if name == LAST:
            raise OSError("the disk is gone")
        return values[name]

    donor.reader = read
    target = net()
    before = state(target)
    with pytest.raises(OSError, match="the disk is gone"):
        transfer(donor, target)
    assert_untouched(target, before)


@pytest.mark.parametrize("lie", [torch.zeros(7), torch.zeros(4, dtype=torch.float64)])
def test_a_donor_that_promised_something_else_is_refused(lie: torch.Tensor) -> None:
    values = net().state_dict()
    donor = donor_of_mapping(values)
    donor.reader = lambda name: lie if name == LAST else values[name]
    target = net()
    before = state(target)
    with pytest.raises(TransferError, match="as its file says"):
        transfer(donor, target)
    assert_untouched(target, before)


def test_large_finite_values_are_no_infinity() -> None:
    """Their sum overflows; each of them is finite."""
    target = nn.Linear(2, 2)
    transfer({"weight": torch.full((2, 2), 3e38), "bias": torch.zeros(2)}, target)
    assert target.weight[0, 0] == torch.tensor(3e38)


def test_a_cast_that_overflows_is_an_error() -> None:
    target = nn.Linear(2, 2).half()
    with pytest.raises(TransferError, match=r"weight after cast from float32: .* 4 infinite of 4"):
        transfer({"weight": torch.full((2, 2), 1e6), "bias": torch.zeros(2)}, target, dtype="cast")


def test_a_cast_is_done_and_noted_on_request() -> None:
    donor, target = nn.Linear(2, 2).half(), nn.Linear(2, 2)
    ledger = transfer(donor, target, dtype="cast")
    assert torch.equal(target.weight, donor.weight.float())
    assert target.weight.dtype == torch.float32
    assert ledger.by_target["weight"].reason == "cast from float16"


def test_identity_device_gradient_flag_and_layout_stay_the_targets() -> None:
    donor, target = net(), net().to(memory_format=torch.channels_last)
    target[0].weight.requires_grad = False
    identities = {name: id(parameter) for name, parameter in target.named_parameters()}
    transfer(donor, target)
    assert {name: id(parameter) for name, parameter in target.named_parameters()} == identities
    assert not target[0].weight.requires_grad
    assert target[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(parameter.grad_fn is None and parameter.is_leaf for parameter in target.parameters())
    assert torch.equal(target[0].weight, donor[0].weight)


def test_a_donor_with_history_leaves_none() -> None:
    weight = torch.rand(2, 2, requires_grad=True) * 2
    target = nn.Linear(2, 2, bias=False)
    transfer({"weight": weight}, target)
    assert target.weight.is_leaf
    assert target.weight.grad_fn is None


@pytest.mark.parametrize("rule", [{}, {"0.weight": "output_truncate", "0.bias": "output_truncate"}])
def test_nothing_is_shared_with_the_donor_adapted_or_not(rule: dict[str, str]) -> None:
    donor, target = nn.Sequential(nn.Linear(2, 4 if rule else 3)), nn.Sequential(nn.Linear(2, 3))
    transfer(donor, target, adapt=rule)
    expected = target[0].weight.clone()
    with torch.no_grad():
        donor[0].weight.fill_(9)
    assert torch.equal(target[0].weight, expected)


def test_swapping_two_layers_of_one_module_does_not_read_what_was_just_written() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first, second = module[0].weight.clone(), module[1].weight.clone()
    transfer(
        module, module, rename={"0.weight": "1.weight", "1.weight": "0.weight", "0.bias": "1.bias", "1.bias": "0.bias"}
    )
    assert torch.equal(module[0].weight, second)
    assert torch.equal(module[1].weight, first)


def test_adapting_within_one_module_does_not_read_what_was_just_written() -> None:
    """0 fills 1 by truncation and 1 fills 0 by padding, both from the values before the transfer."""
    module = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(2, 3, bias=False))
    first, second = module[0].weight.clone(), module[1].weight.clone()
    rules = {"0.weight": "output_pad", "1.weight": "output_truncate"}
    transfer(module, module, rename={"0.weight": "1.weight", "1.weight": "0.weight"}, adapt=rules)
    assert torch.equal(module[1].weight, first[:3])
    assert torch.equal(module[0].weight, torch.cat([second, torch.zeros(1, 2)]))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


def test_tied_weights_stay_tied() -> None:
    donor, target = Tied(), Tied()
    ledger = transfer(donor, target)
    assert target.out.weight is target.embed.weight
    assert torch.equal(target.out.weight, donor.embed.weight)
    assert ledger.by_target["out.weight"].reason == "shares its memory with embed.weight"


def test_a_file_that_kept_one_of_the_tied_names_is_enough() -> None:
    value = torch.rand(5, 3)
    target = Tied()
    transfer({"out.weight": value}, target)
    assert torch.equal(target.embed.weight, value)


def test_tied_names_with_two_values_are_an_error() -> None:
    target = Tied()
    before = state(target)
    with pytest.raises(TransferError, match=r"out.weight and embed.weight share their memory in the target but differ"):
        transfer({"embed.weight": torch.rand(5, 3), "out.weight": torch.rand(5, 3)}, target)
    assert_untouched(target, before)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_target_is_answered_clearly(wrap: Callable[[nn.Module], nn.Module]) -> None:
    donor, target = nn.Linear(3, 3), wrap(nn.Linear(3, 3))
    before = state(target)
    with pytest.raises(TransferError, match="belongs to a parametrized target module"):
        transfer(donor, target)
    assert_untouched(target, before)
    parametrize.remove_parametrizations(target, "weight")
    transfer(donor, target)
    assert torch.equal(target.weight, donor.weight)


def test_two_modules_parametrized_alike_transfer_what_they_compute_from() -> None:
    donor, target = (parametrizations.weight_norm(nn.Linear(3, 3)) for _ in range(2))
    transfer(donor, target)
    torch.testing.assert_close(target.weight, donor.weight, rtol=0, atol=0)


def test_lazy_modules_are_answered_clearly() -> None:
    with pytest.raises(TransferError, match=r"target: 'weight' belongs to a lazy module .* one forward pass"):
        transfer(nn.Linear(3, 2), nn.LazyLinear(2))
    with pytest.raises(TransferError, match="donor LazyLinear: 'weight' belongs to a lazy module"):
        transfer(nn.LazyLinear(2), nn.Linear(3, 2))


def test_the_meta_device_can_be_accounted_for_and_not_written_to() -> None:
    with torch.device("meta"):
        plan, other = net(), net()
    donor = donor_of_module(net())
    ledger = account_donor(donor, target_of_module(plan), Rules())
    assert ledger.summary["copied"] == 9
    with pytest.raises(TransferError, match=r"target: '0.weight' is on the meta device"):
        inject(ledger, donor, plan)
    with pytest.raises(TransferError, match=r"donor Sequential: '0.weight' is on the meta device"):
        transfer(other, net())
    real = net()
    inject(ledger, donor, real)
    assert torch.equal(real[0].weight, donor.read("0.weight"))


def test_a_ledger_of_another_network_is_refused() -> None:
    donor = donor_of_module(net())
    ledger = account_donor(donor, target_of_module(net()), Rules())
    with pytest.raises(TransferError, match="another network: 2 tensors differ"):
        inject(ledger, donor, net(outputs=5))


def test_a_state_dict_made_by_a_hook_is_refused() -> None:
    """Writing to such a tensor would write to a copy and change nothing."""
    target = nn.Linear(2, 2)
    target.register_state_dict_post_hook(lambda module, state, prefix, local: state.update(weight=state["weight"] * 1))
    with pytest.raises(TransferError, match="'weight' in the state dict of Linear is made by a hook"):
        transfer(nn.Linear(2, 2), target)


def test_inference_tensors_and_expanded_views_are_refused_before_anything_is_written() -> None:
    with torch.inference_mode():
        frozen = nn.Linear(2, 2)
    with pytest.raises(TransferError, match="made in inference mode"):
        transfer(nn.Linear(2, 2), frozen)
    view = nn.BatchNorm2d(4)
    view.running_var = torch.ones(1).expand(4)
    with pytest.raises(TransferError, match="'running_var' is an expanded view"):
        transfer(nn.BatchNorm2d(4), view)


@pytest.mark.parametrize(
    ("donor", "message"),
    [
        (
            {"state_dict": {"weight": torch.zeros(2, 2)}, "epoch": 3},
            r"under 'state_dict', received dict; try the entry",
        ),
        (7, "expected a module, a mapping of tensors, a path or a Donor, received int"),
    ],
)
def test_what_is_no_donor_is_told_so(donor: object, message: str) -> None:
    with pytest.raises(TransferError, match=message):
        transfer(donor, nn.Linear(2, 2))  # pyright: ignore[reportArgumentType]


def test_what_is_no_target_is_told_so() -> None:
    with pytest.raises(TransferError, match=r"target: expected a torch.nn.Module, received dict"):
        transfer(nn.Linear(2, 2), {})  # pyright: ignore[reportArgumentType]


class WithState(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: object) -> None:
        raise AssertionError("nothing but tensors is transferred")


def test_extra_state_that_is_no_tensor_is_remarked_upon() -> None:
    ledger = transfer(WithState(2, 2), WithState(2, 2))
    assert ledger.remarks == [
        "_extra_state: not a tensor; left out",
        "_extra_state: extra state that is no tensor; left as it is",
    ]


def test_fresh_values_depend_on_seed_and_name_alone() -> None:
    """Neither the order of tensors nor torch's own random state plays a part, and that state is not disturbed."""
    pad = {"*": {"name": "output_pad", "fill": "fresh"}}
    first, second = nn.Linear(2, 5), nn.Linear(2, 5)
    torch.manual_seed(0)
    untouched = torch.get_rng_state()
    transfer(donor := nn.Linear(2, 3).requires_grad_(False), first, adapt=pad, seed=1)
    torch.manual_seed(99)
    transfer(donor, second, adapt=pad, seed=1)
    assert torch.equal(first.weight, second.weight)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), untouched)
    transfer(donor, second, adapt=pad, seed=2)
    assert not torch.equal(first.weight[3:], second.weight[3:])


def test_a_donor_given_open_stays_open() -> None:
    closed: list[bool] = []
    donor: Donor = donor_of_module(nn.Linear(2, 2))
    donor.closer = lambda: closed.append(True)
    transfer(donor, nn.Linear(2, 2))
    assert closed == []
    with donor:
        pass
    assert closed == [True]


def test_no_more_than_a_tensor_is_held_beyond_the_donor() -> None:
    """A donor that is read lazily never has more than two of its tensors alive at once."""
    alive, most = 0, 0

    values = {f"{i}.weight": torch.rand(4, 4) for i in range(12)}

    def read(name: str) -> torch.Tensor:
        nonlocal alive, most
        value = values[name].clone()
        alive += 1
        most = max(most, alive)

        def gone() -> None:
            nonlocal alive
            alive -= 1

        weakref.finalize(value.untyped_storage(), gone)
        return value

    donor = donor_of_mapping(values)
    donor.reader, donor.resident = read, False
    transfer(donor, nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(12))))
    assert most <= 3
