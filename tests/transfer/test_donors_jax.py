"""JAX checkpoints: our reading of them and timm's own fill the same model with the same bits."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from graft.config.compose import parse, register
from graft.config.faults import InputError
from graft.models.network import build_network
from graft.transfer import account_donor, inject, target_of_module, transfer
from graft.transfer.chosen import open_chosen, rules_for
from graft.transfer.donors import open_donor

CONF = Path(__file__).resolve().parents[2] / "conf"
WIDTH, HEADS, DEPTH = 12, 3, 2


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=5
    )


def bit() -> nn.Module:
    return timm.models.resnetv2.ResNetV2(
        layers=(1, 2),
        channels=(128, 256),
        stem_chs=32,
        num_classes=5,
        norm_layer=partial(timm.layers.GroupNormAct, num_groups=32),
        conv_layer=timm.layers.StdConv2d,
        stem_type="fixed",
    )


def vit_arrays(big_vision: bool = False, stacked: bool = False) -> dict[str, np.ndarray]:
    """A checkpoint with the names and axes of google-research/vision_transformer, or of big_vision."""
    random = np.random.default_rng(0)
    attention, second, mlp = ("0", "1", "0") if big_vision else ("1", "2", "3")

    def some(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype("float32")

    arrays = {
        "embedding/kernel": some(8, 8, 3, WIDTH),
        "embedding/bias": some(WIDTH),
        "cls": some(1, 1, WIDTH),
        ("" if big_vision else "Transformer/posembed_input/") + "pos_embedding": some(1, 17, WIDTH),
        "Transformer/encoder_norm/scale": some(WIDTH),
        "Transformer/encoder_norm/bias": some(WIDTH),
        "head/kernel": some(WIDTH, 5),
        "head/bias": some(5),
    }
    blocks = []
    for _ in range(DEPTH):
        block = {
            "LayerNorm_0/scale": some(WIDTH),
            "LayerNorm_0/bias": some(WIDTH),
            f"LayerNorm_{second}/scale": some(WIDTH),
            f"LayerNorm_{second}/bias": some(WIDTH),
            f"MlpBlock_{mlp}/Dense_0/kernel": some(WIDTH, 4 * WIDTH),
            f"MlpBlock_{mlp}/Dense_0/bias": some(4 * WIDTH),
            f"MlpBlock_{mlp}/Dense_1/kernel": some(4 * WIDTH, WIDTH),
            f"MlpBlock_{mlp}/Dense_1/bias": some(WIDTH),
            f"MultiHeadDotProductAttention_{attention}/out/kernel": some(HEADS, WIDTH // HEADS, WIDTH),
            f"MultiHeadDotProductAttention_{attention}/out/bias": some(WIDTH),
        }
        for part in ("query", "key", "value"):
            prefix = f"MultiHeadDotProductAttention_{attention}/{part}"
            block[f"{prefix}/kernel"] = some(WIDTH, HEADS, WIDTH // HEADS)
            block[f"{prefix}/bias"] = some(HEADS, WIDTH // HEADS)
        blocks.append(block)
    if stacked:
        arrays |= {
            f"Transformer/encoderblock/{name}": np.stack([block[name] for block in blocks]) for name in blocks[0]
        }
    else:
        for number, block in enumerate(blocks):
            arrays |= {f"Transformer/encoderblock_{number}/{name}": value for name, value in block.items()}
    return {f"params/{name}": value for name, value in arrays.items()} if big_vision else arrays


def bit_arrays() -> dict[str, np.ndarray]:
    """A checkpoint with the names and axes of google-research/big_transfer, for `bit()`."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, value in bit().state_dict().items():
        array = random.normal(size=tuple(value.shape)).astype("float32")
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        arrays[f"resnet/{bit_name(name)}"] = array
    return arrays


