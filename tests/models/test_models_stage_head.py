"""head=stages beyond the contract: what compares, what is refused, what a cache key sees of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from graft.config.choices import HeadKind, Library, Taps
from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, HeadConfig
from graft.models.blocks import find_taps
from graft.models.cut import split
from graft.models.fingerprint import structure_hash
from graft.models.network import Network, build_network, rebuild
from graft.models.stage_head import alike, head_in_words, tap
from graft.models.stages import declared_stages

STAGES = HeadConfig(kind=HeadKind.stages)


def build(head: HeadConfig, name: str = "test_efficientnet", library: Library = Library.timm, **kwargs: Any) -> Network:
    config = BackboneConfig(library=library, name=name)
    return build_network(config, head, num_classes=5, image_size=64, **kwargs)


def entering(network: Network, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = network.module.get_submodule(network.head["at"]).register_forward_pre_hook(lambda _, i: seen.append(i[0]))
    with torch.no_grad():
        network.module.eval()(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("name", "library", "pool"),
    [
        ("test_efficientnet", Library.timm, ["mean", "std"]),
        ("squeezenet1_1", Library.torchvision, ["max"]),  # a map enters its last layer
    ],
)
def test_beside_another_head_what_entered_the_library_s_layer_is_compared(
    name: str, library: Library, pool: list[str]
) -> None:
    stages = build(HeadConfig(kind=HeadKind.stages, pool=pool), name, library)
    linear = build(HeadConfig(kind=HeadKind.linear), name, library)
    state = linear.module.state_dict()
    trunk = {key: value for key, value in stages.module.state_dict().items() if not key.startswith(stages.head["at"])}
    linear.module.load_state_dict({**state, **trunk}, strict=True)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wide, narrow = entering(stages, x), entering(linear, x)
    ours, theirs = alike(wide, narrow, stages.head, linear.head)
    assert ours.shape == theirs.shape
    assert ours.abs().max() > 0
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    there, here = alike(narrow, wide, linear.head, stages.head)
    assert torch.equal(here, ours)
    assert torch.equal(there, theirs)
    assert alike(wide, wide, stages.head, stages.head) == (wide, wide)
    assert alike(narrow, narrow, linear.head, linear.head) == (narrow, narrow)


def test_the_record_goes_through_json_and_says_that_no_plain_model_loads_it() -> None:
    network = build(STAGES)
    record = json.loads(json.dumps(network.head))
    assert list(rebuild(network.build, record).state_dict()) == list(network.module.state_dict())
    said = head_in_words(record, network.build)
    assert f"takes {network.head['width']} values" in said
    assert "No plain test_efficientnet loads these weights" in said
    assert head_in_words(build(HeadConfig(kind=HeadKind.linear)).head, network.build) == ""


def test_the_same_seed_gives_the_same_values_and_small_logits_at_first() -> None:
    first, again = build(STAGES, seed=3), build(STAGES, seed=3)
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name]), name
    layer = first.module.get_submodule(first.head["at"])
    assert not layer.bias.any()
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_a_cache_key_tells_pooled_features_from_the_last_layer_s() -> None:
    """Both prefixes are made of the same modules; what differs is the code that calls them."""
    linear, stages, greatest = (
        build(head, device="meta")
        for head in (HeadConfig(kind=HeadKind.linear), STAGES, HeadConfig(kind=HeadKind.stages, pool=["max"]))
    )
    prefixes = [split(each.module, each.stages, each.stages.names[-1])[0] for each in (linear, stages, greatest)]
    assert all(isinstance(prefix, fx.GraphModule) for prefix in prefixes)
    assert len({structure_hash(prefix) for prefix in prefixes}) == 3
    assert len({structure_hash(nn.Sequential(prefix)) for prefix in prefixes}) == 3


class Turned(nn.Module):
    """Its second map has its channels last, those of the others come first; the first does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer3, self.layer4 = (nn.Conv2d(*sizes, 3, padding=1) for sizes in ((3, 8), (4, 6), (6, 5)))
        self.layer2 = nn.Linear(8, 4)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(x).permute(0, 2, 3, 1))
        return self.fc(self.layer4(self.layer3(x.permute(0, 3, 1, 2))).mean((2, 3)))


def test_a_map_that_tells_its_layout_is_not_outvoted() -> None:
    with torch.device("meta"):
        module = Turned()
    stages = declared_stages({f"stage{n}": [f"layer{n}"] for n in range(1, 5)}, ["fc"])
    taps, entering = find_taps(module, stages, Taps.block, (3, 8, 8))
    assert [(tap.module, tap.axes, tap.channels, tap.places) for tap in taps] == [
        ("layer1", (2, 3), 8, 64), ("layer2", (1, 2), 4, 64), ("layer3", (2, 3), 6, 64), ("layer4", (2, 3), 5, 64),
    ]  # fmt: skip
    assert entering == (1, 5)


class Winding(nn.Module):
    """Its values decide which way it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1[0](x)
        if x.mean() > 0:
            x = self.layer1[1](x)
        return self.fc(x.mean((2, 3)))


def test_a_network_that_cannot_be_followed_is_refused_with_what_to_type() -> None:
    row = {"module": "layer1.0", "axes": [2, 3], "statistics": ["mean"]}
    head = {"kind": "stages", "at": "fc", "statistics": ["mean"], "taps": [row], "width": 8}
    head["last"] = {"axes": [], "statistics": ["mean"], "width": 4}
    with pytest.raises(InputError, match=r"head=stages: .*received Winding: .*try head\.taps=stage, or head=linear"):
        tap(Winding(), head, num_classes=2)


def test_two_last_layers_are_refused() -> None:
    with pytest.raises(InputError, match="head=stages: expected a backbone with one last layer, received deit_tiny"):
        build(STAGES, "deit_tiny_distilled_patch16_224", device="meta")
