"""The account of a transfer. Pure: turns names, shapes and dtypes into a ledger, or into one error with every fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graft.config.faults import nearest
from graft.models.stages import is_counter
from graft.transfer.adapt import Adapter, Chain, Misfit, fit, fitting
from graft.transfer.adapt.epsilon import EpsilonFold
from graft.transfer.constants import keep_constants
from graft.transfer.donor import Donor
from graft.transfer.habits import Doubt
from graft.transfer.ledger import DonorEntry, Entry, Ledger, TensorInfo, TransferError, Verdict
from graft.transfer.names import Landing
from graft.transfer.pairing import Infos, Pairing, cover, follow_ties, infos_in_order, pair
from graft.transfer.rules import MATCHES, OWN_HEAD, Rules
from graft.transfer.suggest import bounded, suggested, unexplained
from graft.transfer.target import Target

SHOWN = 5


def account_donor(donor: Donor, target: Target, rules: Rules) -> Ledger:
    """The account of a donor and a network, with the donor's origin and the remarks about it.

    Raises:
        TransferError: as in `account`, or the donor has a doubt that this network does not settle and nobody accepted.
    """
    unsettled = [doubt for doubt in donor.doubts if not doubt.settled_by(target.habits)]
    pressing = [doubt for doubt in unsettled if not doubt.accepted]
    excuses = {**dict.fromkeys(donor.head if rules.new_head else (), OWN_HEAD), **donor.excuses}
    try:
        ledger = account(
            donor.infos, target.infos, rules, ties=target.ties, fold_epsilon=donor.folds_epsilon,
            wrappers=donor.wrappers, excuses=excuses,
        )  # fmt: skip
    except TransferError as error:
        if not pressing or rules.match == "auto":
            raise
        message = f"{_refusal(donor, pressing)}\n{error}"
        raise TransferError(message, unfilled=error.unfilled, unused=error.unused) from error
    if pressing:
        raise TransferError(_refusal(donor, pressing))
    ledger.source, ledger.format, ledger.fingerprint = donor.source, donor.format, donor.fingerprint
    accepted = [f"accepted ({doubt.accepted}): {doubt.reason}" for doubt in unsettled]
    ledger.remarks[:0] = [*donor.remarks, *accepted, *target.remarks]
    ledger.preprocess = donor.preprocess
    return ledger


def _refusal(donor: Donor, doubts: Sequence[Doubt]) -> str:
    """The error text, with each expectation stated once for all doubts that share it."""
    lines: list[str] = []
    for expected in dict.fromkeys(doubt.expected for doubt in doubts):
        these = [doubt for doubt in doubts if doubt.expected == expected]
        more = f"; and {len(these) - SHOWN} more" if these[SHOWN:] else ""
        remedies = dict.fromkeys(doubt.remedy for doubt in these[:SHOWN])
        received = "; ".join(doubt.reason for doubt in these[:SHOWN])
        lines.append(
            f"donor {donor.source}: expected {expected}, received {received}{more}; try: {'; '.join(remedies)}"
        )
    return "\n".join(lines)


def account(
    donor: Infos,
    target: Infos,
    rules: Rules,
    *,
    ties: Mapping[str, str] | None = None,
    fold_epsilon: bool = False,
    wrappers: Sequence[str] = (),
    excuses: Mapping[str, str] | None = None,
) -> Ledger:
    """Gives one verdict to every target tensor and one status to every donor tensor.

    Args:
        donor: the donor's tensors by its own names, in its own order.
        target: the target's tensors, in the order of its state dict.
        rules: how to match, rename, skip, ignore and adapt.
        ties: target names, each with the earlier target name whose memory it shares.
        fold_epsilon: fold a different batch-norm epsilon of the donor into its variance, without an explicit rule.
        wrappers: additional prefixes of the donor that may be removed from its names.
        excuses: donor names that may stay unused, each with the reason.

    Raises:
        TransferError: a tensor is unexplained, assigned twice, or of another shape or dtype, or a rule has no effect.
    """
    excuses = excuses or {}
    if rules.match not in MATCHES:
        near = nearest(rules.match, MATCHES) or MATCHES
        raise TransferError(f"donor.match: expected {', '.join(MATCHES)}, received {rules.match!r}; try {near[0]}")
    work = Pairing(donor, target, rules, ties or {}, fold_epsilon, wrappers)
    cover(work)
    landing = pair(work)
    sequences = None if rules.rename or rules.match == "table" else infos_in_order(work)
    follow_ties(work)
    keep_constants(work)
    unfilled = [name for name in target if name not in work.pairs and name not in work.own_values]
    used = {name for pair in work.pairs.values() for name in pair.sources}
    work.excused |= {name: excuses[name] for name in donor if name in excuses and name not in used}
    unused = [name for name in donor if name not in used and name not in work.excused]
    _excuse_kept(work, unused, landing)
    if rules.match == "auto":
        suggestion = suggested(donor, target, landing.names, sequences, used=used, unused=unused, unfilled=unfilled)
        raise TransferError(
            f"donor.match=auto suggests and changes nothing; the rules that it would use:\n{suggestion}"
        )
    entries = [_entry(work, name) for name in target if name in work.pairs or name in work.own_values]
    _check_globs_act(work, entries)
    if unfilled or unused:
        work.faults.append(
            unexplained(donor, target, landing.names, sequences, used=used, unused=unused, unfilled=unfilled)
        )
    elif not rules.without_donor and all(map(is_counter, used)):
        work.faults.append(_nothing_used(donor))
    if work.faults:
        raise TransferError("\n".join(bounded(work.faults)), unfilled=unfilled, unused=unused)
    statuses = [
        DonorEntry(source=name, used=name in used, reason=work.excused.get(name, "") if name not in used else "")
        for name in donor
    ]
    remarks = [*work.remarks, *work.differences.remarks()]
    return Ledger(tensors=entries, donor_tensors=statuses, remarks=remarks, seed=rules.seed)


def _nothing_used(donor: Infos) -> str:
    """The error if rules set everything aside: they account for every name but would leave a network of random
    weights."""
    return (
        "expected a donor of which something is used, received rules under which none of its "
        f"{len(donor)} tensors fills anything; try fewer of donor.skip, donor.ignore and donor.adapt, or donor=none "
        "where random weights are meant"
    )


def _excuse_kept(work: Pairing, unused: list[str], landing: Landing) -> None:
    """Excuses a donor tensor whose own target is set aside, with that target's reason."""
    for name in list(unused):
        target = landing.names[name]
        if target in work.own_values and work.rules.match != "structure":
            work.excused[name] = f"its target {target} keeps its own values ({work.own_values[target][1]})"
            unused.remove(name)