def bit_name(name: str) -> str:
    """The JAX name of a tensor of timm's."""
    name = re.sub(r"stages\.(\d)\.blocks\.(\d)\.", lambda m: f"block{int(m[1]) + 1}/unit{int(m[2]) + 1:02d}/", name)
    name = re.sub(r"(conv|norm)(\d)\.", lambda m: f"{'abc'[int(m[2]) - 1]}/{m[1]}.", name)
    for ours, theirs in {
        "downsample.conv.": "a/proj/conv.",
        "stem.conv.": "root_block/conv.",
        "head.fc.weight": "head/conv2d/kernel",
        "head.fc.bias": "head/conv2d/bias",
        "conv.weight": "standardized_conv2d/kernel",
        "norm.weight": "group_norm/gamma",
        "norm.bias": "group_norm/beta",
    }.items():
        name = name.replace(ours, theirs)
    return name


CHECKPOINTS: dict[str, tuple[Callable, Callable, str]] = {
    "vit": (vit, vit_arrays, ""),
    "big_vision": (vit, lambda: vit_arrays(big_vision=True), ""),
    "big_vision_stacked": (vit, lambda: vit_arrays(big_vision=True, stacked=True), ""),
    "bit": (bit, bit_arrays, "resnet/"),
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_the_same_bits_as_timm_s_own_reader(tmp_path: Path, checkpoint: str) -> None:
    build, arrays, prefix = CHECKPOINTS[checkpoint]
    np.savez(tmp_path / "a.npz", **arrays())
    ours, theirs = build(), build()
    ledger = transfer(tmp_path / "a.npz", ours)
    with torch.no_grad():
        theirs.load_pretrained(str(tmp_path / "a.npz"), prefix)
    assert ledger.summary["initialized"] == 0
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert any(remark.startswith("a JAX checkpoint") for remark in ledger.remarks)


def test_a_vision_transformer_from_the_command_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "vit.npz", **vit_arrays())
    kwargs = f"{{patch_size: 8, embed_dim: {WIDTH}, depth: {DEPTH}, num_heads: {HEADS}}}"
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [
            "backbone=timm", "backbone.name=vit_tiny_patch16_224", f"backbone.kwargs={kwargs}", "data=folder",
            f"data.root={CONF}", "data.image_size=32", "donor=file", f"donor.path={tmp_path / 'vit.npz'}",
        ]  # fmt: skip
        config = parse(compose("config", words))
    network = build_network(
        config.backbone, config.head, num_classes=2, channels=3, image_size=32, crop_fraction=None, seed=0
    )
    with open_chosen(config.network) as donor:
        ledger = account_donor(donor, target_of_module(network.module), rules_for(config.network, network, ("a", "b")))
        inject(ledger, donor, network.module)
    expected = vit_arrays()["Transformer/encoderblock_1/MlpBlock_3/Dense_1/kernel"].T
    assert np.array_equal(network.module.state_dict()["blocks.1.mlp.fc2.weight"].numpy(), expected)
    assert {entry.target for entry in ledger.tensors if entry.source is None} == {"head.weight", "head.bias"}


def test_other_arrays_keep_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **vit_arrays(), extra=np.zeros(3, "float32"), step=np.float32(3))
    donor = open_donor(tmp_path / "a.npz")
    assert donor.infos["extra"].shape == (3,)
    assert "no torch layout known, left as they are: extra, step" in donor.remarks
    np.savez(tmp_path / "b.npz", **{"a/kernel": np.zeros((2, 3), "float32")})
    assert open_donor(tmp_path / "b.npz").infos["a/kernel"].shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embedding/kernel": np.zeros((2, 2), "float32")}, "expected embedding/kernel with 4 axes"),
        (
            {"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/bias": np.zeros((3, 5), "float32")},
            r"expected 3 arrays of one shape and type for blocks\.0\.attn\.qkv\.bias",
        ),
        ({"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/bias": None}, "expected 3 arrays"),
        ({"Transformer/encoderblock/LayerNorm_0/bias": np.zeros((10**9, 0), "float32")}, "at most 1024 stacked blocks"),
    ],
)
def test_odd_checkpoints_are_refused(tmp_path: Path, change: dict, said: str) -> None:
    arrays = {name: value for name, value in (vit_arrays() | change).items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        open_donor(tmp_path / "a.npz")
