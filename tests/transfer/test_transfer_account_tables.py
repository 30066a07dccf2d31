"""Accounts of random tables whose every verdict is known beforehand, and of such tables with one fault each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from math import prod

import pytest

from graft import TransferError
from graft.transfer import Ledger, Rules, TensorInfo, account

Infos = dict[str, TensorInfo]


class Case:
    """Two tables and rules, drawn at random, with what each tensor's fate must be."""

    def __init__(self, seed: int, match: str) -> None:
        self.rng = random.Random(f"{seed} {match}")
        self.match = match
        self.rules = Rules(match=match)
        self.skip: list[str] = []
        self.ignore: list[str] = []
        self.table: dict[str, str] = {}
        self.donor: Infos = {}
        self.target: Infos = {}
        self.ties: dict[str, str] = {}
        self.verdicts: dict[str, tuple[str, str | None]] = {}
        """Target to verdict and source."""
        self.why: dict[str, str] = {}
        """A piece of the rule or the reason of an entry, on either side."""
        self.excused: set[str] = set()
        prefix = self.rng.choice(["", "", "module.", "_orig_mod.module."]) if match == "name" else ""
        if match == "name" and self.rng.random() < 0.7:
            self.rules.rename = [(r"^old\.", "new.")]
            self._fill("new.w", "old.w", TensorInfo((3, 2), "float32"))
            self.why["new.w"] = r"rename ^old\. -> new."
        for block in ("stem", "a.0", "a.1", "fc"):
            for leaf, shape in (("weight", (3, 2)), ("bias", (3,))):
                self._draw(f"{block}.{leaf}", TensorInfo(shape, "float32"))
        if match != "structure":
            self._tie()
        self.donor = {f"{prefix}{name}": info for name, info in self.donor.items()}
        self.verdicts = {name: self._from(prefix, *fate) for name, fate in self.verdicts.items()}
        self.excused = {f"{prefix}{name}" for name in self.excused}
        self.why.update({f"{prefix}{name}": why for name, why in self.why.items() if f"{prefix}{name}" in self.donor})
        self.rules.skip, self.rules.ignore, self.rules.table = self.skip, self.ignore, self.table
        if match == "structure":
            sources = [name for name in self.donor if name not in self.excused]
            filled = [name for name, (_, source) in self.verdicts.items() if source is not None]
            self.why.update({name: f"structure: position {place}" for place, name in enumerate(filled)})
            assert len(sources) == len(filled)

    @staticmethod
    def _from(prefix: str, verdict: str, source: str | None) -> tuple[str, str | None]:
        return ("renamed" if prefix and verdict == "copied" else verdict), source and f"{prefix}{source}"

    def _fill(self, name: str, source: str, info: TensorInfo, donor: TensorInfo | None = None) -> None:
        self.target[name], self.donor[source] = info, donor or info
        verdict = "adapted" if donor else "copied" if name == source else "renamed"
        self.verdicts[name] = verdict, source
        if self.match == "table":
            self.table[source] = name

    def _source(self, name: str) -> str:
        return name if self.match == "name" else self.rng.choice([name, f"other.{name}"])

    def _draw(self, name: str, info: TensorInfo) -> None:
        fates = ["as it is"] * 4 + ["skip", "automatic skip", "stray"]
        fates += ["adapt", "init"] if self.match != "structure" else []
        fate = self.rng.choice(fates)
        if fate in ("as it is", "stray"):
            self._fill(name, self._source(name), info)
        if fate == "stray":  # beside it, one that the rules leave unused
            stray = f"old_{name}"
            self.donor[stray] = info
            self.excused.add(stray)
            if self.rng.random() < 0.5:
                self.ignore.append(stray)
                self.why[stray] = f"ignore: {stray}"
            else:
                self.rules.auto_ignore = {**self.rules.auto_ignore, stray: "no place for it"}
                self.why[stray] = "no place for it"
        if fate == "adapt":
            rows, rule = self.rng.choice([(2, "output_pad"), (5, "output_truncate")])
            source = TensorInfo((rows, *info.shape[1:]), info.dtype)
            self._fill(name, self._source(name), info, source)
            self.rules.adapt = {**self.rules.adapt, name: rule}
            self.why[name] = f"{rule}: W'"
        if fate in ("skip", "automatic skip", "init"):
            self.target[name] = info
            self.verdicts[name] = "initialized", None
            self.why[name] = {"skip": f"skip: {name}", "init": f"adapt: {name}"}.get(fate, "new head")
            if fate == "skip":
                self.skip.append(name)
            elif fate == "init":
                self.rules.adapt = {**self.rules.adapt, name: "init:zeros"}
            else:
                self.rules.auto_skip = {**self.rules.auto_skip, name: "new head"}
            if self.match != "structure" and self.rng.random() < 0.5:  # the donor's own of that name goes with it
                self.donor[name] = info
                self.excused.add(name)

    def _tie(self) -> None:
        verdict, source = self.verdicts["stem.weight"]
        if source is not None and verdict == "copied" and self.rng.random() < 0.5:
            self.target["tied.weight"] = self.target["stem.weight"]
            self.ties["tied.weight"] = "stem.weight"
            self.verdicts["tied.weight"] = "renamed", source
            self.why["tied.weight"] = "shares its memory with stem.weight"

    def account(self) -> Ledger:
        return account(self.donor, self.target, self.rules, ties=self.ties)

    @property
    def plain(self) -> list[str]:
        """Targets that a donor's tensor fills as it is."""
        return [name for name, (verdict, _) in self.verdicts.items() if verdict in ("copied", "renamed")]


