"""Each adapter's formula as the ledger has it, its values on small numbers, and what it says where it does not fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from graft.transfer.adapt import ADAPTERS, Misfit, Site, fit, fitting, parse

Shape = tuple[int, ...]
W, B, V = "layer.weight", "layer.bias", "norm.running_var"


def values(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


FORMULAS: list[tuple[Any, Shape, Site, str]] = [
    ("squeeze", (4, 3), Site(W, (4, 3, 1, 1)), "squeeze: W' = W.reshape(4, 3, 1, 1)"),
    ("output_truncate", (6, 3), Site(W, (4, 3)), "output_truncate: W' = W[:4]"),
    ({"name": "output_truncate", "parts": 3}, (9, 2), Site("a.in_proj_weight", (6, 2)),
     "output_truncate: W' = W[:2] in each of 3 parts"),
    ("output_truncate", (3, 6), Site(W, (3, 4), transposed=True), "output_truncate: W' = W[:4]"),
    ("output_pad", (4, 3), Site(W, (6, 3)), "output_pad: W'[:4] = W, W'[4:] = 0"),
    ("output_pad", (4,), Site(V, (6,)), "output_pad: W'[:4] = W, W'[4:] = 1"),
    ("output_pad", (4,), Site(W, (6,)), "output_pad: W'[:4] = W, W'[4:] = 0"),
    ({"name": "output_pad", "fill": "fresh"}, (4, 3), Site(W, (6, 3)), "output_pad: W'[:4] = W, W'[4:] = fresh"),
    ({"name": "output_pad", "fill": "fresh"}, (4,), Site(W, (6,)), "output_pad: W'[:4] = W, W'[4:] = 1"),
    ({"name": "output_pad", "fill": "fresh"}, (4,), Site(B, (6,)), "output_pad: W'[:4] = W, W'[4:] = 0"),
    ({"name": "output_pad", "fill": "duplicate", "parts": 2}, (4, 3), Site(W, (8, 3)),
     "output_pad: W'[n] = W[n mod 2] in each of 2 parts"),
    ("input_sum", (4, 3), Site(W, (4, 1)), "input_sum: W'[:, 0] = Σ W[:, i], i < 3"),
    ("input_sum", (4, 5), Site(W, (4, 2)), "input_sum: W'[:, n] = Σ W[:, i], i mod 2 = n, i < 5"),
    ("input_mean", (4, 3), Site(W, (4, 1)), "input_mean: W'[:, 0] = mean of W[:, :3]"),
    ("input_mean", (4, 5), Site(W, (4, 2)), "input_mean: W'[:, n] = mean of W[:, i], i mod 2 = n"),
    ("input_repeat", (4, 3), Site(W, (4, 5)), "input_repeat: W'[:, n] = W[:, n mod 3] / count(n mod 3), n < 5"),
    ("input_zero", (4, 3), Site(W, (4, 5)), "input_zero: W'[:, :3] = W, W'[:, 3:5] = 0"),
    ("input_select", (4, 5), Site(W, (4, 2)), "input_select: W' = W[:, :2]"),
    ({"name": "input_select", "channels": [2, 0]}, (4, 3), Site(W, (4, 2)), "input_select: W' = W[:, [2, 0]]"),
    ({"name": "input_select", "channels": [1, 0], "block": 2}, (4, 6), Site(W, (4, 4)),
     "input_select: W' = W[:, [1, 0]] in runs of 2 columns"),
    ("kernel_crop", (4, 3, 7, 5), Site(W, (4, 3, 3, 3)), "kernel_crop: W' = W[:, :, 2:5, 1:4]"),
    ("kernel_pad", (4, 3, 3, 3), Site(W, (4, 3, 7, 5)), "kernel_pad: W' = W with 2×1 zeros around each kernel"),
    ("kernel_resize", (4, 3, 4), Site(W, (4, 3, 6)), "kernel_resize: W' = linear resize of W from (4,) to (6,)"),
    ({"name": "kernel_resize", "keep_sum": True}, (4, 3, 3, 3), Site(W, (4, 3, 6, 6)),
     "kernel_resize: W' = bilinear resize of W from (3, 3) to (6, 6) · old area / new area"),
    ("inflate", (4, 3, 3, 3), Site(W, (4, 3, 5, 3, 3)), "inflate: W'[:, :, t] = W / 5, t < 5"),
    ("patch_resize", (4, 3, 8, 8), Site(W, (4, 3, 4, 4)),
     "patch_resize: w' = (Rᵀ)⁺ vec(w), R the bicubic resize from (8, 8) to (4, 4)"),
    ("position_resize", (1, 17, 4), Site("pos_embed", (1, 26, 4)),
     "position_resize: 1 prefix tokens kept, grid 4×4 to 5×5 by float32 bicubic with antialias"),
    ({"name": "position_resize", "prefix_tokens": 0, "old_grid": [2, 8], "new_grid": [4, 4]}, (16, 4),
     Site("pos_embed", (16, 4)),
     "position_resize: 0 prefix tokens kept, grid 2×8 to 4×4 by float32 bicubic with antialias"),
    ({"name": "position_drop", "tokens": 2}, (1, 18, 4), Site("pos_embed", (1, 16, 4)), "position_drop: W' = W[:, 2:]"),
    ({"name": "class_rows", "donor_classes": ["a", "b", "c"], "classes": ["c", "d"]}, (3, 4), Site(W, (2, 4)),
     "class_rows: W'[j] = W[index(class j)] for 1 classes, 1 rows fresh"),
    ({"name": "epsilon_fold", "before": 0.001}, (4,), Site(V, (4,), epsilon=1e-5),
     "epsilon_fold: var' = var + 0.001 − 1e-05"),
    ("epsilon_fold", (4,), Site(V, (4,), epsilon=1e-5, donor_epsilon=1e-3), "epsilon_fold: var' = var + 0.001 − 1e-05"),
    ("init:zeros", (9,), Site(W, (4,)), "init:zeros: 0"),
    ("init:ones", (9,), Site(W, (4,)), "init:ones: 1"),
    ("init:kaiming_normal", (9,), Site(W, (4, 3)), "init:kaiming_normal: N(0, gain²/fan_out), gain of relu"),
    ({"name": "init:kaiming_uniform", "mode": "fan_in", "nonlinearity": "tanh"}, (9,), Site(W, (4, 3)),
     "init:kaiming_uniform: U(±gain·√(3/fan_in)), gain of tanh"),
    ("init:xavier_normal", (9,), Site(W, (4, 3)), "init:xavier_normal: N(0, 1²·2/(fan_in + fan_out))"),
    ({"name": "init:xavier_uniform", "gain": 2.0}, (9,), Site(W, (4, 3)),
     "init:xavier_uniform: U(±2·√(6/(fan_in + fan_out)))"),
    ("init:trunc_normal", (9,), Site(W, (4, 3)), "init:trunc_normal: N(0, 0.02²) cut at two standard deviations"),
    ("init:orthogonal", (9,), Site(W, (4, 3)), "init:orthogonal: 1 times an orthogonal matrix (Saxe et al. 2014)"),
    ("init:xavier_normal", (9,), Site(W, (4,)), "init:xavier_normal: 1 (one-dimensional)"),
    ("init:xavier_normal", (9,), Site(B, (4,)), "init:xavier_normal: 0 (one-dimensional)"),
    (["output_truncate", "input_sum"], (6, 3), Site(W, (4, 1)),
     "output_truncate: W' = W[:4], then input_sum: W'[:, 0] = Σ W[:, i], i < 3"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "donor", "site", "formula"), FORMULAS)
def test_the_ledger_has_the_formula_with_its_numbers(rule: Any, donor: Shape, site: Site, formula: str) -> None:
    chain = fit(parse(rule), donor, site)
    assert chain is not None
    assert chain.formula == formula
    made = chain(values(*donor))
    assert (tuple(made.shape), made.dtype) == (site.shape, torch.float32)
    assert tuple(chain(values(*donor).half()).shape) == site.shape
    assert chain(values(*donor).half()).dtype is torch.float16


MADE: list[tuple[Any, Tensor, Site, Any]] = [
    ({"name": "output_truncate", "parts": 2}, values(6), Site(W, (4,)), [0, 1, 3, 4]),
    ({"name": "output_pad", "parts": 2}, values(4), Site(B, (6,)), [0, 1, 0, 2, 3, 0]),
    ({"name": "output_pad", "fill": "duplicate", "parts": 2}, values(4), Site(B, (6,)), [0, 1, 0, 2, 3, 2]),
    ("output_pad", values(2), Site(V, (3,)), [0, 1, 1]),
    ({"name": "output_pad", "fill": "fresh"}, values(2), Site(W, (3,)), [0, 1, 1]),
    ("output_truncate", values(1, 3), Site(W, (1, 2), transposed=True), [[0, 1]]),
    ("input_sum", values(1, 5), Site(W, (1, 2)), [[6, 4]]),
    ("input_mean", values(1, 5), Site(W, (1, 2)), [[2, 2]]),
    ("input_repeat", values(1, 2) + 1, Site(W, (1, 3)), [[0.5, 2, 0.5]]),
    ("input_zero", values(1, 2) + 1, Site(W, (1, 3)), [[1, 2, 0]]),
    ("input_sum", values(5, 1), Site(W, (2, 1), transposed=True), [[6], [4]]),
    ({"name": "input_select", "channels": [2, 0], "block": 2}, values(1, 6), Site(W, (1, 4)), [[4, 5, 0, 1]]),
    ("kernel_crop", values(1, 1, 5), Site(W, (1, 1, 3)), [[[1, 2, 3]]]),
    ("kernel_pad", values(1, 1, 3), Site(W, (1, 1, 5)), [[[0, 0, 1, 2, 0]]]),
    ("kernel_resize", torch.ones(1, 1, 2), Site(W, (1, 1, 4)), [[[1, 1, 1, 1]]]),
    ({"name": "kernel_resize", "keep_sum": True}, torch.ones(1, 1, 2), Site(W, (1, 1, 4)), [[[0.5, 0.5, 0.5, 0.5]]]),
    ("position_drop", values(3, 1), Site("pos_embed", (2, 1)), [[1], [2]]),
    ({"name": "epsilon_fold", "before": 0.5}, values(2), Site(V, (2,), epsilon=0.25), [0.25, 1.25]),
]


@pytest.mark.parametrize(("rule", "donor", "site", "expected"), MADE)
def test_an_adapter_makes_what_its_formula_says(rule: Any, donor: Tensor, site: Site, expected: Any) -> None:
    chain = fit(parse(rule), tuple(donor.shape), site)
    assert chain is not None
    assert chain(donor).tolist() == expected


QKV = {"name": "join", "order": ["query", "key"]}
MISFITS: list[tuple[Any, Shape, Site, str]] = [
    ("squeeze", (4, 3), Site(W, (3, 4)),
     "squeeze adds and removes axes of length 1, and (4, 3) is not (3, 4) without them"),
    ("output_truncate", (4, 3), Site(W, (6, 3)), "output_truncate cannot make 6 output channels of 4; try output_pad"),
    ("output_pad", (6, 3), Site(W, (4, 3)), "output_pad cannot make 4 output channels of 6; try output_truncate"),
    ("output_truncate", (9, 3), Site("a.in_proj_weight", (6, 3)),
     "a.in_proj_weight stacks several matrices along its outputs; try parts: 3 (q, k, v; GRU) or 4 (LSTM)"),
    ({"name": "output_truncate", "parts": 3}, (7, 3), Site(W, (6, 3)),
     "7 and 6 output channels are not multiples of parts=3"),
    ("input_sum", (4, 3), Site(W, (4, 5)),
     "input_sum cannot make 5 input channels of 3; try input_repeat or input_zero"),
    ("input_zero", (4, 5), Site(W, (4, 3)),
     "input_zero cannot make 3 input channels of 5; try input_sum, input_mean or input_select"),
    ({"name": "input_select", "channels": [0, 3]}, (4, 3), Site(W, (4, 2)),
     "input_select: expected 2 channels from 0 to 2, received [0, 3]"),
    ({"name": "input_select", "channels": [0], "block": 2}, (4, 5), Site(W, (4, 2)),
     "input_select: 5 and 2 input columns are not multiples of block=2"),
    ("kernel_crop", (4, 3, 3, 3), Site(W, (4, 3, 5, 3)),
     "kernel_crop cannot make (5, 3) of (3, 3); try kernel_pad or kernel_resize"),
    ("kernel_pad", (4, 3, 5, 3), Site(W, (4, 3, 3, 3)),
     "kernel_pad cannot make (3, 3) of (5, 3); try kernel_crop or kernel_resize"),
    ("kernel_crop", (4, 3, 4), Site(W, (4, 3, 3)),
     "kernel_crop keeps the centre, and (4,) and (3,) have none in common; try kernel_resize"),
    ("kernel_resize", (4, 3, 2, 2, 2, 2), Site(W, (4, 3, 3, 3, 3, 3)),
     "kernel_resize knows one to three spatial axes, received (4, 3, 2, 2, 2, 2)"),
    ("inflate", (4, 3, 3), Site(W, (4, 3, 3, 3)),
     "inflate expects O,I,kH,kW into O,I,T,kH,kW, received (4, 3, 3) into (4, 3, 3, 3)"),
    ("patch_resize", (4, 3, 4), Site(W, (4, 3, 8)), "patch_resize expects O,I,kH,kW, received (4, 3, 4)"),
    ({"name": "position_drop", "tokens": 9}, (1, 9, 4), Site("pos_embed", (1, 4, 4)),
     "position_drop: expected tokens from 1 to 8, received 9"),
    ({"name": "position_drop", "tokens": 0}, (1, 9, 4), Site("pos_embed", (1, 4, 4)),
     "position_drop: expected tokens from 1 to 8, received 0"),
    ("position_resize", (1, 15, 4), Site("pos_embed", (1, 24, 4)),
     "position_resize: 15 and 24 tokens make no grid; try prefix_tokens (class and register tokens), and old_grid and "
     "new_grid where they are not square"),
    ({"name": "class_rows", "donor_classes": ["a", "b"], "classes": ["a"]}, (3, 4), Site(W, (1, 4)),
     "class_rows: the donor has 3 rows and 2 class names"),
    ({"name": "class_rows", "donor_classes": ["a", "b"], "classes": ["a"]}, (2, 4), Site(W, (2, 4)),
     "class_rows: the target has 2 rows and 1 class names"),
    ("epsilon_fold", (4,), Site(V, (4,)), f"epsilon_fold needs a target norm with an epsilon, and {V} belongs to none"),
    ("epsilon_fold", (4,), Site(V, (4,), epsilon=1e-5),
     "epsilon_fold needs the donor's epsilon, which it does not say; try {name: epsilon_fold, before: 0.001}"),
    (QKV, (4, 3), Site(W, (8, 3)), "join makes one tensor of several, received one, (4, 3)"),
    ("input_sum", (4, 3), Site(W, (5, 1)), "input_sum makes (4, 1) of (4, 3), expected (5, 1)"),
    (["input_sum", "output_pad"], (4,), Site(W, (4, 2)),
     "input_sum and output_pad makes (4,) of (4,), expected (4, 2)"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "donor", "site", "said"), MISFITS)
def test_what_an_adapter_cannot_do_it_says(rule: Any, donor: Shape, site: Site, said: str) -> None:
    with pytest.raises(Misfit, match=f"^{re.escape(said)}$"):
        fit(parse(rule), donor, site)


WRONG: list[tuple[Any, str]] = [
    ("output_pat", "expected an adapter, received 'output_pat'; try output_pad, output_truncate, input_repeat"),
    ("zzz", f"expected an adapter, received 'zzz'; try {', '.join(ADAPTERS)}"),
    ({"fill": "zeros"},
     "expected an adapter as {name: …, its options}, received {'fill': 'zeros'}; try name: output_pad"),
    ([], "expected an adapter's name, {name: …} or a list of them, received []"),
    (7, "expected an adapter's name, {name: …} or a list of them, received 7"),
    ({"name": "output_pad", "full": 1, "part": 2}, "output_pad: expected options parts, fill, received full, part"),
    ({"name": "squeeze", "x": 1}, "squeeze: expected options none, received x"),
    ({"name": "output_pad", "fill": "ones"},
     "output_pad: expected fill=zeros, fresh or duplicate, received 'ones'"),
    ({"name": "patch_resize", "interpolation": "nearest"},
     "patch_resize: expected interpolation=bicubic or bilinear, received 'nearest'"),
    ({"name": "init:kaiming_normal", "mode": "fan"},
     "init:kaiming_normal: expected mode=fan_in or fan_out, received 'fan'"),
    ({"name": "init:kaiming_normal", "nonlinearity": "rulu"}, "init:kaiming_normal: Unsupported nonlinearity rulu"),
    ("join", "join: expected two words or more, all different, received []; try order: [query, key, value]"),
    ({"name": "join", "order": ["q", "k", "q"]},
     "join: expected two words or more, all different, received ['q', 'k', 'q']; try order: [query, key, value]"),
    ("class_position", "class_position: expected positions, the name of the donor's position embeddings; "
                       "try positions: pos_embed"),
    ("class_rows", "class_rows: expected donor_classes, the class names in the order of the rows"),
    ({"name": "class_rows", "donor_classes": ["a", "a"], "classes": ["a"]},
     "class_rows: donor_classes names 'a' more than once"),
    ({"name": "class_rows", "donor_classes": ["a", "b", "c", "d"], "classes": ["e"]},
     "class_rows: donor and target have no class in common (a, b, c … against e); try skip for a new head"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "said"), WRONG)
def test_a_rule_that_is_none_is_answered(rule: Any, said: str) -> None:
    with pytest.raises(Misfit, match=f"^{re.escape(said)}$"):
        parse(rule)


def test_several_tensors_are_combined_in_the_order_that_the_rule_gives() -> None:
    chain = fit(parse({"name": "join", "order": ["key", "query"]}), (2, 3), Site("a.kv.weight", (5, 3)), (3, 3))
    assert chain is not None
    assert chain.formula == "join: W' = [key; query] along the outputs"
    assert chain(torch.zeros(2, 3), torch.ones(3, 3))[:, 0].tolist() == [0, 0, 1, 1, 1]
    (join,) = parse({"name": "join", "order": ["key", "query"]})
    assert join.in_order(["b.query.weight", "b.key.weight"]) == ["b.key.weight", "b.query.weight"]
    with pytest.raises(
        Misfit, match=r"^join: expected one donor name for each of key, query, received b\.key\.weight$"
    ):
        join.in_order(["b.key.weight"])
    with pytest.raises(Misfit, match=r"^join: expected shapes that differ in their first axis alone, received "):
        join.combined([(2, 3), (2, 4)], Site(W, (4, 3)))
    with pytest.raises(Misfit, match=re.escape("join makes (5, 3) of (2, 3) and (3, 3), expected (6, 3)")):
        fit((join,), (2, 3), Site(W, (6, 3)), (3, 3))
    (position,) = parse({"name": "class_position", "positions": "pos"})
    assert position.further == ("pos",)
    assert position.in_order(["cls"]) == ["cls"]
    with pytest.raises(Misfit, match=r"^class_position takes one donor tensor, received a, b$"):
        position.in_order(["a", "b"])
    token = fit((position,), (1, 1, 2), Site("cls_token", (1, 1, 2)), (1, 5, 2))
    assert token is not None
    assert token.formula == "class_position: cls_token' = cls_token + pos[:, 0]"
    assert token(torch.ones(1, 1, 2), values(1, 5, 2)).tolist() == [[[1, 2]]]
    with pytest.raises(Misfit, match=r"^class_position: expected one token and positions of its width, received "):
        position.combined([(1, 2, 2), (1, 5, 2)], Site("cls_token", (1, 2, 2)))


OFFERED: list[tuple[Shape, Site, list[str]]] = [
    ((6, 3), Site(W, (4, 3)), ["output_truncate"]),
    ((4, 3), Site(W, (6, 3)), ["output_pad"]),
    ((4, 3), Site(W, (4, 1)), ["input_sum", "input_mean", "input_select"]),
    ((4, 1), Site(W, (4, 3)), ["input_repeat", "input_zero"]),
    ((4, 3), Site(W, (4, 3, 1, 1)), ["squeeze"]),
    ((4, 3, 3, 3), Site(W, (4, 3, 5, 5)), ["kernel_pad", "kernel_resize", "patch_resize"]),
    ((6, 3), Site(W, (4, 1)), [
        "[output_truncate, input_sum]", "[output_truncate, input_mean]", "[output_truncate, input_select]",
    ]),
    ((1, 17, 4), Site("pos_embed", (1, 26, 4)), ["position_resize"]),
    ((1, 17, 4), Site("pos_embed", (1, 16, 4)), ["position_drop"]),
    ((4, 3, 3, 3), Site(W, (5, 3)), []),
]  # fmt: skip


@pytest.mark.parametrize(("donor", "site", "rules"), OFFERED)
def test_what_would_fit_is_offered_the_mildest_first(donor: Shape, site: Site, rules: list[str]) -> None:
    assert fitting(donor, site) == rules
