"""One tensor of several: what the adapters make, what the ledger says of it, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from graft import TransferError, transfer
from graft.transfer.adapt import ADAPTERS, Site, fit, fitting, parse

State = dict[str, Tensor]


class Attention(nn.Module):
    """Two heads of width 4; query, key and value in three layers or in one."""

    def __init__(self, *, joined: bool) -> None:
        super().__init__()
        for name in ("qkv",) if joined else ("key", "query", "value"):
            self.add_module(name, nn.Linear(8, 24 if joined else 8))
        self.out = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = dict(self.named_children())
        qkv = (
            parts["qkv"](tokens).chunk(3, -1)
            if "qkv" in parts
            else [parts[n](tokens) for n in ("query", "key", "value")]
        )
        query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in qkv)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


RENAME = [(r"^(query|key|value)\.", "qkv.")]
JOIN: dict[str, Any] = {"qkv.*": {"name": "join", "order": ["query", "key", "value"]}}


def refusal(donor: object, target: nn.Module, **rules: Any) -> str:
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(TransferError) as caught:
        transfer(donor, target, **rules)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize("as_file", [False, True])
def test_query_key_and_value_are_joined_in_the_order_that_is_given(as_file: bool, tmp_path: Path) -> None:
    """Not in the file's, which is that of the alphabet."""
    donor, target = Attention(joined=False), Attention(joined=True)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    ledger = transfer(tmp_path / "donor.safetensors" if as_file else donor, target, rename=RENAME, adapt=JOIN)
    tokens = torch.rand(2, 5, 8)
    torch.testing.assert_close(target(tokens), donor(tokens))
    entry = ledger.by_target["qkv.weight"]
    assert (entry.verdict.value, entry.sources) == ("adapted", ("query.weight", "key.weight", "value.weight"))
    assert entry.rule.endswith("join: W' = [query; key; value] along the outputs")
    assert entry.reason.startswith("exact: ")
    assert (ledger.summary["used"], ledger.summary["excused"]) == (8, 0)
    assert all(each.used for each in ledger.donor_tensors)
    assert ledger.summary["parameters_transferred_fraction"] == 1.0


def test_the_record_names_every_source() -> None:
    record = transfer(Attention(joined=False), Attention(joined=True), rename=RENAME, adapt=JOIN).to_dict()
    entry = next(each for each in record["tensors"] if each["target"] == "qkv.bias")
    assert entry["sources"] == ["query.bias", "key.bias", "value.bias"]
    assert entry["source"] == "query.bias + key.bias + value.bias"


def test_what_is_joined_shares_no_memory_with_the_donor() -> None:
    donor, target = Attention(joined=False), Attention(joined=True)
    transfer(donor, target, rename=RENAME, adapt=JOIN)
    before = target.qkv.weight.clone()
    with torch.no_grad():
        donor.key.weight.zero_()
    assert torch.equal(target.qkv.weight, before)


def test_a_layer_may_be_joined_of_parts_of_the_target_itself() -> None:
    """Writing the one must not change what is read for the other."""
    target = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 4, bias=False)})
    first, second = target["a"].weight.clone(), target["b"].weight[:2].clone()
    donor = {"a.weight": target["b"].weight[:2], "b.x.weight": target["a"].weight, "b.y.weight": target["b"].weight[:2]}
    transfer(donor, target, rename=[(r"\.[xy]\.", ".")], adapt={"b.*": {"name": "join", "order": ["x", "y"]}})
    assert torch.equal(target["a"].weight, second)
    assert torch.equal(target["b"].weight, torch.cat([first, second]))


