"""The account is pure: tables of names, shapes and dtypes in, a ledger or one error with every fault out."""

from __future__ import annotations

import re
from itertools import permutations

import pytest

from graft import TransferError
from graft.transfer import Ledger, Rules, TensorInfo, account

Infos = dict[str, TensorInfo]


def infos(*names: str, shape: tuple[int, ...] = (2, 3), dtype: str = "float32") -> Infos:
    return {name: TensorInfo(shape, dtype) for name in names}


def sources(ledger: Ledger) -> dict[str, str | None]:
    return {entry.target: entry.source for entry in ledger.tensors}


def refusal(donor: Infos, target: Infos, rules: Rules, **options: dict[str, str]) -> TransferError:
    with pytest.raises(TransferError) as caught:
        account(donor, target, rules, **options)
    return caught.value


def test_a_donor_that_matches_nothing_lists_both_sides_with_the_nearest() -> None:
    donor = infos("encoder.conv.weight", "encoder.conv.bias")
    target = {**infos("trunk.conv.weight"), **infos("trunk.conv.bias", shape=(2,))}
    error = refusal(donor, target, Rules())
    assert error.unfilled == ("trunk.conv.weight", "trunk.conv.bias")
    assert error.unused == ("encoder.conv.weight", "encoder.conv.bias")
    text = str(error)
    assert "2 of 2 target tensors have no source, 2 of 2 donor tensors have no use" in text
    assert "target trunk.conv.weight (2, 3) (nearest donor: encoder.conv.weight (2, 3))" in text


def test_all_faults_come_together() -> None:
    donor = {**infos("a", "b"), **infos("h", dtype="float16")}
    target = {**infos("a", shape=(5, 3)), **infos("c", "h")}
    rules = Rules(skip=["nose.*"], ignore=["tail.*"], rename=[("^x", "y")], adapt={"ear.*": "output_pad"})
    text = str(refusal(donor, target, rules))
    for part in (
        "donor.skip: 'nose.*' covers no target tensor",
        "donor.ignore: 'tail.*' covers no donor tensor",
        "donor.rename: '^x -> y' changes no donor name",
        "donor.adapt: 'ear.*' covers no target tensor",
        "a: expected (5, 3), received (2, 3) from a; try donor.adapt={a: output_pad}",
        "h: expected float32, received float16 from h; try donor.cast=true",
        "1 of 3 target tensors have no source, 1 of 3 donor tensors have no use",
    ):
        assert part in text


def test_two_donor_names_on_one_target_is_an_error() -> None:
    text = str(refusal(infos("left.w", "right.w"), infos("w"), Rules(rename=[(r"^\w+\.", "")])))
    assert "w: expected one donor tensor, received 2 (left.w, right.w)" in text


def test_renames_apply_in_order() -> None:
    ledger = account(infos("a.w"), infos("c.w"), Rules(rename=[("^a", "b"), ("^b", "c")]))
    entry = ledger.by_target["c.w"]
    assert (entry.source, entry.verdict.value, entry.rule) == ("a.w", "renamed", "rename ^a -> b, then ^b -> c")


def test_renames_by_mapping_are_exact() -> None:
    ledger = account(infos("a.w", "a.w2"), infos("x", "a.w2"), Rules(rename={"a.w": "x"}))
    assert sources(ledger) == {"x": "a.w", "a.w2": "a.w2"}
    assert "changes no donor name" in str(refusal(infos("a"), infos("a"), Rules(rename={"b": "c"})))


