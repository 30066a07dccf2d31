"""L2-SP: the penalty's value and gradient, which weights it draws, and what becomes of weight decay."""

import pytest
import torch

from graft.config.schema import MethodConfig, SchedulerConfig, SchedulerKind
from graft.finetune.groups import group_parameters
from graft.finetune.methods.l2_sp import Anchors, anchored
from graft.models.stages import tensor_names


def test_the_penalty_and_its_gradient_are_the_papers(tiny):
    network = tiny.network()
    anchors = Anchors(network, {"conv1.weight", "layer1.conv.weight"}, 0.3)
    assert anchors().item() == 0
    with torch.no_grad():
        network.conv1.weight.add_(2.0)
        network.layer1.conv.weight.mul_(1.5)
        network.fc.weight.add_(1.0)
    start = network.layer1.conv.weight.detach() / 1.5
    distance = 4.0 * network.conv1.weight.numel() + float((start * 0.5).square().sum())
    assert anchors().item() == pytest.approx(0.3 / 2 * distance, rel=1e-5)
    anchors().backward()
    assert torch.allclose(network.conv1.weight.grad, torch.full_like(network.conv1.weight, 0.3 * 2.0))
    assert torch.allclose(network.layer1.conv.weight.grad, 0.3 * 0.5 * start, atol=1e-6)
    assert network.fc.weight.grad is None


def test_what_is_frozen_adds_nothing(tiny):
    network = tiny.network()
    anchors = Anchors(network, {"conv1.weight"}, 1.0)
    with torch.no_grad():
        network.conv1.weight.add_(1.0)
    network.conv1.weight.requires_grad_(False)
    assert anchors() == 0.0


def test_it_draws_the_trunks_weights_that_a_donor_filled_and_takes_weight_decays_place_there(tiny):
    network = tiny.network()
    filled = set(tensor_names(network)) - {"layer3.conv.weight"}
    names = anchored(network, tiny.stages, filled)
    assert names == {"conv1.weight", "layer1.conv.weight", "layer2.conv.weight"}
    decay = {
        name: group.weight_decay
        for group in group_parameters(network, tiny.stages, tiny.optimizer(weight_decay=0.1), (), names)
        for name in group.names
    }
    assert {name for name, value in decay.items() if value} == {"layer3.conv.weight", "fc.weight"}


def test_it_holds_the_weights_nearer_to_where_they_were(tiny, tmp_path):
    def distance(strength):
        network = tiny.network()
        start = network.layer2.conv.weight.detach().clone()
        tuning = tiny.tuning(
            network,
            method=MethodConfig(l2_sp=strength),
            anchored=anchored(network, tiny.stages, tensor_names(network)) if strength else frozenset(),
            optimizer=tiny.optimizer(name="sgd", lr=0.05),
            scheduler=SchedulerConfig(kind=SchedulerKind.constant),
        )
        result = tiny.fit(tuning, tiny.Data(), tmp_path / str(strength), trainer=tiny.trainer())
        last = torch.load(result.last_path, weights_only=True)["state_dict"]["network.layer2.conv.weight"]
        return float((last - start).norm())

    assert distance(10.0) < distance(1.0) < distance(0.0)
