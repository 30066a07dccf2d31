"""Computing activations twice changes memory and time, and no bit of the result."""

import pytest
import torch
from torch import nn

from graft.config.faults import InputError
from graft.config.schema import UnfreezeKind
from graft.finetune.methods.recompute import recomputed
from graft.models.stages import Stage, Stages

EVERY = {"start": "3 steps", "every": "3 steps"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"freeze": "layer1-2"}, {"freeze": "backbone", "kind": UnfreezeKind.gradual, "unfreeze": EVERY}],
    ids=["everything", "layer1-2 frozen", "gradual"],
)
def test_the_bits_are_those_without_it(tiny, tmp_path, changes):
    ends = []
    for recompute in (False, True):
        tuning = tiny.tuning(**changes)
        result = tiny.fit(tuning, tiny.Data(), tmp_path / str(recompute), trainer=tiny.trainer(recompute=recompute))
        ends.append(torch.load(result.last_path, weights_only=True))
        assert all("forward" not in vars(module) for module in tuning.network.modules())
    plain, again = ends
    assert all(value.equal(again["state_dict"][name]) for name, value in plain["state_dict"].items())
    assert plain["optimizer_states"][0]["state"].keys() == again["optimizer_states"][0]["state"].keys()


class Wide(nn.Module):
    """Two blocks, each of which keeps ten tensors of its input's size."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*(nn.Sequential(*(nn.Tanh() for _ in range(10)), nn.Linear(8, 8)) for _ in range(2)))
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.body(x))


def kept(network, x):
    """How many numbers the forward pass keeps for the backward pass."""
    numbers = []

    def count(tensor):
        numbers.append(tensor.numel() * (tensor.ndim == 2 and len(tensor) == len(x)))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(x).sum().backward()
    return sum(numbers)


def test_only_the_blocks_inputs_are_kept_where_something_trains():
    network, x = Wide(), torch.randn(64, 8)
    stages = Stages((Stage("body", ("body",)),), ("fc",))
    plain = kept(network, x.requires_grad_())
    with recomputed(network, stages):
        assert type(vars(network.body[0])["forward"]).__name__ == "Recomputed"
        again = kept(network, x)
    assert plain >= 20 * x.numel()
    assert again <= 3 * x.numel()


def test_it_is_refused_where_the_network_is_cut(tiny, tmp_path):
    module = tiny.network()
    tuning = tiny.tuning(module, freeze="backbone", behind={"layer3": nn.Sequential(nn.Flatten(), module.fc)})
    with pytest.raises(InputError, match=r"trainer\.recompute: expected cache=none"):
        tiny.fit(tuning, tiny.Data(), tmp_path, trainer=tiny.trainer(recompute=True))
