"""An account that fails says all that is wrong, with what was expected, what is nearest and what to type."""

from __future__ import annotations

from typing import Any

import pytest

from graft import TransferError
from graft.transfer import Rules, TensorInfo, account

S = (2, 3)
H, L = TensorInfo(S, "float16"), TensorInfo(S, "int64")
J = {"name": "join", "order": ["q", "k"]}


def infos(**given: tuple[int, ...] | TensorInfo) -> dict[str, TensorInfo]:
    """By name, with `__` for a dot."""
    made = {name: what if isinstance(what, TensorInfo) else TensorInfo(what, "float32") for name, what in given.items()}
    return {name.replace("__", "."): info for name, info in made.items()}


FAULTS: list[tuple[dict[str, TensorInfo], dict[str, TensorInfo], Rules, dict[str, Any], str]] = [
    (
        infos(a=S),
        infos(b=S),
        Rules(),
        {},
        "1 of 1 target tensors have no source, 1 of 1 donor tensors have no use\n"
        "  target b (2, 3) (nearest donor: a (2, 3))\n"
        "  donor  a (2, 3) (nearest target: b (2, 3))\n"
        "try \"donor.rename=[['^a$', 'b']]\"\n"
        "  or donor.match=structure (every shape agrees, in order; check the pairs in the ledger)",
    ),
    (
        infos(a=S, b=(4,)),
        infos(b=S),
        Rules(),
        {},
        "b: expected (2, 3), received (4,) from b; try donor.skip=[b]\n"
        "0 of 1 target tensors have no source, 1 of 2 donor tensors have no use\n"
        "  donor  a (2, 3) (nearest target: b (2, 3))\n"
        "try donor.ignore=[a] (these are left unused)",
    ),
    (
        infos(x__a=S, x__b=(4,)),
        infos(y__a=S, y__b=(4,)),
        Rules(),
        {},
        "2 of 2 target tensors have no source, 2 of 2 donor tensors have no use\n"
        "  target y.a (2, 3) (nearest donor: x.a (2, 3))\n"
        "  target y.b (4,) (nearest donor: x.b (4,))\n"
        "  donor  x.a (2, 3) (nearest target: y.a (2, 3))\n"
        "  donor  x.b (4,) (nearest target: y.b (4,))\n"
        "try \"donor.rename=[['^x\\.', 'y.']]\"\n"
        "  or donor.match=structure (every shape agrees, in order; check the pairs in the ledger)",
    ),
    (
        infos(x__a=S),
        infos(a=S),
        Rules(skip=["b*"], ignore=["z"]),
        {},
        "donor.skip: 'b*' covers no target tensor; try a\n"
        "donor.ignore: 'z' covers no donor tensor; try x.a\n"
        "1 of 1 target tensors have no source, 1 of 1 donor tensors have no use\n"
        "  target a (2, 3) (nearest donor: x.a (2, 3))\n"
        "  donor  x.a (2, 3) (nearest target: a (2, 3))\n"
        "try \"donor.rename=[['^x\\.', '']]\"\n"
        "  or donor.match=structure (every shape agrees, in order; check the pairs in the ledger)",
    ),
    (
        infos(a=S),
        infos(a=(5, 3)),
        Rules(),
        {},
        "a: expected (5, 3), received (2, 3) from a; try donor.adapt={a: output_pad} or donor.skip=[a]",
    ),
    (
        infos(a=S),
        infos(a=(5, 3)),
        Rules(adapt={"a": "input_sum"}),
        {},
        "a: input_sum makes (2, 3) of (2, 3), expected (5, 3); try donor.adapt={a: output_pad} or donor.skip=[a]",
    ),
    (
        infos(a=S),
        infos(a=(5, 3)),
        Rules(adapt={"a": "output_pat"}),
        {},
        "donor.adapt: a: expected an adapter, received 'output_pat'; try output_pad, output_truncate, "
        "input_repeat\n"
        "a: expected (5, 3), received (2, 3) from a; try donor.adapt={a: output_pad} or donor.skip=[a]",
    ),
    (
        infos(a=S),
        infos(a=(5, 3)),
        Rules(adapt={"a": {"name": "init:kaiming_normal", "mode": "x"}}),
        {},
        "donor.adapt: a: init:kaiming_normal: expected mode=fan_in or fan_out, received 'x'\n"
        "a: expected (5, 3), received (2, 3) from a; try donor.adapt={a: output_pad} or donor.skip=[a]",
    ),
    (
        infos(a=H),
        infos(a=S),
        Rules(),
        {},
        "a: expected float32, received float16 from a; try donor.cast=true (dtype='cast'), which the ledger notes",
    ),
    (
        infos(a=L),
        infos(a=S),
        Rules(),
        {},
        "a: expected float32, received int64 from a; try donor.skip=[a]",
    ),
    (
        infos(a=L),
        infos(a=S),
        Rules(dtype="cast"),
        {},
        "a: expected float32, received int64 from a; try donor.skip=[a]",
    ),
    (
        infos(a=TensorInfo((4, 3), "int64")),
        infos(a=TensorInfo(S, "int64")),
        Rules(adapt={"a": "output_truncate"}),
        {},
        "a: adapters work on floating-point tensors, received int64; try donor.skip=[a]",
    ),
    (
        infos(l__q=S, l__k=H),
        infos(l__qk=(4, 3)),
        Rules(rename=[("l\\.[qk]$", "l.qk")], adapt={"l.qk": J}),
        {},
        "l.qk: expected one dtype of all that it is made of, received float32, float16; try another donor",
    ),
    (
        infos(l__q=S, l__k=S, l__v=S),
        infos(l__qk=(4, 3)),
        Rules(rename=[("l\\.[qkv]$", "l.qk")], adapt={"l.qk": J}),
        {},
        "l.qk: join: expected one donor name for each of q, k, received l.q, l.k, l.v; try other donor "
        "names, or donor.adapt without join\n"
        "l.qk: join makes (6, 3) of (2, 3) and (2, 3) and (2, 3), expected (4, 3); try donor.adapt={l.qk:"
        " output_pad} or donor.skip=[l.qk]",
    ),
    (
        infos(cls=(1, 1, 4)),
        infos(cls=(1, 1, 4)),
        Rules(adapt={"cls": {"name": "class_position", "positions": "pos"}}),
        {},
        "cls: class_position: expected a donor tensor pos, received none of that name; try other donor "
        "names, or donor.adapt without class_position",
    ),
    (
        infos(a=S, b=S, c=S),
        infos(x=S, y=S),
        Rules(match="structure"),
        {},
        "match=structure: expected as many donor tensors as target tensors, received 3 and 2; try "
        "donor.skip and donor.ignore for what has no partner\n"
        "2 of 2 target tensors have no source, 3 of 3 donor tensors have no use\n"
        "  target x (2, 3) (nearest donor: a (2, 3))\n"
        "  target y (2, 3) (nearest donor: a (2, 3))\n"
        "  donor  a (2, 3) (nearest target: x (2, 3))\n"
        "  donor  b (2, 3) (nearest target: x (2, 3))\n"
        "  donor  c (2, 3) (nearest target: x (2, 3))\n"
        "try donor.match=structure donor.ignore=[c] (every shape agrees, in order; check the pairs in the"
        " ledger)\n"
        "  and a rename for what names and shapes leave open: which of a, b, c are x, y?",
    ),
    (
        infos(a=S, b=(3,)),
        infos(x=S, y=S),
        Rules(match="structure"),
        {},
        "match=structure: position 1 expected y (2, 3), received b (3,); try match=name with donor.rename\n"
        "2 of 2 target tensors have no source, 2 of 2 donor tensors have no use\n"
        "  target x (2, 3) (nearest donor: a (2, 3))\n"
        "  target y (2, 3) (nearest donor: a (2, 3))\n"
        "  donor  a (2, 3) (nearest target: x (2, 3))\n"
        "  donor  b (3,)\n"
        "try and a rename for what names and shapes leave open: which of a are x, y?",
    ),
    (
        infos(a=S),
        infos(x=S),
        Rules(match="table", table={"a": "y"}),
        {},
        "donor.table: a expects a target 'y' that there is not; try a target name in full\n"
        "1 of 1 target tensors have no source, 1 of 1 donor tensors have no use\n"
        "  target x (2, 3) (nearest donor: y (2, 3))\n"
        "  donor  y (2, 3) (nearest target: x (2, 3))\n"
        "try \"donor.rename=[['^y$', 'x']]\"",
    ),
    (
        infos(a=S),
        infos(x=S),
        Rules(match="table", table={"b": "x"}),
        {},
        "donor.table: 'b -> x' changes no donor name\n"
        "1 of 1 target tensors have no source, 1 of 1 donor tensors have no use\n"
        "  target x (2, 3) (nearest donor: a (2, 3))\n"
        "  donor  a (2, 3) (nearest target: x (2, 3))\n"
        "try \"donor.rename=[['^a$', 'x']]\"",
    ),
    (
        infos(a=S),
        infos(a=S),
        Rules(skip=["a"]),
        {},
        "expected a donor of which something is used, received rules under which none of its 1 tensors "
        "fills anything; try fewer of donor.skip, donor.ignore and donor.adapt, or donor=none where "
        "random weights are meant",
    ),
    (
        infos(a=S, b=S),
        infos(a=S, b=S),
        Rules(skip=["b"]),
        {"ties": {"b": "a"}},
        "b and a share their memory; try donor.skip or donor.adapt for both or neither",
    ),
    (
        infos(a=S, b=S),
        infos(a=S, b=S),
        Rules(match="auto"),
        {},
        "donor.match=auto suggests and changes nothing; the rules that it would use:\n"
        "  none: the names agree as they are",
    ),
    (
        infos(m__a=S, m__b=S, m__c=S),
        infos(n__a=S, n__b=S, n__c=(7,)),
        Rules(match="auto"),
        {},
        "donor.match=auto suggests and changes nothing; the rules that it would use:\n"
        "  \"donor.rename=[['^m\\.', 'n.']]\"\n"
        "  donor.skip=[n.c] (these keep their initial values)\n"
        "  donor.ignore=[m.c] (these are left unused)\n"
        "  or donor.match=structure donor.skip=[n.c] donor.ignore=[m.c] (every shape agrees, in order; "
        "check the pairs in the ledger)",
    ),
    (
        infos(w__weight_g=S),
        infos(w__weight=S),
        Rules(),
        {},
        "1 of 1 target tensors have no source, 1 of 1 donor tensors have no use\n"
        "  target w.weight (2, 3) (nearest donor: w.weight_g (2, 3))\n"
        "  donor  w.weight_g (2, 3) (nearest target: w.weight (2, 3))\n"
        "try donor.match=structure (every shape agrees, in order; check the pairs in the ledger)\n"
        "w.weight_g belongs to a parametrized donor module (weight_norm, spectral_norm …), whose plain "
        "weight is computed; try torch.nn.utils.parametrize.remove_parametrizations on it (or "
        "remove_weight_norm) before the transfer and parametrize again after it",
    ),
]


