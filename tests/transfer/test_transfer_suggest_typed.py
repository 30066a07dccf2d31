"""What is suggested, typed as it stands: the transfer goes through, and the network computes what the donor does."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import pytest
import timm
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from graft import TransferError, transfer
from graft.commands.transfer import OPTIONS, config_of, configure
from graft.config.faults import InputError
from graft.config.options import in_options
from graft.models.stages import is_counter
from graft.transfer import TensorInfo, suggest_rules, target_of_module

State = dict[str, Tensor]


class Wrapped(nn.Module):
    """A user's own network around one of a library's."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)


class Convolutions(nn.Module):
    """Four stages of two blocks, numbered from `first`."""

    def __init__(self, stage: str = "layer", first: int = 1, classes: int = 3) -> None:
        super().__init__()
        widths = (3, 4, 5, 6, 7)
        for number in range(4):
            blocks = [
                nn.Sequential(nn.Conv2d(inputs, widths[number + 1], 3, padding=1), nn.BatchNorm2d(widths[number + 1]))
                for inputs in widths[number : number + 2]
            ]
            self.add_module(f"{stage}{first + number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(7, classes)

    def forward(self, images: Tensor) -> Tensor:
        for name, stage in self.named_children():
            if name != "fc":
                images = stage(images)
        return self.fc(images.mean((2, 3)))


def vit(**options: Any) -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return VisionTransformer(**(sizes | options))


def drawn(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) - (0.5 if value.dim() > 1 else -0.1))
    return module.eval()


OTHER_WORDS = (
    (r"^blocks\.(\d+)\.", r"encoder.layer_\1."), ("norm1", "ln_before"), ("norm2", "ln_after"), ("attn.qkv", "att.in"),
    ("attn.proj", "att.out"), ("mlp.fc", "ff.dense"), ("patch_embed.proj", "embed.conv"), ("cls_token", "class_token"),
    ("pos_embed", "positions"),
)  # fmt: skip


def in_other_words(name: str) -> str:
    for pattern, replacement in OTHER_WORDS:
        name = re.sub(pattern, replacement, name)
    return name


def without_words(state: Mapping[str, Tensor]) -> State:
    kept = [value for name, value in state.items() if not is_counter(name)]
    return {f"tensor{number}": value for number, value in enumerate(kept)}


def rules_typed(text: str, *, structure: bool = False) -> dict[str, Any]:
    """The keyword arguments that a suggestion's words come to, through a shell and Hydra."""
    lines = [line.strip() for line in text.splitlines()]
    chosen = [line for line in lines if ("donor.match=structure" in line) == structure]
    words = [word for line in chosen for word in shlex.split(line) if re.match(r"donor\.(?!match=auto)\w+=", word)]
    return {
        override.key_or_group.removeprefix("donor."): override.value()
        for override in OverridesParser.create().parse_overrides(words)
    }


def refusal(donor: Mapping[str, Tensor], target: nn.Module) -> str:
    with pytest.raises(TransferError) as caught:
        transfer(donor, target)
    return str(caught.value)


def assert_equal(donor: nn.Module, target: nn.Module) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(images), donor(images), atol=1e-5, rtol=1e-5)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[State], State], Callable[[], nn.Module], int]] = {
    "tensors at the root into a wrapped one": (vit, dict, lambda: Wrapped(vit()), 1),
    "tensors at the root out of a wrapped one": (lambda: Wrapped(vit()), dict, vit, 1),
    "a regular renaming": (vit, lambda state: {in_other_words(name): value for name, value in state.items()}, vit, 8),
    "torchvision's names": (lambda: TorchvisionViT(16, 8, 3, 2, 16, 64, num_classes=3), dict, vit, 10),
    "stages that count from elsewhere": (Convolutions, dict, lambda: Convolutions("stage_", 0), 4),
}


@pytest.mark.parametrize("case", CASES)
def test_suggested_renames_are_few_and_lead_to_the_same_function(case: str) -> None:
    build, rename, build_target, rules = CASES[case]
    donor, target = drawn(build()), build_target()
    state = rename(donor.state_dict())
    typed = rules_typed(refusal(state, target))
    assert list(typed) == ["rename"]
    assert len(typed["rename"]) == rules
    transfer(state, target, **typed)
    assert_equal(donor, target)


@pytest.mark.parametrize("case", [case for case in CASES if "torchvision" not in case])
def test_structure_is_offered_where_it_fits(case: str) -> None:
    """Torchvision's position embedding stands elsewhere than timm's, so there it does not."""
    build, rename, build_target, _ = CASES[case]
    donor, target = drawn(build()), build_target()
    state = rename(donor.state_dict())
    typed = rules_typed(refusal(state, target), structure=True)
    assert typed == {"match": "structure"}
    transfer(state, target, **typed)
    assert_equal(donor, target)