@pytest.mark.parametrize(
    ("donor", "rename", "advice"),
    [
        ("encoder.w", [(r"^encoder\\.", "")], r"; try ^encoder\. (inside quotes each backslash is written once)"),
        ("module.encoder.w", [("^module[.]enc", "")], ', as prefix "module." stripped beforehand; try it without'),
        ("encoder.w", [("^encoder", "a"), ("^encoder", "b")], ", as an earlier rule changed those that it fits"),
        ("encoder.w", [("^decoder", "a")], "; try a pattern of names such as encoder.w"),
        ("encoder.w", {"encoder.v": "w"}, "; try encoder.w"),
    ],
)  # fmt: skip
def test_a_rename_without_effect_is_answered_with_what_to_write(
    donor: str, rename: list[tuple[str, str]] | dict[str, str], advice: str
) -> None:
    written = " -> ".join(next(iter(rename.items())) if isinstance(rename, dict) else rename[-1])
    text = str(refusal(infos(donor), infos("encoder.w"), Rules(rename=rename)))
    assert f"donor.rename: '{written}' changes no donor name{advice}" in text


@pytest.mark.parametrize(("key", "side"), [("skip", "target"), ("ignore", "donor"), ("adapt", "target")])
def test_a_regular_expression_in_place_of_a_glob_is_answered_with_the_glob(key: str, side: str) -> None:
    written = r"^fc\..*"
    rules = Rules(**{key: {written: "output_pad"} if key == "adapt" else [written]})
    text = str(refusal(infos("fc.w"), infos("fc.w"), rules))
    assert f"donor.{key}: {written!r} covers no {side} tensor; try fc.* (a glob" in text


@pytest.mark.parametrize("rule", [("(", "x"), ("a", r"\2"), ("a", r"\g<no>"), ("a.*", "b.*.*"), ("a",), "ab"])
def test_renames_that_are_none_are_refused(rule: tuple[str, ...]) -> None:
    assert "donor.rename" in str(refusal(infos("a"), infos("a"), Rules(rename=[rule])))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(match="structure", rename=[("a", "a")]), "donor.rename: has no effect with match=structure"),
        (Rules(table={"a": "a"}), "donor.table: has no effect with match=name; try match=table"),
        (Rules(match="table"), "donor.table: expected {donor name: target name} with match=table, received none"),
        (Rules(match="nmae"), "donor.match: expected name, structure, table, auto, received 'nmae'; try name"),
        (Rules(adapt={"*": "output_pad"}), "donor.adapt: '*' changes nothing"),
        (
            Rules(adapt={"*": "init:zeros", "a": "init:ones"}),
            "a is covered by '*' and by 'a'; try globs that do not overlap",
        ),
        (Rules(skip="a.*"), "donor.skip: expected a list of globs, received the text 'a.*'"),
    ],
)
def test_rules_without_effect_or_with_two_meanings_are_errors(rules: Rules, message: str) -> None:
    assert message in str(refusal(infos("a"), infos("a"), rules))


def test_automatic_rules_may_cover_nothing() -> None:
    rules = Rules(
        auto_skip={"fc.*": "new head"}, auto_ignore={"old.*": "gone"}, auto_adapt={"a": "output_pad", "q.*": "inflate"}
    )
    assert sources(account(infos("a"), infos("a"), rules)) == {"a": "a"}


def test_the_users_adapter_wins_over_the_automatic_one() -> None:
    rules = Rules(auto_adapt={"a": "output_truncate"}, adapt={"a": {"name": "output_pad", "fill": "fresh"}})
    ledger = account(infos("a"), infos("a", shape=(4, 3)), rules)
    assert ledger.by_target["a"].rule == "output_pad: W'[:2] = W, W'[2:] = fresh"


def test_a_glob_that_forgot_its_star_is_told() -> None:
    text = str(refusal(infos("fc.weight"), infos("fc.weight"), Rules(skip=["fc"])))
    assert "donor.skip: 'fc' covers no target tensor; try fc.*" in text


def test_skip_carries_its_reason_and_excuses_the_donors_own() -> None:
    rules = Rules(auto_skip={"fc.*": "new head"})
    ledger = account(infos("a", "fc.weight"), infos("a", "fc.weight", shape=(2, 3)), rules)
    entry = ledger.by_target["fc.weight"]
    assert (entry.verdict.value, entry.reason) == ("initialized", "new head")
    assert ledger.donor_tensors[1].reason == "its target fc.weight keeps its own values (new head)"


