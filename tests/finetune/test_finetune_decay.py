"""Weight decay is put on the weights of layers, and on nothing else."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from graft.config.faults import InputError
from graft.finetune.decay import BIAS, CONFIG, LIBRARY, NORM, TABLE, VECTOR, undecayed
from graft.finetune.groups import group_parameters, without_decay
from graft.finetune.methods.l2_sp import anchored


def on_meta(build):
    with torch.device("meta"):
        return build()


def timms(name):
    return on_meta(lambda: timm.create_model(name))


def vision(name):
    return on_meta(lambda: torchvision.models.get_model(name))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: vision("vit_b_16"), {"class_token": TABLE, "encoder.pos_embedding": TABLE}),
        (lambda: vision("swin_t"), {"features.1.0.attn.relative_position_bias_table": TABLE}),
        (lambda: vision("convnext_tiny"), {"features.1.0.layer_scale": VECTOR}),
        (lambda: timms("deit_tiny_distilled_patch16_224"), {"dist_token": TABLE, "pos_embed": TABLE}),
        (lambda: timms("vit_small_patch14_reg4_dinov2"), {"reg_token": TABLE, "blocks.0.ls1.gamma": VECTOR}),
        (lambda: timms("levit_128s"), {"stages.0.blocks.0.attn.attention_biases": TABLE}),
        (lambda: timms("samvit_base_patch16"), {"blocks.0.attn.rel_pos_h": TABLE}),
        (lambda: timms("dm_nfnet_f0"), {"stem.conv1.gain": VECTOR, "stages.0.0.skipinit_gain": VECTOR}),
        (lambda: timms("swinv2_tiny_window8_256"), {"layers.0.blocks.0.attn.cpb_mlp.0.weight": LIBRARY}),
        (lambda: timms("xcit_nano_12_p16_224"), {"pos_embed.token_projection.weight": LIBRARY}),
    ],
)
def test_what_the_field_leaves_out_is_left_out(network, expected):
    module = network()
    found = undecayed(module)
    assert {name: found.get(name) for name in expected} == expected
    layers = (nn.Linear, nn.Conv2d)
    for path, part in module.named_modules():
        if isinstance(part, layers) and f"{path}.weight" in found:
            assert found[f"{path}.weight"] == LIBRARY


def test_magnitudes_are_scales_whichever_way_weight_norm_is_written():
    with pytest.warns(FutureWarning, match="weight_norm"):
        old = weight_norm(nn.Conv2d(3, 4, 3))
    new = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    assert undecayed(old) == {"weight_g": VECTOR, "bias": BIAS}
    assert undecayed(new) == {"parametrizations.weight.original0": VECTOR, "bias": BIAS}


def test_a_matrix_of_one_row_is_a_layers_weight():
    module = nn.ModuleDict({"conv": nn.Conv2d(8, 1, 1), "norm": nn.LayerNorm([4, 8]), "head": nn.Linear(8, 1)})
    assert undecayed(module) == {
        "conv.bias": BIAS, "norm.weight": NORM, "norm.bias": BIAS, "head.bias": BIAS
    }  # fmt: skip


def test_a_table_of_positions_may_be_an_embedding():
    module = nn.ModuleDict({"position_embedding": nn.Embedding(5, 4), "words": nn.Embedding(5, 4)})
    assert undecayed(module) == {"position_embedding.weight": TABLE}


def test_what_a_model_within_the_network_says_counts_too():
    class Within(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = nn.Linear(2, 2, bias=False)

        def no_weight_decay(self):
            return {"mixer.*", "nothing"}

    assert undecayed(nn.ModuleDict({"trunk": Within()})) == {"trunk.mixer.weight": LIBRARY}


def decays(tiny, frozen=(), **changes):
    groups = group_parameters(tiny.network(), tiny.stages, tiny.optimizer(**changes), frozen)
    return {name: group.weight_decay for group in groups for name in group.names}


def test_globs_name_more(tiny):
    found = decays(tiny, no_decay=["layer2.*", "fc.weight"])
    assert {name for name, decay in found.items() if decay} == {
        "conv1.weight",
        "layer1.conv.weight",
        "layer3.conv.weight",
    }
    network, config = tiny.network(), tiny.optimizer(no_decay=["fc.weight"])
    reasons = without_decay(network, group_parameters(network, tiny.stages, config), config)
    assert (reasons["fc.weight"], reasons["fc.bias"], reasons["bn1.weight"]) == (CONFIG, BIAS, NORM)
    assert "conv1.weight" not in reasons


@pytest.mark.parametrize(
    ("globs", "message"),
    [
        (["layer9.*"], r"'layer9\.\*', which names no parameter; try layer"),
        (["0000"], r"'0000', which names no parameter; try conv1\.weight$"),  # nothing is near: the first
        (["*.bias"], r"which names only parameters without weight decay \(conv1\.bias: bias\)"),
        (["layer1.conv.weight"], "which names only such as never do"),
    ],
)
def test_a_glob_without_effect_is_an_error(tiny, globs, message):
    with pytest.raises(InputError, match=rf"optimizer\.no_decay: .*{message}"):
        decays(tiny, [{"layer1.conv.weight", "layer1.bn.weight", "layer1.bn.bias"}], no_decay=globs)


def test_l2_sp_draws_back_tables_which_decay_leaves_alone(tiny):
    network = tiny.network()
    network.layer1.rel_pos = nn.Parameter(torch.randn(3, 4))
    network.layer1.scale = nn.Parameter(torch.randn(4, 1, 1))
    names = [name for name, _ in network.named_parameters()]
    found = anchored(network, tiny.stages, names)
    assert "layer1.rel_pos" in found
    assert "layer1.scale" not in found