def _entry(work: Pairing, name: str) -> Entry:
    info, tied_to = work.target[name], work.ties.get(name)
    if name in work.own_values:
        rule, reason, chain = work.own_values[name]
        return Entry(
            target=name, verdict=Verdict.initialized, info=info, rule=rule, reason=reason, chain=chain, tied_to=tied_to
        )
    pair = work.pairs[name]
    source = work.donor[pair.source]
    chain = _chain(work, name, [work.donor[each] for each in pair.sources])
    _compare(work, name, source, chain)
    cast = source.dtype != info.dtype and _may_cast(work, name, source)
    verdict = Verdict.adapted if chain else Verdict.copied if pair.source == name else Verdict.renamed
    reasons = [
        chain.effect if chain else "",
        f"cast from {source.dtype}" if cast else "",
        f"shares its memory with {tied_to}" if tied_to else "",
    ]
    return Entry(
        target=name,
        verdict=verdict,
        info=info,
        sources=pair.sources,
        rule="; ".join(filter(None, (pair.rule, chain.formula if chain else ""))),
        reason="; ".join(filter(None, reasons)),
        chain=chain,
        cast=cast,
        tied_to=tied_to,
    )


def _chain(work: Pairing, name: str, sources: Sequence[TensorInfo]) -> Chain | None:
    """The adapters that make the sources fit. None if the source fits unchanged, or if the misfit is a fault."""
    expected, source = work.target[name].shape, sources[0]
    adapters = (*work.adapters.get(name, ()), *_epsilon(work, name, source))
    if not adapters and source.shape == expected:
        return None
    site = work.site(name)
    try:
        chain = fit(adapters, source.shape, site, *(each.shape for each in sources[1:]))
    except Misfit as error:
        what = error if adapters else f"expected {expected}, received {source.shape} from {work.pairs[name].source}"
        offers = [f"donor.adapt={{{name}: {rule}}}" for rule in fitting(source.shape, site)[:3]]
        work.faults.append(f"{name}: {what}; try {' or '.join([*offers, f'donor.skip=[{name}]'])}")
        return None
    if len({each.dtype for each in sources}) > 1:
        dtypes = ", ".join(each.dtype for each in sources)
        work.faults.append(
            f"{name}: expected one dtype of all that it is made of, received {dtypes}; try another donor"
        )
    if chain and not source.dtype.startswith(("float", "bfloat")):
        work.faults.append(
            f"{name}: adapters work on floating-point tensors, received {source.dtype}; try donor.skip=[{name}]"
        )
    return chain


