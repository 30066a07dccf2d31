"""The origin of the weights and how far they moved; the data; the time spent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from graft.data.corrections import in_words
from graft.page.elements import Html, bar, breakable, details, element, join, section, table
from graft.page.words import count, duration, percent
from graft.report.record import RunRecord
from graft.results.run_forms import SPREAD

VERDICTS = {"copied": "--c3", "renamed": "--c1", "adapted": "--c4", "initialized": "--c2"}


def origin(record: RunRecord) -> Html:
    return section("Where the weights came from", _ledger(record.ledger), _drift(record))


def _ledger(ledger: dict[str, Any]) -> Html:
    summary, tensors = ledger.get("summary", {}), ledger.get("tensors", [])
    donor = ledger.get("donor", {})
    if not summary:
        return Html("")
    counts = {verdict: int(summary.get(verdict, 0)) for verdict in VERDICTS}
    total = max(1, sum(counts.values()))
    stack = element(
        "div",
        *(
            element("span", style=f"width:{100 * n / total:.2f}%;background:var({VERDICTS[v]})")
            for v, n in counts.items()
            if n
        ),
        class_="stack",
        role="img",
        aria_label="Tensors by verdict: " + ", ".join(f"{n} {v}" for v, n in counts.items() if n),
    )
    keys = element(
        "ul",
        *(
            element("li", element("i", style=f"background:var({VERDICTS[v]})"), f"{n:,} {v}")
            for v, n in counts.items()
            if n
        ),
        class_="keys",
    )
    facts = [f"{name}: {donor[name]}" for name in ("source", "format", "sha256") if donor.get(name)]
    return join((
        element("h3", f"Ledger: {count(len(tensors) or total, 'tensor')}"),
        stack,
        keys,
        element("p", "Donor ", join(f"{' · '.join(facts)}"), class_="muted") if facts else "",
        *(element("p", remark, class_="muted") for remark in ledger.get("remarks", [])),
        _every_tensor(tensors),
        _every_donor_tensor(ledger.get("donor_tensors", [])),
    ))  # fmt: skip


def _every_tensor(tensors: Sequence[dict[str, Any]]) -> Html:
    if not tensors:
        return Html("")
    rows = [
        [
            entry.get("target", ""),
            entry.get("verdict", ""),
            "×".join(map(str, entry.get("shape", ()))) or "scalar",
            entry.get("dtype", ""),
            entry.get("source") or "–",
            "; ".join(filter(None, (entry.get("rule"), entry.get("reason")))) or "–",
        ]
        for entry in tensors
    ]
    headers = ["target", "verdict", "shape", "dtype", "donor's name", "rule, reason"]
    listed = table(headers, rows, caption="Every tensor of the network", numbers=False, sortable=True)
    return details(f"Every tensor ({len(rows):,})", element("div", listed, class_="tall"))


def _every_donor_tensor(entries: Sequence[dict[str, Any]]) -> Html:
    excused = [entry for entry in entries if entry.get("status") == "excused"]
    if not excused:
        return Html("")
    rows = [[entry.get("source", ""), entry.get("reason", "")] for entry in excused]
    listed = table(["donor's tensor", "why"], rows, caption="Donor tensors left unused", numbers=False)
    return details(f"Donor tensors left unused ({len(rows):,})", element("div", listed, class_="tall"))


def _drift(record: RunRecord) -> Html:
    stages = record.drift.get("stages", [])
    if not stages:
        return Html("")
    largest = max((row["change"] for row in stages), default=0) or 1
    rows = [
        [
            row["stage"],
            bar(row["change"] / largest, percent(row["change"]) if row["change"] else "unmoved"),
            f"{row['moved']:,} of {row['tensors']:,}",
            join((breakable(row["largest"]), f" ({percent(row['largest_change'])})")) if row["change"] else "–",
        ]
        for row in stages
    ]
    since = "what was injected" if record.drift.get("since") == "donor" else record.drift.get("since")
    caption = f"How far each stage moved from {since}: |after − before| over |before|, L2"
    headers = ["stage", "change", "tensors that moved", "moved most"]
    return element("div", table(headers, rows, caption=caption), class_="card", style="margin-top:18px")


def data(record: RunRecord) -> Html:
    listed = _classes(record.data, record.classes) or _numbers(record.data)
    skipped: Sequence[dict[str, Any]] = record.data.get("skipped", [])
    if not listed:
        return Html("")
    left = [[entry.get("path", ""), entry.get("reason", "")] for entry in skipped]
    corrected = in_words(record.data.get("corrections"))
    none = "No file was unreadable." if corrected else "No file was left out."
    sentence = f"{count(len(skipped), 'unreadable file')} left out." if skipped else none
    return section(
        "Data",
        element("div", listed, class_="card tall"),
        element("p", " ".join([sentence, *(f"{line}." for line in corrected)]), style="margin-top:12px"),
        details(f"Files left out ({len(left):,})", table(["file", "why"], left, caption="Why", numbers=False))
        if left
        else "",
    )


def _classes(summary: Mapping[str, Any], classes: Sequence[str]) -> Html:
    parts: Mapping[str, Mapping[str, int]] = summary.get("parts", {})
    if not parts:
        return Html("")
    images = summary.get("images") or {name: sum(part.values()) for name, part in parts.items()}
    rows = [[name, *(f"{part.get(name, 0):,}" for part in parts.values())] for name in classes]
    rows.append(["all", *(f"{number:,}" for number in images.values())])
    return table(["class", *parts], rows, caption="Images by part")


def _numbers(summary: Mapping[str, Any]) -> Html:
    """For regression, the distribution of each number in each part."""
    images: Mapping[str, int] = summary.get("images", {})
    values: Mapping[str, Mapping[str, Mapping[str, float]]] = summary.get("values", {})
    rows = [
        [f"{name}, {part}", f"{images[part]:,}", *(f"{spread[key]:.4g}" for key in SPREAD)]
        for part, numbers in values.items()
        for name, spread in numbers.items()
    ]
    return table(["number, part", "images", *SPREAD], rows, caption="Numbers by part") if rows else Html("")


def time_spent(record: RunRecord) -> Html:
    times, shares = _shares(record.metrics.get("seconds")), _shares(record.metrics.get("profile"))
    if not times:
        return Html("")
    total = sum(times.values()) or 1
    rows = [[name, bar(value / total, duration(value)), percent(value / total)] for name, value in times.items()]
    rows.append(["together", duration(sum(times.values())), ""])
    first = record.metrics.get("seconds_to_first_step")
    sentence = f"The first step began {duration(first)} after the command." if isinstance(first, int | float) else ""
    return section(
        "Time by stage",
        element(
            "div", table(["stage", "time", "share"], rows, caption="From the command to the report"), class_="card"
        ),
        element("p", sentence, style="margin-top:12px") if sentence else "",
        element(
            "div",
            table(
                ["in training", "share"],
                [[name, bar(share, percent(share))] for name, share in shares.items()],
                caption="Where the training epochs' time went, evaluation after each included",
            ),
            class_="card", style="margin-top:18px",
        ) if shares else "",
    )  # fmt: skip


def _shares(content: object) -> dict[str, float]:
    pairs = content.items() if isinstance(content, dict) else ()
    return {str(name): float(value) for name, value in pairs if isinstance(value, int | float)}


def settings(record: RunRecord) -> Html:
    parts = [
        details("Config", element("pre", element("code", record.config))) if record.config else "",
        details("metrics.json", element("pre", element("code", json.dumps(record.metrics, indent=1))))
        if record.metrics
        else "",
    ]
    return section("Settings", *parts) if any(parts) else Html("")
