"""Each adapter's formula, proven on random input where it says that the function is preserved."""

from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import nn
from torch.nn import functional as F

from graft import TransferError, transfer
from graft.transfer.adapt import Misfit, Site, fit, fitting, parse

SEEDS = [0, 1, 2]


def adapted(
    rule: object, value: torch.Tensor, shape: tuple[int, ...], name: str = "conv.weight", **site: bool
) -> torch.Tensor:
    chain = fit(parse(rule), tuple(value.shape), Site(name, shape, **site))
    assert chain is not None
    return chain(value)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("channels", [4, 5, 6, 7, 9])
def test_input_repeat_is_exact_for_every_count(seed: int, channels: int) -> None:
    torch.manual_seed(seed)
    weight, image = torch.rand(5, 3, 3, 3), torch.rand(2, 3, 6, 6)
    wide = adapted("input_repeat", weight, (5, channels, 3, 3))
    torch.testing.assert_close(F.conv2d(image[:, torch.arange(channels) % 3], wide), F.conv2d(image, weight))


def test_input_repeat_without_the_count_would_not_be_exact() -> None:
    weight, image = torch.rand(5, 3, 3, 3), torch.rand(2, 3, 6, 6)
    index = torch.arange(4) % 3
    assert not torch.allclose(F.conv2d(image[:, index], weight[:, index] * 3 / 4), F.conv2d(image, weight))


@pytest.mark.parametrize(("before", "after"), [(3, 1), (6, 3), (7, 3), (4, 2)])
def test_input_sum_is_exact_when_channels_repeated(before: int, after: int) -> None:
    weight, image = torch.rand(5, before, 3, 3), torch.rand(2, after, 6, 6)
    narrow = adapted("input_sum", weight, (5, after, 3, 3))
    torch.testing.assert_close(F.conv2d(image, narrow), F.conv2d(image[:, torch.arange(before) % after], weight))


def test_input_mean_is_the_mean_of_what_a_channel_stands_for() -> None:
    weight = torch.rand(5, 7, 3, 3)
    narrow = adapted("input_mean", weight, (5, 3, 3, 3))
    for n in range(3):
        torch.testing.assert_close(narrow[:, n], weight[:, n::3].mean(dim=1))


def test_input_select_by_number_reorders_even_at_the_same_count() -> None:
    weight, image = torch.rand(5, 3, 3, 3), torch.rand(2, 3, 6, 6)
    rgb = adapted({"name": "input_select", "channels": [2, 1, 0]}, weight, (5, 3, 3, 3))
    torch.testing.assert_close(F.conv2d(image, rgb), F.conv2d(image.flip(1), weight))


@pytest.mark.parametrize("channels", [[0, 3], [0], [-1, 0]])
def test_input_select_of_channels_that_are_not_there(channels: list[int]) -> None:
    with pytest.raises(Misfit, match="expected 2 channels from 0 to 2"):
        adapted({"name": "input_select", "channels": channels}, torch.rand(5, 3, 3, 3), (5, 2, 3, 3))


class Net(nn.Module):
    """A layer, its norm, and the consumer of both."""

    def __init__(self, width: int, *, flatten: bool = False, transposed: bool = False) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(3, width, 3, padding=1) if transposed else nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.next: nn.Module = nn.Linear(width * 16, 5) if flatten else nn.Conv2d(width, 5, 3)
        self.flatten = flatten

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv(image)))
        return self.next(x.flatten(1) if self.flatten else x)


def drawn(net: nn.Module) -> nn.Module:
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.uniform_(-0.5, 0.5).add_(0 if value.dim() > 1 else 0.7)
    return net.eval()


@pytest.mark.parametrize("width", [7, 8, 12])
@pytest.mark.parametrize("options", [{}, {"flatten": True}, {"transposed": True}])
@pytest.mark.parametrize(
    ("fill", "consumer"), [("duplicate", "input_repeat"), ("zeros", "input_zero"), ("fresh", "input_zero")]
)
def test_widening_a_layer_with_its_norm_and_consumer_keeps_the_function(
    width: int, options: dict[str, bool], fill: str, consumer: str
) -> None:
    """Net2Net, and padding the consumer does not hear: conv, dense after Flatten, transposed conv."""
    torch.manual_seed(width)
    donor, target = drawn(Net(6, **options)), Net(width, **options).eval()
    pad = {"name": "output_pad", "fill": fill}
    transfer(donor, target, adapt={"conv.*": pad, "bn.*": pad, "next.weight": consumer})
    image = torch.rand(3, 3, 4, 4)
    torch.testing.assert_close(target(image), donor(image))