def test_half_precision_is_joined_and_cast() -> None:
    donor, target = Attention(joined=False).half(), Attention(joined=True)
    ledger = transfer(donor, target, rename=RENAME, adapt=JOIN, dtype="cast")
    assert torch.equal(target.qkv.weight[8:16], donor.key.weight.float())
    assert "cast from float16" in ledger.by_target["qkv.weight"].reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key.weight": None}, "qkv.weight: join: expected one donor name for each of query, key, value"),
        ({"value.weight": torch.zeros(8, 9)}, "join: expected shapes that differ in their first axis alone"),
        ({"value.weight": torch.zeros(9, 8)}, r"join makes \(25, 8\) of \(8, 8\) and .*, expected \(24, 8\)"),
        ({"value.weight": torch.zeros(8, 8).half()}, "expected one dtype of all that it is made of, received float32"),
        ({"key.weight": torch.full((8, 8), torch.nan)}, "donor key.weight: expected finite values, received 64 NaN"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    state = {**Attention(joined=False).state_dict(), **change}
    donor = {name: value for name, value in state.items() if value is not None}
    text = refusal(donor, Attention(joined=True), rename=RENAME, adapt=JOIN)
    assert re.search(message, text), text


def test_several_on_one_target_are_refused_without_a_rule_that_joins() -> None:
    text = refusal(Attention(joined=False), Attention(joined=True), rename=RENAME)
    assert "qkv.weight: expected one donor tensor, received 3 (key.weight, query.weight, value.weight)" in text
    assert "the adapter join" in text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("join", r"expected two words or more, all different, received \[\]; try order: \[query, key, value\]"),
        ({"name": "join", "order": ["q", "q"]}, "all different"),
        ("class_position", "expected positions, the name of the donor's position embeddings"),
    ],
)
def test_rules_that_say_too_little_are_refused(rule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(rule)


class Tokens(nn.Module):
    """A class token and position embeddings, which are added to both or to the patches alone."""

    def __init__(self, grid: int, *, with_class: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.rand(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.rand(1, grid * grid + with_class, 4))
        self.with_class = with_class

    def forward(self, patches: Tensor) -> Tensor:
        if self.with_class:
            return torch.cat([self.cls_token, patches], 1) + self.pos_embed
        return torch.cat([self.cls_token, patches + self.pos_embed], 1)


MOVED: dict[str, Any] = {
    "pos_embed": "position_drop",
    "cls_token": {"name": "class_position", "positions": "pos_embed"},
}


def test_a_class_token_takes_up_its_position() -> None:
    donor, target = Tokens(3, with_class=True), Tokens(3, with_class=False)
    ledger = transfer(donor, target, adapt=MOVED)
    patches = torch.rand(1, 9, 4)
    torch.testing.assert_close(target(patches), donor(patches))
    entry = ledger.by_target["cls_token"]
    assert (entry.sources, entry.rule) == (
        ("cls_token", "pos_embed"),
        "class_position: cls_token' = cls_token + pos_embed[:, 0]",
    )
    assert ledger.by_target["pos_embed"].rule == "position_drop: W' = W[:, 1:]"
    assert (ledger.summary["used"], ledger.summary["adapted"]) == (2, 2)


def test_positions_are_dropped_first_and_resized_then() -> None:
    donor, target = Tokens(4, with_class=True), Tokens(2, with_class=False)
    resize = {"name": "position_resize", "prefix_tokens": 0}
    transfer(donor, target, adapt={**MOVED, "pos_embed": ["position_drop", resize]})
    expected = fit(parse(resize), (1, 16, 4), Site("pos_embed", (1, 4, 4)))
    assert expected is not None
    torch.testing.assert_close(target.pos_embed, expected(donor.pos_embed.detach()[:, 1:]))


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("pos", "expected a donor tensor pos, received none of that name"),
        ("w", "expected one token and positions of its width"),
    ],
)
def test_positions_that_are_not_there_are_refused(positions: str, message: str) -> None:
    donor = {**Tokens(3, with_class=True).state_dict(), "w": torch.zeros(3)}
    rules = {"name": "class_position", "positions": positions}
    text = refusal(donor, Tokens(3, with_class=False), adapt={**MOVED, "cls_token": rules}, ignore=["w"])
    assert f"cls_token: class_position: {message}" in text


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8)])
def test_axes_of_length_one_come_and_go(shape: tuple[int, ...]) -> None:
    value = torch.rand(8)
    chain = fit(parse("squeeze"), (8,), Site("layer_scale", shape))
    assert chain is not None
    assert torch.equal(chain(value), value.reshape(shape))
    assert fitting((8,), Site("layer_scale", shape)) == ["squeeze"]


def test_no_shape_alone_suggests_what_must_be_told() -> None:
    told = {"join", "class_position", "class_rows"}
    for donor, target in (((8, 4), (24, 4)), ((1, 17, 8), (1, 16, 8)), ((1, 1, 8), (1, 1, 8))):
        for name in ("blocks.0.attn.qkv.weight", "pos_embed"):
            assert not told & set(fitting(donor, Site(name, target)))
    assert told <= ADAPTERS.keys()