def _epsilon(work: Pairing, name: str, source: TensorInfo) -> tuple[Adapter, ...]:
    """The adapter for a batch norm's different epsilon, if it may be added without a rule and no rule does it."""
    both_known = source.epsilon is not None and work.target[name].epsilon is not None
    ruled = any(isinstance(adapter, EpsilonFold) for adapter in work.adapters.get(name, ()))
    return (EpsilonFold(),) if work.fold_epsilon and both_known and not ruled else ()


def _compare(work: Pairing, name: str, source: TensorInfo, chain: Chain | None) -> None:
    """Records differences in the settings of two layers. A folded epsilon is no difference."""
    target = work.target[name]
    another_kernel = source.shape[2:] != target.shape[2:]  # which wants another padding
    settings = tuple(each for each in target.settings if not (another_kernel and each[0] == "padding"))
    work.differences.compare(name, source.settings, settings)
    folded = chain is not None and any(isinstance(step, EpsilonFold) for step in chain.steps)
    if source.epsilon is not None and target.epsilon is not None and source.epsilon != target.epsilon and not folded:
        work.differences.epsilon(name, source.epsilon, target.epsilon)


def _may_cast(work: Pairing, name: str, source: TensorInfo) -> bool:
    """Whether the rules allow a cast. A different dtype without such a rule, or one that cannot be cast, is a fault."""
    expected = work.target[name].dtype
    kinds = {dtype.lstrip("bu").rstrip("0123456789_") for dtype in (source.dtype, expected)}
    castable = len(kinds) == 1
    if work.rules.dtype == "cast" and castable:
        return True
    remedy = (
        "; try donor.cast=true (dtype='cast'), which the ledger notes" if castable else f"; try donor.skip=[{name}]"
    )
    work.faults.append(f"{name}: expected {expected}, received {source.dtype} from {work.pairs[name].source}{remedy}")
    return False


def _check_globs_act(work: Pairing, entries: Sequence[Entry]) -> None:
    """Reports adapt rules without effect, because every tensor fits already."""
    acting = {work.globs.get(entry.target) for entry in entries if entry.chain is not None}
    faulty = {work.globs[name] for name in work.globs if name not in work.pairs and name not in work.own_values}
    if work.faults:
        return
    for glob in dict.fromkeys(work.globs.values()):
        if glob not in acting and glob not in faulty:
            work.faults.append(
                f"donor.adapt: {glob!r} changes nothing: every tensor that it covers fits or is skipped; try without"
            )
