"""Cutting: both halves together are the network, in evaluation and in training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.config.faults import InputError
from graft.models.cut import _Sides, split
from graft.models.stages import Stage, Stages

STAGES = Stages((Stage("one", ("a", "position")), Stage("two", ("b",))), ("fc",))


class Net(nn.Module):
    """Two stages and a head, around `between`, which each test writes."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor] = lambda _, x: x) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.position = nn.Parameter(torch.randn(4, 1, 1))
        self.drop = nn.Dropout(0.5)
        self.act = nn.ReLU(inplace=True)
        self.b = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 5)
        self.between = between

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.between(self, self.a(x))
        x = self.b(x if mask is None else x * mask)
        return self.fc(x.mean((2, 3)))


X = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def halves_agree(net: Net, after: str = "one", stages: Stages = STAGES) -> Tensor:
    """Both modes; returns what crosses."""
    net.eval()
    prefix, rest = split(net, stages, after, example=X)
    features = prefix(X)
    torch.testing.assert_close(rest(features), net(X))
    net.train()
    rest.train()
    prefix.train()
    assert net.a.training, "the prefix has modes of its own"
    net.a.eval()  # as freezing does
    state = copy.deepcopy(net.state_dict())
    outcomes = []
    for forward in (net, lambda x: rest(prefix(x))):
        net.load_state_dict(state)
        torch.manual_seed(7)
        outcomes.append((forward(X), copy.deepcopy(net.state_dict())))
    torch.testing.assert_close(outcomes[1][0], outcomes[0][0])
    torch.testing.assert_close(outcomes[1][1], outcomes[0][1])
    assert not torch.equal(outcomes[0][1]["b.1.running_mean"], state["b.1.running_mean"]), "the rest learns statistics"
    assert torch.equal(outcomes[0][1]["a.1.running_mean"], state["a.1.running_mean"]), "the prefix stays in eval mode"
    return features


def activated(net: Net, x: Tensor) -> Tensor:
    return F.max_pool2d(net.act(x), 2)


def dropped(net: Net, x: Tensor) -> Tensor:
    return net.act(net.drop(x))


def dropped_by_function(net: Net, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, net.training) if net.training else x