def test_duplicates_whose_consumer_is_not_divided_change_the_function() -> None:
    donor, wrong = drawn(Net(6)), Net(12).eval()
    pad = {"name": "output_pad", "fill": "duplicate"}
    transfer(donor, wrong, adapt={"conv.*": pad, "bn.*": pad, "next.weight": "input_repeat"})
    wrong.next.weight.data.mul_(2)
    image = torch.rand(3, 3, 4, 4)
    assert not torch.allclose(wrong(image), donor(image))


def test_dense_columns_after_a_flatten_are_chosen_by_channel() -> None:
    """Columns 2 and 0 are not channels 2 and 0: same shapes, another function."""
    weight, maps = torch.rand(5, 3 * 16), torch.rand(2, 3, 4, 4)
    chosen = adapted({"name": "input_select", "channels": [2, 0], "block": 16}, weight, (5, 32))
    kept = maps[:, [2, 0]].flatten(1)
    silenced = maps * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(kept @ chosen.T, silenced.flatten(1) @ weight.T)
    with pytest.raises(Misfit, match="not multiples of block=5"):
        adapted({"name": "input_select", "channels": [2, 0], "block": 5}, weight, (5, 32))


def test_padded_variances_are_one_never_zero() -> None:
    norm, wide = nn.BatchNorm2d(2), nn.BatchNorm2d(4)
    norm.running_var.fill_(5.0)
    transfer(norm, wide, adapt={"*": "output_pad"})
    assert wide.running_var.tolist() == [5.0, 5.0, 1.0, 1.0]
    assert wide.bias.tolist() == [0.0] * 4


def test_stacked_projections_are_not_cut_as_one_matrix() -> None:
    donor, target = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(4, 2)
    both = ["output_truncate", "input_select"]
    with pytest.raises(TransferError, match="in_proj_weight stacks several matrices along its outputs; try parts: 3"):
        transfer(donor, target, adapt={"*": both})
    parts = [{"name": "output_truncate", "parts": 3}, "input_select"]
    transfer(donor, target, adapt={"in_proj_*": parts, "out_proj.*": both})
    expected = donor.in_proj_weight.view(3, 8, 8)[:, :4, :4].reshape(12, 4)
    assert torch.equal(target.in_proj_weight, expected)


@pytest.mark.parametrize(("before", "after"), [(3, 5), (3, 7), (1, 3), (2, 4)])
def test_kernel_pad_is_exact_with_padding_adjusted(before: int, after: int) -> None:
    weight, image = torch.rand(4, 3, before, before), torch.rand(2, 3, 9, 9)
    grown = adapted("kernel_pad", weight, (4, 3, after, after))
    rim = (after - before) // 2
    torch.testing.assert_close(F.conv2d(image, grown, padding=rim + 1), F.conv2d(image, weight, padding=1))


def test_kernel_crop_keeps_the_centre() -> None:
    weight = torch.arange(25.0).view(1, 1, 5, 5)
    assert adapted("kernel_crop", weight, (1, 1, 3, 3)).flatten().tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]


@pytest.mark.parametrize("rule", ["kernel_pad", "kernel_crop"])
def test_kernels_of_other_parity_have_no_centre(rule: str) -> None:
    shapes = [(4, 3, 3, 3), (4, 3, 4, 4)]
    donor, target = shapes if rule == "kernel_pad" else reversed(shapes)
    with pytest.raises(Misfit, match="none in common; try kernel_resize"):
        adapted(rule, torch.rand(donor), target)