def test_an_ignored_donor_does_not_fill_its_namesake() -> None:
    assert refusal(infos("a", "b"), infos("a", "b"), Rules(ignore=["b"])).unfilled == ("b",)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "network.", "module._orig_mod.model.", "model.module."]
)
def test_wrapper_prefixes_are_stripped_to_a_fixpoint_and_said(prefix: str) -> None:
    ledger = account(infos(f"{prefix}a.w", f"{prefix}b.w"), infos("a.w", "b.w"), Rules())
    assert sources(ledger) == {"a.w": f"{prefix}a.w", "b.w": f"{prefix}b.w"}
    assert ledger.remarks == [f'prefix "{prefix}" stripped from all donor names']
    assert {entry.verdict.value for entry in ledger.tensors} == {"renamed"}


def test_a_prefix_that_both_sides_have_stays_on() -> None:
    ledger = account(infos("model.a", "model.b"), infos("model.a", "model.b"), Rules())
    assert {entry.verdict.value for entry in ledger.tensors} == {"copied"}
    assert ledger.remarks == []


def test_a_prefix_that_only_some_carry_is_stripped_when_that_explains() -> None:
    """Averaged models: `module.*` beside a counter of their own."""
    ledger = account(infos("n_averaged", "module.a", "module.b"), infos("a", "b"), Rules(ignore=["n_averaged"]))
    assert sources(ledger) == {"a": "module.a", "b": "module.b"}
    assert ledger.remarks == ['prefix "module." stripped from 2 of 3 donor names']


def test_a_wrapped_target_is_met_too() -> None:
    ledger = account(infos("a", "b"), infos("_orig_mod.a", "_orig_mod.b"), Rules())
    assert sources(ledger) == {"_orig_mod.a": "a", "_orig_mod.b": "b"}
    assert ledger.remarks == ['prefix "_orig_mod." stripped from all target names']


def test_stripping_never_makes_two_names_one() -> None:
    """Even where it would explain more: `module.a` and `a` are two tensors."""
    error = refusal(infos("module.a", "a", "module.b"), infos("a", "b"), Rules())
    assert error.unused == ("module.a", "module.b")
    assert error.unfilled == ("b",)


@pytest.mark.parametrize("chain", list(permutations(("module.", "_orig_mod.", "model.", "network."))))
def test_wrappers_nested_in_any_order_come_off(chain: tuple[str, ...]) -> None:
    prefix = "".join(chain)
    ledger = account(infos(f"{prefix}a.w", f"{prefix}b.w"), infos("a.w", "b.w"), Rules())
    assert sources(ledger) == {"a.w": f"{prefix}a.w", "b.w": f"{prefix}b.w"}
    assert ledger.remarks == [f'prefix "{prefix}" stripped from all donor names']


def test_a_compiled_submodule_s_mark_comes_out_of_the_middle_of_names() -> None:
    donor = infos("module.encoder._orig_mod.0._orig_mod.w", "module.encoder._orig_mod.b", "module.fc.w")
    ledger = account(donor, infos("encoder.0.w", "encoder.b", "fc.w"), Rules())
    assert sources(ledger) == {
        "encoder.0.w": "module.encoder._orig_mod.0._orig_mod.w",
        "encoder.b": "module.encoder._orig_mod.b",
        "fc.w": "module.fc.w",
    }
    assert ledger.remarks == ['prefix "module." and inner "_orig_mod." stripped from all donor names']
    assert ledger.by_target["encoder.b"].rule == 'prefix "module." and inner "_orig_mod." stripped'


def test_a_compiled_submodule_of_the_target_is_met_too() -> None:
    ledger = account(infos("encoder.w", "fc.w"), infos("encoder._orig_mod.w", "fc.w"), Rules())
    assert sources(ledger) == {"encoder._orig_mod.w": "encoder.w", "fc.w": "fc.w"}
    assert ledger.remarks == ['inner "_orig_mod." stripped from 1 of 2 target names']