@pytest.mark.parametrize(("donor", "target", "rules", "options", "told"), FAULTS)
def test_a_fault_is_told_in_these_words(donor, target, rules: Rules, options: dict[str, Any], told: str) -> None:
    with pytest.raises(TransferError) as caught:
        account(donor, target, rules, **options)
    assert str(caught.value) == told


def test_several_tensors_of_one_are_told_with_their_rule() -> None:
    rules = Rules(rename=[("l\\.[qk]$", "l.qk")], adapt={"l.qk": J})
    (entry,) = account(infos(l__q=S, l__k=S), infos(l__qk=(4, 3)), rules).tensors
    assert (entry.verdict.value, entry.sources) == ("adapted", ("l.q", "l.k"))
    assert entry.rule == r"rename l\.[qk]$ -> l.qk; join: W' = [q; k] along the outputs"
    assert entry.reason == "exact: the joined layer gives what its parts give, in this order"


def test_positions_are_the_rule_of_a_match_by_structure() -> None:
    ledger = account(infos(a=S, b=S), infos(x=S, y=S), Rules(match="structure"))
    assert [(entry.target, entry.source, entry.rule) for entry in ledger.tensors] == [
        ("x", "a", "structure: position 0"), ("y", "b", "structure: position 1"),
    ]  # fmt: skip


def test_an_excuse_counts_where_the_tensor_has_no_place() -> None:
    ledger = account(infos(a=S, b=S), infos(a=S), Rules(), excuses={"a": "not this one", "b": "why"})
    assert [(entry.source, entry.used, entry.reason) for entry in ledger.donor_tensors] == [
        ("a", True, ""), ("b", False, "why"),
    ]  # fmt: skip