def test_kernel_resize_is_bilinear() -> None:
    weight = torch.rand(4, 3, 3, 3)
    expected = F.interpolate(weight, size=(7, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(adapted("kernel_resize", weight, (4, 3, 7, 7)), expected)
    scaled = adapted({"name": "kernel_resize", "keep_sum": True}, weight, (4, 3, 7, 7))
    torch.testing.assert_close(scaled, expected * 9 / 49)


def test_inflate_answers_a_still_clip_as_the_image() -> None:
    weight, image = torch.rand(4, 3, 3, 3), torch.rand(2, 3, 6, 6)
    solid = adapted("inflate", weight, (4, 3, 5, 3, 3))
    clip = image.unsqueeze(2).expand(-1, -1, 5, -1, -1)
    torch.testing.assert_close(F.conv3d(clip, solid).squeeze(2), F.conv2d(image, weight))


def test_inflate_and_channels_in_a_chain() -> None:
    weight, image = torch.rand(4, 3, 3, 3), torch.rand(2, 1, 6, 6)
    solid = adapted(["inflate", "input_sum"], weight, (4, 1, 2, 3, 3))
    clip = image.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    torch.testing.assert_close(F.conv3d(clip, solid).squeeze(2), F.conv2d(image.expand(-1, 3, -1, -1), weight))


@pytest.mark.parametrize(("tokens", "grid"), [(17, 6), (16, 3), (18, 5)])
def test_position_resize_is_timms(tokens: int, grid: int) -> None:
    prefix = tokens - 16
    value = torch.rand(1, tokens, 12)
    expected = resample_abs_pos_embed(value, [grid, grid], num_prefix_tokens=prefix)
    rule = {"name": "position_resize", "prefix_tokens": prefix}
    torch.testing.assert_close(adapted(rule, value, (1, grid * grid + prefix, 12)), expected)


def test_position_resize_finds_the_class_token_of_a_vit_or_says_what_to_type() -> None:
    value = torch.rand(1, 197, 4)
    resized = adapted("position_resize", value, (1, 577, 4))
    assert torch.equal(resized[:, 0], value[:, 0])
    with pytest.raises(Misfit, match="make no grid; try prefix_tokens"):
        adapted("position_resize", value, (1, 500, 4))


def test_position_resize_of_a_grid_that_is_not_square() -> None:
    value = torch.rand(1, 9, 4)
    rule = {"name": "position_resize", "prefix_tokens": 1, "old_grid": [2, 4], "new_grid": [4, 8]}
    expected = resample_abs_pos_embed(value, [4, 8], old_size=[2, 4], num_prefix_tokens=1)
    torch.testing.assert_close(adapted(rule, value, (1, 33, 4)), expected)


@pytest.mark.parametrize(("before", "after"), [(4, 8), (4, 6), (8, 4)])
def test_patch_resize_is_timms(before: int, after: int) -> None:
    weight = torch.rand(6, 3, before, before)
    expected = resample_patch_embed(weight, [after, after])
    torch.testing.assert_close(adapted("patch_resize", weight, (6, 3, after, after)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_patch_resize_is_exact_on_patches_that_were_enlarged(interpolation: str) -> None:
    weight, patch = torch.rand(6, 3, 4, 4, dtype=torch.float64), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    large = F.interpolate(patch, size=(8, 8), mode=interpolation, antialias=True, align_corners=False)
    resized = adapted({"name": "patch_resize", "interpolation": interpolation}, weight, (6, 3, 8, 8))
    torch.testing.assert_close(F.conv2d(large, resized), F.conv2d(patch, weight))
    plain = F.interpolate(weight, size=(8, 8), mode=interpolation, antialias=True, align_corners=False)
    assert not torch.allclose(F.conv2d(large, plain), F.conv2d(patch, weight), rtol=0.1)


def test_class_rows_follow_names_not_positions() -> None:
    donor, target = nn.Linear(3, 4), nn.Linear(3, 3)
    rule = {"name": "class_rows", "donor_classes": ["cat", "dog", "fox", "owl"], "classes": ["owl", "newt", "cat"]}
    ledger = transfer(donor, target, adapt={"*": rule})
    features = torch.rand(2, 3)
    torch.testing.assert_close(target(features)[:, [0, 2]], donor(features)[:, [3, 0]])
    assert target.bias[1] == 0
    assert 0 < target.weight[1].abs().max() <= 1 / 3**0.5
    assert ledger.by_target["weight"].rule == "class_rows: W'[j] = W[index(class j)] for 2 classes, 1 rows fresh"


def test_class_rows_act_even_where_the_counts_are_equal() -> None:
    donor, target = nn.Linear(3, 2), nn.Linear(3, 2)
    rule = {"name": "class_rows", "donor_classes": ["cat", "dog"], "classes": ["dog", "cat"]}
    transfer(donor, target, adapt={"*": rule})
    assert torch.equal(target.weight, donor.weight.flip(0))


@pytest.mark.parametrize(
    ("donor_classes", "classes", "message"),
    [
        (["a", "a"], ["a", "b"], "names 'a' more than once"),
        (["a", "b"], ["x", "y"], "no class in common"),
        (["a", "b", "c"], ["a", "b"], "the donor has 2 rows and 3 class names"),
        ([], ["a", "b"], "expected donor_classes"),
    ],
)
def test_class_rows_that_cannot_be(donor_classes: list[str], classes: list[str], message: str) -> None:
    rule = {"name": "class_rows", "donor_classes": donor_classes, "classes": classes}
    with pytest.raises(Misfit, match=message):
        adapted(rule, torch.rand(2, 3), (2, 3))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("output_trunc", "expected an adapter, received 'output_trunc'; try output_truncate"),
        ({"name": "output_pad", "fil": "zeros"}, "expected options parts, fill, received fil"),
        ({"name": "output_pad", "fill": "ones"}, "expected fill=zeros, fresh or duplicate, received 'ones'"),
        ({"fill": "zeros"}, "expected an adapter as {name"),
        ([], "expected an adapter's name"),
        (7, "expected an adapter's name"),
        ({"name": "init:kaiming_normal", "mode": "fan"}, "expected mode=fan_in or fan_out"),
        ({"name": "init:kaiming_normal", "nonlinearity": "swoosh"}, "swoosh"),
        ({"name": "patch_resize", "interpolation": "area"}, "expected interpolation=bicubic or bilinear"),
    ],
)
def test_rules_that_cannot_be_read_say_what_could(rule: object, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        parse(rule)


@pytest.mark.parametrize(
    ("donor", "target", "expected"),
    [
        ((8, 3, 7, 7), (8, 1, 7, 7), "input_sum"),
        ((8, 3, 7, 7), (8, 4, 7, 7), "input_repeat"),
        ((8, 3, 7, 7), (4, 3, 7, 7), "output_truncate"),
        ((8,), (16,), "output_pad"),
        ((8, 3, 7, 7), (8, 3, 3, 3), "kernel_crop"),
        ((8, 3, 3, 3), (8, 3, 7, 7), "kernel_pad"),
        ((8, 3, 3, 3), (8, 3, 4, 4), "kernel_resize"),
        ((8, 3, 3, 3), (8, 3, 2, 3, 3), "inflate"),
        ((1, 197, 8), (1, 577, 8), "position_resize"),
        ((8, 6, 3, 3), (16, 12, 3, 3), "[output_pad, input_repeat]"),
    ],
)
def test_the_adapter_that_would_fit_is_named_first(
    donor: tuple[int, ...], target: tuple[int, ...], expected: str
) -> None:
    assert fitting(donor, Site("x.weight", target))[0] == expected


def test_nothing_fits_what_is_too_different() -> None:
    assert fitting((8, 3, 3, 3), Site("x.weight", (5, 7))) == []


def test_half_precision_is_computed_in_float32() -> None:
    weight = torch.full((1, 3000, 1, 1), 1.0, dtype=torch.float16)
    assert adapted("input_sum", weight, (1, 1, 1, 1)).item() == 3000.0
    assert adapted("input_mean", weight, (1, 1, 1, 1)).dtype == torch.float16


def test_more_of_what_cannot_be_fewer_points_to_the_other_adapter() -> None:
    for rule, shape, other in [
        ("output_truncate", (9, 3), "output_pad"),
        ("output_pad", (2, 3), "output_truncate"),
        ("input_sum", (4, 5), "input_repeat"),
        ("input_repeat", (4, 2), "input_sum"),
    ]:
        with pytest.raises(Misfit, match=f"try {other}"):
            adapted(rule, torch.rand(4, 3), shape)