MATCHES = pytest.mark.parametrize("match", ["name", "structure", "table"])


@MATCHES
@pytest.mark.parametrize("seed", range(40))
def test_every_tensor_has_the_verdict_that_its_rule_gives_it(seed: int, match: str) -> None:
    """Random tables: the whole ledger is known beforehand."""
    case = Case(seed, match)
    ledger = case.account()
    assert {entry.target: (entry.verdict.value, entry.source) for entry in ledger.tensors} == case.verdicts
    assert [entry.target for entry in ledger.tensors] == list(case.target)
    assert [entry.source for entry in ledger.donor_tensors] == list(case.donor)
    assert {entry.source for entry in ledger.donor_tensors if not entry.used} == case.excused
    for entry in ledger.tensors:
        assert case.why.get(entry.target, "") in f"{entry.rule}; {entry.reason}"
        assert entry.tied_to == case.ties.get(entry.target)
        assert entry.rule or entry.reason or entry.verdict.value == "copied"
    for entry in ledger.donor_tensors:
        assert bool(entry.reason) is not entry.used
        assert case.why.get(entry.source, "") in entry.reason or entry.used
        if not entry.used and entry.source not in case.why:
            assert "keeps its own values" in entry.reason
    counts = Counter(verdict for verdict, _ in case.verdicts.values())
    summary = ledger.summary
    assert {name: summary[name] for name in ("copied", "renamed", "adapted", "initialized")} == {
        name: counts[name] for name in ("copied", "renamed", "adapted", "initialized")
    }
    assert (summary["used"], summary["excused"]) == (len(case.donor) - len(case.excused), len(case.excused))
    own = [name for name in case.target if name not in case.ties]
    filled = sum(prod(case.target[name].shape) for name in own if case.verdicts[name][1] is not None)
    assert summary["parameters_transferred_fraction"] == filled / sum(prod(case.target[name].shape) for name in own)


def lose(case: Case) -> tuple[str, list[str], list[str]]:
    name = case.rng.choice([name for name in case.plain if name not in {*case.ties, *case.ties.values()}])
    source = case.verdicts[name][1]
    assert source
    del case.donor[source]
    if case.match == "name" and source.endswith("old.w"):
        case.rules.rename = ()
    if case.match == "table":
        del case.table[source]
    return "1 of", [name], []


def add(case: Case) -> tuple[str, list[str], list[str]]:
    case.donor["stranger.weight"] = TensorInfo((7, 7), "float32")
    return "stranger.weight (7, 7)", [], ["stranger.weight"]


def grow(case: Case) -> tuple[str, list[str], list[str]]:
    name = case.rng.choice(case.plain)
    source = case.verdicts[name][1]
    assert source
    info = case.donor[source]
    case.donor[source] = TensorInfo((info.shape[0] + 1, *info.shape[1:]), info.dtype)
    return f"{name}: expected {info.shape}, received {case.donor[source].shape} from {source}", [], []


def halve(case: Case) -> tuple[str, list[str], list[str]]:
    name = case.rng.choice(case.plain)
    source = case.verdicts[name][1]
    assert source
    case.donor[source] = TensorInfo(case.donor[source].shape, "float16")
    return f"{name}: expected float32, received float16 from {source}", [], []


def idle(case: Case) -> tuple[str, list[str], list[str]]:
    case.rules.skip = [*case.rules.skip, "nothing.*"]
    return "donor.skip: 'nothing.*' covers no target tensor", [], []


@pytest.mark.parametrize("fault", [lose, add, grow, halve, idle], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("match", ["name", "table"])
@pytest.mark.parametrize("seed", range(8))
def test_one_fault_in_a_sound_case_is_one_error_that_names_it(
    seed: int, match: str, fault: Callable[[Case], tuple[str, list[str], list[str]]]
) -> None:
    case = Case(seed, match)
    text, unfilled, unused = fault(case)
    with pytest.raises(TransferError) as caught:
        case.account()
    assert list(caught.value.unfilled) == unfilled
    assert list(caught.value.unused) == unused
    said = str(caught.value)
    assert text in said
    if unfilled or unused:
        counts = f"{len(unfilled)} of {len(case.target)} target tensors have no source, "
        assert said.startswith(f"{counts}{len(unused)} of {len(case.donor)} donor tensors have no use")
        assert all(f"{name} {case.target[name].shape}" in said for name in unfilled)
    else:
        tied = sum(first == text.partition(":")[0] for first in case.ties.values())
        assert len(said.splitlines()) == 1 + tied  # whatever it shares its memory with has the same fault


@pytest.mark.parametrize("seed", range(8))
def test_structure_that_does_not_agree_says_where(seed: int) -> None:
    case = Case(seed, "structure")
    filled = {name: source for name, (_, source) in case.verdicts.items() if source is not None}
    place = case.rng.randrange(len(filled))
    name, source = list(filled.items())[place]
    case.donor[source] = TensorInfo((9,), "float32")
    with pytest.raises(TransferError) as caught:
        case.account()
    expected = f"position {place} expected {name} {case.target[name].shape}, received {source} (9,)"
    assert expected in str(caught.value)
    assert list(caught.value.unfilled) == list(filled)
    assert list(caught.value.unused) == list(filled.values())