def reshaped(net: Net, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    return (
        x.reshape(count, channels, height * width).transpose(1, 2).transpose(1, 2).reshape(count, channels, height, -1)
    )


def placed(net: Net, x: Tensor) -> Tensor:
    return x + net.position


def in_place(net: Net, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, net.training, inplace=True)


def test_activation_and_pooling_belong_to_the_prefix() -> None:
    features = halves_agree(Net(activated))
    assert features.shape == (3, 4, 2, 2)
    assert float(features.detach().min()) >= 0


def test_chance_belongs_to_the_rest_and_what_follows_it_too() -> None:
    features = halves_agree(Net(dropped))
    assert float(features.detach().min()) < 0, "the activation behind the dropout is not in the prefix"


@pytest.mark.parametrize("between", [dropped_by_function, in_place, reshaped])
def test_what_the_forward_does_itself_is_done_in_each_mode(between: Callable[[Net, Tensor], Tensor]) -> None:
    halves_agree(Net(between))


def test_a_bare_parameter_goes_with_its_stage() -> None:
    net = Net(placed)
    torch.testing.assert_close(halves_agree(net), net.a.eval()(X) + net.position)


def test_the_rest_does_not_write_into_what_it_is_given() -> None:
    net = Net(in_place)
    prefix, rest = split(net, STAGES, "one")
    features = prefix(X).detach()
    kept = features.clone()
    rest.train()(features)
    assert torch.equal(features, kept)


def test_pooling_before_the_head_belongs_to_the_prefix() -> None:
    assert halves_agree_after_trunk(Net()).shape == (3, 4)


def halves_agree_after_trunk(net: Net) -> Tensor:
    net.eval()
    prefix, rest = split(net, STAGES, "two", example=X)
    features = prefix(X)
    torch.testing.assert_close(rest(features), net(X))
    return features


class TwoWays(nn.Module):
    """A second value passes the cut beside the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)
        self.c = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x), self.c(x)
        return self.fc((self.b(left) + right).mean((2, 3)))


def test_several_values_cross_as_a_tuple() -> None:
    net = TwoWays().eval()
    stages = Stages((Stage("one", ("a", "c")), Stage("two", ("b",))), ("fc",))
    prefix, rest = split(net, stages, "one", example=X)
    features = prefix(X)
    assert [tuple(value.shape) for value in features] == [(3, 4, 4, 4)] * 2
    torch.testing.assert_close(rest(features), net(X))


def test_the_halves_share_the_network_s_tensors() -> None:
    net = Net()
    prefix, rest = split(net, STAGES, "one")
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.fill_(2.0)
        net.a[1].running_mean.add_(1.0)
    assert torch.equal(rest(prefix(X)), torch.full((3, 5), 2.0))
    rest(prefix(X)).sum().backward()
    assert net.fc.bias.grad is not None
    assert dict(prefix.named_buffers()).keys()
    assert any(buffer is net.a[1].running_mean for buffer in prefix.buffers())


def test_cutting_leaves_modes_alone_and_a_prefix_copies() -> None:
    net = Net().train()
    net.b[1].eval()
    modes = [part.training for part in net.modules()]
    prefix, rest = split(net, STAGES, "one")
    assert [part.training for part in net.modules()] == modes
    assert rest.training
    assert not prefix.training
    assert not copy.deepcopy(prefix).train().training
    prefix.eval()
    torch.testing.assert_close(copy.deepcopy(prefix)(X), prefix(X))


def test_the_prefix_shows_its_layers() -> None:
    prefix, _ = split(Net(), STAGES, "one")
    kinds = [type(prefix.get_submodule(str(node.target))) for node in prefix.graph.nodes if node.op == "call_module"]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d]


class Remembers(nn.Module):
    """Keeps what it computed for the next call, as some attention biases are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.kept = nn.Conv2d(3, 4, 1), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.kept.setdefault(str(x.device), self.conv.bias.sum() * x.new_ones(()))


def test_tracing_leaves_nothing_in_a_block_s_memory() -> None:
    net = Net()
    net.a = Remembers()
    net.eval()
    prefix, rest = split(net, STAGES, "one")
    assert net.a.kept == {}
    torch.testing.assert_close(rest(prefix(X)), net(X))


class Moody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc((self.b(x) if x.sum() > 0 else x).mean((2, 3)))


class MoodyBlock(nn.Module):
    """Not traceable, and on one side of the cut, so that nothing needs to trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.shape[0] > 0 and x.sum() != 0 else self.conv(x)


def test_a_block_that_cannot_be_traced_is_called_as_a_whole() -> None:
    net = Net()
    net.a = MoodyBlock()
    net.eval()
    prefix, rest = split(net, STAGES, "one", example=X)
    torch.testing.assert_close(rest(prefix(X)), net(X))


def test_a_network_that_decides_by_values_is_answered() -> None:
    stages = Stages((Stage("one", ("a",)), Stage("two", ("b",))), ("fc",))
    with pytest.raises(InputError, match=r"cut after one, received Moody: .*control flow.*cache=none"):
        split(Moody(), stages, "one")


@pytest.mark.parametrize("where", ["whole", "of"])
def test_a_mistake_of_grafts_own_is_not_told_as_the_networks(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(self: object, *_: object) -> bool:
        raise AttributeError("graft's own")

    monkeypatch.setattr(_Sides, where, mistaken)
    with pytest.raises(AttributeError, match="graft's own"):
        split(Net(), STAGES, "one")


def test_halves_that_differ_from_the_whole_are_answered() -> None:
    class Sly(Net):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            x = self.a(x)
            return self.fc(self.b(x if isinstance(x, Tensor) else x * 2).mean((2, 3)))

    with pytest.raises(InputError, match="halves give logits that differ"):
        split(Sly().eval(), STAGES, "one", example=X)


@pytest.mark.parametrize("after", ["head", "three"])
def test_only_a_stage_of_the_trunk_can_end_a_prefix(after: str) -> None:
    with pytest.raises(InputError, match=f"received '{after}'"):
        split(Net(), STAGES, after)