def test_structure_is_all_that_is_left_without_words() -> None:
    donor, target = drawn(Convolutions()), Convolutions()
    state = without_words(donor.state_dict())
    text = refusal(state, target)
    assert rules_typed(text) == {}
    transfer(state, target, **rules_typed(text, structure=True))
    assert_equal(donor, target)


def test_structure_with_another_head_sets_both_heads_aside() -> None:
    donor, target = drawn(Convolutions()), Convolutions(classes=5)
    typed = rules_typed(refusal(without_words(donor.state_dict()), target), structure=True)
    assert typed == {"match": "structure", "skip": ["fc.*"], "ignore": ["tensor48", "tensor49"]}
    transfer(without_words(donor.state_dict()), target, **typed)
    target.fc = donor.fc
    assert_equal(donor, target)


def test_structure_is_not_offered_by_a_file_in_the_order_of_names() -> None:
    """Here equal shapes in order would put the norms, and so everything, in the wrong place."""
    state = {in_other_words(name): value for name, value in vit().state_dict().items()}
    text = refusal(dict(sorted(state.items())), vit())
    assert "donor.match=structure" not in text
    assert re.search(r"which of encoder.layer_#.ln_after, encoder.layer_#.ln_before are blocks.#.norm#\?$", text)
    assert "donor.skip" not in text


def test_a_position_embedding_of_another_grid_is_resized() -> None:
    donor, target = drawn(vit()), Wrapped(vit(img_size=32))
    typed = rules_typed(refusal(donor.state_dict(), target))
    assert typed == {"rename": [["^", "backbone."]], "adapt": {"backbone.pos_embed": "position_resize"}}
    ledger = transfer(donor, target, **typed)
    assert ledger.by_target["backbone.pos_embed"].verdict.value == "adapted"


@pytest.mark.parametrize("shape", [(1, 257, 16), (1, 196, 16)])
def test_no_channel_adapter_is_offered_for_positions(shape: tuple[int, ...]) -> None:
    donor = {"pos_embed": torch.zeros(1, 197, 16), "w": torch.zeros(2)}
    target = nn.Module()
    target.pos_embed, target.w = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(2))
    text = refusal(donor, target)
    assert "input_" not in text
    assert "output_" not in text
    assert ("position_resize" in text) == (shape[1] == 257)


def test_separate_query_and_key_are_no_candidates_for_the_output() -> None:
    """Four layers of the width squared on the one side, one on the other."""
    names = [f"layers.{i}.attention.{part}.weight" for i in range(3) for part in ("query", "key", "value", "dense")]
    donor = {name: TensorInfo((16, 16), "float32") for name in names}
    target = {name: info for name, info in target_of_module(vit()).infos.items() if "attn" in name and "weight" in name}
    found = suggest_rules(donor, target)
    assert (found.rename, found.skip, found.ignore) == ((), (), ())
    assert found.undecided[1] == ("blocks.#.attn.proj",)


def test_nothing_in_common_is_no_reason_to_set_everything_aside() -> None:
    text = refusal(nn.Linear(5, 7).state_dict(), vit())
    assert "donor.skip" not in text
    assert "donor.ignore" not in text
    assert "neither names nor shapes tell which tensors belong together" in text


def test_an_explained_tensor_is_not_moved_by_a_rule_for_the_others() -> None:
    donor = {"stem.weight": torch.zeros(3, 2), "block.weight": torch.zeros(4, 3), "block.bias": torch.zeros(4)}
    target = nn.ModuleDict({"stem": nn.Linear(2, 3, bias=False), "body": nn.ModuleDict({"block": nn.Linear(3, 4)})})
    typed = rules_typed(refusal(donor, target))
    assert typed == {"rename": [["^block\\.", "body.block."]]}
    assert transfer(donor, target, **typed).summary["used"] == 3


def test_the_suggestion_can_be_typed_after_graft_transfer_too(tmp_path: Any) -> None:
    """There a key is an option, and YAML reads its value."""
    text = str(suggest_rules(target_of_module(vit()).infos, target_of_module(Wrapped(vit(img_size=32))).infos))
    words = shlex.split(str(in_options(InputError(text), OPTIONS)))
    parser = argparse.ArgumentParser()
    configure(parser)
    given = ["--from", str(tmp_path), "--to-arch", "resnet18", "--out", "x.safetensors"]
    chosen = {
        "backbone": {"library": "timm", "name": "x"},
        "donor": {"kind": "file", "path": "."},
        "head": {"kind": "none"},
    }
    config = config_of(parser.parse_args([*given, *words]), OPTIONS, chosen)
    assert config.donor.rename == [["^", "backbone."]]
    assert config.donor.adapt == {"backbone.pos_embed": "position_resize"}


def test_thousands_of_layers_are_answered_in_a_moment() -> None:
    module = timm.create_model("densenet121")
    donor = {name.replace("dense", "d"): info for name, info in target_of_module(module).infos.items()}
    begun = perf_counter()
    found = suggest_rules(donor, target_of_module(module).infos)
    assert len(found.rename) == 1
    assert perf_counter() - begun < 10
