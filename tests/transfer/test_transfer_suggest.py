"""What is said about tensors that nothing explains, and that it is only said."""

from __future__ import annotations

from time import perf_counter

import pytest

from graft import TransferError
from graft.transfer import Ledger, Rules, TensorInfo, account, suggest_rules

Infos = dict[str, TensorInfo]


def infos(*names: str, shape: tuple[int, ...] = (2, 3), dtype: str = "float32") -> Infos:
    return {name: TensorInfo(shape, dtype) for name in names}


def norm(name: str, *, counter: bool = True) -> Infos:
    found = infos(*(f"{name}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")), shape=(4,))
    return {**found, **(infos(f"{name}.num_batches_tracked", shape=(), dtype="int64") if counter else {})}


def sources(ledger: Ledger) -> dict[str, str | None]:
    return {entry.target: entry.source for entry in ledger.tensors}


def refusal(donor: Infos, target: Infos, rules: Rules) -> TransferError:
    with pytest.raises(TransferError) as caught:
        account(donor, target, rules)
    return caught.value


def test_the_nearest_candidate_is_judged_by_name_and_shape() -> None:
    donor = {**infos("a.first.weight", shape=(9, 9)), **infos("a.second.weight"), **infos("z.norm.bias")}
    text = str(refusal(donor, infos("a.third.weight"), Rules()))
    assert "target a.third.weight (2, 3) (nearest donor: a.second.weight (2, 3))" in text


def test_long_lists_are_bounded_and_counted() -> None:
    error = refusal(infos(*(f"d{i}" for i in range(500))), infos(*(f"t{i}" for i in range(400))), Rules())
    assert "… and 392 more target names" in str(error)
    assert "… and 492 more donor names" in str(error)
    assert len(str(error).splitlines()) < 30
    assert len(error.unused) == 500


def encoder(prefix: str, blocks: str = "layer") -> Infos:
    return {
        **infos(f"{prefix}stem.conv.weight", shape=(8, 3, 3, 3)),
        **{name: info for i in range(3) for name, info in norm(f"{prefix}{blocks}{i}.bn").items()},
    }


@pytest.mark.parametrize(
    ("donor", "target", "rename"),
    [
        (encoder("encoder."), encoder("backbone."), [(r"^encoder\.", "backbone.")]),
        (encoder(""), encoder("trunk."), [("^", "trunk.")]),
        (encoder("net."), encoder(""), [(r"^net\.", "")]),
    ],
)
def test_auto_suggests_renames_that_then_explain_everything(
    donor: Infos, target: Infos, rename: list[tuple[str, str]]
) -> None:
    found = suggest_rules(donor, target)
    assert list(found.rename) == rename
    assert found.explained == found.total == len(target)
    assert all(entry.source for entry in account(donor, target, Rules(rename=rename)).tensors)


def test_auto_suggests_structure_skip_and_ignore() -> None:
    found = suggest_rules(encoder("", "layer"), encoder("", "block"))
    renamed = account(encoder("", "layer"), encoder("", "block"), Rules(rename=found.rename))
    assert sources(renamed)["block2.bn.weight"] == "layer2.bn.weight"
    assert found.structure
    numbered = suggest_rules(infos("k0", "k1"), infos("w0", "w1"))
    assert (numbered.rename, numbered.structure) == (((r"^k(\d+)$", r"w\1"),), True)
    mixed = suggest_rules({**encoder(""), **infos("old.weight")}, {**encoder(""), **infos("head.weight", shape=(7, 7))})
    assert (mixed.skip, mixed.ignore) == (("head.*",), ("old.*",))


def test_auto_applies_nothing() -> None:
    text = str(refusal(encoder("encoder."), encoder("backbone."), Rules(match="auto")))
    assert "suggests and changes nothing" in text
    assert r""""donor.rename=[['^encoder\.', 'backbone.']]""" in text


def test_a_suggested_skip_covers_nothing_that_is_filled() -> None:
    """Lacking layer1.2 alone must not advise skipping the whole of layer1."""
    donor, target = infos("layer1.0.w", "layer1.1.w"), infos("layer1.0.w", "layer1.1.w", "layer1.2.w")
    assert "donor.skip=[layer1.2.*]" in str(refusal(donor, target, Rules()))


def test_parametrized_weights_are_answered_clearly() -> None:
    names = ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"]
    assert "parametrized target module" in str(refusal(infos("conv.weight"), infos(*names), Rules()))
    assert "parametrized donor module" in str(refusal(infos(*names), infos("conv.weight"), Rules()))


def test_a_thousand_tensors_are_accounted_for_in_a_moment() -> None:
    donor = {name: info for i in range(200) for name, info in norm(f"encoder.block{i}.bn").items()}
    target = {name.replace("encoder", "trunk"): info for name, info in donor.items()}
    begun = perf_counter()
    account(donor, target, Rules(rename=[("^encoder", "trunk")]))
    refusal(donor, target, Rules())
    assert perf_counter() - begun < 10