def test_compiled_submodules_on_both_sides_keep_their_names() -> None:
    ledger = account(infos("encoder._orig_mod.w"), infos("encoder._orig_mod.w"), Rules())
    assert ledger.remarks == []
    assert ledger.summary["copied"] == 1


def test_taking_the_mark_out_never_makes_two_names_one() -> None:
    error = refusal(infos("e._orig_mod.w", "e.w", "x._orig_mod.w"), infos("e.w", "x.w"), Rules())
    assert error.unused == ("e._orig_mod.w", "x._orig_mod.w")


def test_a_prefix_is_no_part_of_a_word() -> None:
    assert refusal(infos("remodel.a"), infos("a"), Rules()).unused == ("remodel.a",)


def test_tied_names_are_filled_from_one_donor_tensor() -> None:
    ledger = account(infos("embed.w"), infos("embed.w", "out.w"), Rules(), ties={"out.w": "embed.w"})
    entry = ledger.by_target["out.w"]
    assert (entry.source, entry.tied_to) == ("embed.w", "embed.w")
    assert entry.reason == "shares its memory with embed.w"
    assert ledger.summary["parameters_transferred_fraction"] == 1.0


def test_a_donor_that_keeps_only_the_later_of_two_tied_names() -> None:
    ledger = account(infos("out.w"), infos("embed.w", "out.w"), Rules(), ties={"out.w": "embed.w"})
    assert sources(ledger) == {"embed.w": "out.w", "out.w": "out.w"}


def test_one_memory_has_one_fate() -> None:
    rules = Rules(skip=["out.w"])
    text = str(refusal(infos("embed.w"), infos("embed.w", "out.w"), rules, ties={"out.w": "embed.w"}))
    assert "out.w and embed.w share their memory" in text


def norm(name: str, *, counter: bool = True) -> Infos:
    found = infos(*(f"{name}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")), shape=(4,))
    return {**found, **(infos(f"{name}.num_batches_tracked", shape=(), dtype="int64") if counter else {})}


def test_a_donor_that_counts_no_batches_leaves_the_counter() -> None:
    ledger = account(norm("bn", counter=False), norm("bn"), Rules())
    entry = ledger.by_target["bn.num_batches_tracked"]
    assert (entry.verdict.value, entry.reason.partition(";")[0]) == ("initialized", "the donor counts no batches")


def test_a_counter_alone_missing_its_layer_is_no_excuse() -> None:
    assert "bn.num_batches_tracked" in refusal({}, norm("bn"), Rules()).unfilled


def test_a_layer_alone_does_without_the_counter_too() -> None:
    donor = {name.removeprefix("."): info for name, info in norm("", counter=False).items()}
    target = {name.removeprefix("."): info for name, info in norm("").items()}
    assert account(donor, target, Rules()).by_target["num_batches_tracked"].verdict.value == "initialized"


@pytest.mark.parametrize("other", [TensorInfo((), "float16"), TensorInfo((1,), "int64"), TensorInfo((), "int32")])
def test_a_counter_of_another_type_or_shape_is_no_reason_to_refuse(other: TensorInfo) -> None:
    """As files have it that were cast to half precision as a whole."""
    ledger = account({**norm("bn"), "bn.num_batches_tracked": other}, norm("bn"), Rules())
    reason = f"the donor's counter is {other.dtype} {other.shape}; the counter plays no part in the function"
    entry, source = ledger.by_target["bn.num_batches_tracked"], ledger.donor_tensors[-1]
    assert (entry.verdict.value, entry.reason, entry.source) == ("initialized", reason, None)
    assert (source.source, source.used, source.reason) == ("bn.num_batches_tracked", False, reason)


