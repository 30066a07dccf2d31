"""LoRA: where it can be, that it begins at the donor's function, what trains, and that merging changes nothing."""

import copy

import pytest
import timm
import torch
from torch import nn

from graft.config.faults import InputError, RunFailed
from graft.config.schema import MethodConfig, UnfreezeKind
from graft.finetune.methods.lora import add_lora, lora_layers, lora_names, merge, plain_name
from graft.finetune.methods.selective import holding
from graft.models.stages import Stage, Stages, tensor_names

SHAPE = (3, 8, 8)
LAYERS = ("conv1", "layer1.conv", "layer2.conv", "layer3.conv")


class Mixed(nn.Module):
    """What can have an addition, and what cannot."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.linear = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.dilated(self.depthwise(self.plain(x))).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x)[0].mean(1)
        return self.fc(self.linear(x))


MIXED = Stages(trunk=(Stage("all", ("plain", "depthwise", "dilated", "attention", "linear", "unused")),), heads=("fc",))


def images(count=4, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def stirred(module):
    """B is zero at first; here both matrices hold something."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name in lora_names(module):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return module


def test_layers_that_are_no_plain_product_of_their_input_are_passed_over():
    assert lora_layers(Mixed(), MIXED, SHAPE, []) == ("plain", "linear")
    assert lora_layers(Mixed(), MIXED, SHAPE, ["lin*"]) == ("linear",)
    with pytest.raises(InputError, match=r"method\.lora_targets: .*received 'plan', which names none .*; try plain"):
        lora_layers(Mixed(), MIXED, SHAPE, ["plan"])


def test_it_begins_at_the_donors_function_and_adds_b_times_a_over_the_rank(tiny):
    network = tiny.network().eval()
    before = network(images())
    weight = network.layer2.conv.weight.detach().clone()
    add_lora(network, LAYERS, MethodConfig(lora=2, lora_alpha=6.0))
    assert network(images()).equal(before)
    stirred(network)
    layer = network.layer2.conv
    a_RIkk, b_OR11 = (part["default"].weight.detach() for part in (layer.lora_A, layer.lora_B))
    product = torch.einsum("or,rikl->oikl", b_OR11[:, :, 0, 0], a_RIkk)
    merge(network, LAYERS, images())
    assert torch.allclose(network.layer2.conv.weight, weight + 6.0 / 2 * product, atol=1e-6)


def test_the_same_seed_gives_the_same_start(tiny):
    starts = []
    for seed in (1, 1, 2):
        network = tiny.network()
        state = torch.get_rng_state()
        add_lora(network, LAYERS, MethodConfig(lora=2), seed=seed)
        assert torch.get_rng_state().equal(state)
        starts.append(network.conv1.lora_A["default"].weight.detach())
    assert starts[0].equal(starts[1])
    assert not starts[0].equal(starts[2])


def test_merged_it_is_the_librarys_own_network_and_says_the_same():
    library = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    stages = Stages(trunk=(Stage("all", ("conv_stem", "bn1", "blocks", "conv_head", "bn2")),), heads=("classifier",))
    module = copy.deepcopy(library)
    names = tensor_names(module)
    shape = (3, 32, 32)
    layers = lora_layers(module, stages, shape, [])
    assert {"conv_stem", "blocks.1.0.conv_pw", "conv_head"} <= set(layers)
    assert not any("conv_dw" in path for path in layers)  # depthwise
    add_lora(module, layers, MethodConfig(lora=4))
    assert {plain_name(name) for name in set(tensor_names(module)) - lora_names(module)} == set(names)
    stirred(module)
    with torch.no_grad():
        trained = module.eval()(images(2, shape))
        merge(module, layers, images(2, shape))
        assert tensor_names(module) == names
        library.load_state_dict(module.state_dict(), strict=True)
        merged = library.eval()(images(2, shape))
    assert float((merged - trained).abs().max()) <= 1e-5 * max(1.0, float(trained.abs().max()))
    assert not hasattr(module, "peft_config")


def test_a_merge_that_changes_what_the_network_says_is_an_error(tiny, monkeypatch):
    network = tiny.network()
    add_lora(network, LAYERS, MethodConfig(lora=2))
    stirred(network)
    monkeypatch.setattr(type(network.conv1), "merge", lambda layer: None)
    with pytest.raises(RunFailed, match=r"method\.lora: the merged network's logits differ"):
        merge(network, LAYERS, images())


def test_the_donors_weights_stay_and_the_rest_trains(tiny, tmp_path):
    def tuning():
        network = tiny.network()
        add_lora(network, LAYERS, MethodConfig(lora=2), seed=3)
        schedule = holding(
            tiny.schedule(network, "backbone", UnfreezeKind.never), network, tiny.stages, free=lora_names(network)
        )
        return tiny.tuning(network, schedule=schedule)

    first = tuning()
    before = {name: value.clone() for name, value in first.network.state_dict().items()}
    result = tiny.fit(first, tiny.Data(), tmp_path, trainer=tiny.trainer())
    last = torch.load(result.last_path, weights_only=True)
    moved = {name for name, value in before.items() if not value.equal(last["state_dict"][f"network.{name}"])}
    assert moved == lora_names(first.network) | {"fc.weight", "fc.bias"}
    assert result.frozen_verified is True
    assert (
        tiny.fit(tuning(), tiny.Data(), tmp_path, trainer=tiny.trainer()).metrics == result.metrics
    )  # resumed at its end