@pytest.mark.parametrize("match", ["name", "structure"])
def test_a_network_that_counts_no_batches_excuses_the_donors_counter(match: str) -> None:
    ledger = account(norm("bn"), norm("bn", counter=False), Rules(match=match))
    assert [entry.verdict.value for entry in ledger.tensors] == ["copied"] * 4
    assert ledger.donor_tensors[-1].reason == (
        "the network counts no batches; the counter plays no part in the function"
    )


def test_a_counter_whose_layer_has_no_use_is_unexplained() -> None:
    assert "old.num_batches_tracked" in refusal({**norm("bn"), **norm("old")}, norm("bn"), Rules()).unused


def test_structure_does_without_the_counters_that_the_donor_lacks() -> None:
    ledger = account(norm("old", counter=False), norm("new"), Rules(match="structure"))
    assert ledger.by_target["new.running_var"].source == "old.running_var"


def test_structure_needs_equal_counts() -> None:
    text = str(refusal(infos("a", "b"), infos("x"), Rules(match="structure")))
    assert "expected as many donor tensors as target tensors, received 2 and 1" in text


@pytest.mark.parametrize(
    ("donor", "target", "allowed"),
    [("float16", "float32", True), ("float64", "float32", True), ("int32", "int64", True), ("int64", "float32", False)],
)
def test_dtypes_are_checked_and_cast_only_on_request(donor: str, target: str, allowed: bool) -> None:
    before, after = infos("a", dtype=donor), infos("a", dtype=target)
    assert f"a: expected {target}, received {donor} from a" in str(refusal(before, after, Rules()))
    if allowed:
        entry = account(before, after, Rules(dtype="cast")).by_target["a"]
        assert (entry.cast, entry.reason) == (True, f"cast from {donor}")
    else:
        assert "donor.skip=[a]" in str(refusal(before, after, Rules(dtype="cast")))


def test_the_fraction_counts_parameters_by_their_elements() -> None:
    target = {
        **infos("conv.weight", shape=(10, 3)),
        **infos("fc.weight", shape=(10,)),
        "bn.running_mean": TensorInfo((1000,), "float32", buffer=True),
    }
    donor = {name: info for name, info in target.items() if name != "fc.weight"}
    summary = account(donor, target, Rules(skip=["fc.*"])).summary
    assert summary["parameters_transferred_fraction"] == 30 / 40
    assert (summary["copied"], summary["initialized"], summary["used"], summary["excused"]) == (2, 1, 2, 0)


def test_the_ledger_as_a_record_and_as_a_table() -> None:
    ledger = account(infos("m.a", "x"), infos("a", "fc"), Rules(rename=[(r"^m\.", "")], skip=["fc"], ignore=["x"]))
    ledger.source, ledger.format, ledger.fingerprint = "w.pt", "torch", "00ff"
    record = ledger.to_dict()
    assert list(record) == ["donor", "summary", "remarks", "tensors", "donor_tensors"]
    assert record["donor"] == {"source": "w.pt", "sha256": "00ff", "format": "torch"}
    assert record["tensors"][0] == {
        "target": "a",
        "verdict": "renamed",
        "source": "m.a",
        "sources": ["m.a"],
        "rule": r"rename ^m\. -> ",
        "shape": [2, 3],
        "dtype": "float32",
        "reason": "",
    }
    assert record["donor_tensors"] == [
        {"source": "m.a", "status": "used", "reason": ""},
        {"source": "x", "status": "excused", "reason": "ignore: x"},
    ]
    table = str(ledger)
    assert "w.pt (torch): 1 renamed, 1 initialized; 1 donor tensors used, 1 excused; 50.0% of the parameters" in table
    assert re.search(r"^a\s+renamed\s+2×3\s+m\.a\s+rename", table, re.MULTILINE)
    assert "excused: x (ignore: x)" in table


def test_almost_all_is_not_called_all() -> None:
    target = {**infos("a", shape=(99999,)), **infos("b", shape=(1,))}
    assert "99.9% of the parameters" in account(infos("a", shape=(99999,)), target, Rules(skip=["b"])).headline
