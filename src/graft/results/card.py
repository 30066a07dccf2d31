"""The model card: README.md beside exported weights, for people who meet the model without its run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graft.results.intervals import METRICS

FILE = "README.md"
WHOLE = "model.safetensors"  # where graft.load finds everything that it needs beside it
NOT_STATED = "not stated by its source"
ORIGINS = {
    "copied": "the donor's values under the same name",
    "renamed": "the donor's values under another name",
    "adapted": "the donor's values, changed by the rule that the certificate names",
    "initialized": "fresh: from no donor",
    "unknown": "not in the ledger",
}
USE = """\
import graft

model = graft.load("FOLDER")  # this folder
logits = model(model.preprocess("image.png")[None])
print(model.classes[logits.argmax().item()])
"""


def model_card(record: Mapping[str, Any]) -> str:
    """model.json as Markdown that Hugging Face's hub reads too."""
    build, classes = record["build"], record["classes"]
    parts = [
        _front_matter(build),
        f"# {build['name']}: {_listed(classes) if len(classes) <= 4 else f'{len(classes)} classes'}",
        f"Image classification: one of {len(classes)} classes for each image. The network is {build['library']}'s "
        f"`{build['name']}` with a `{record['head']['kind']}` head.",
        _section("Classes", "\n".join(f"{place}. {_text(name)}" for place, name in enumerate(classes))),
        _section("Use", f"```python\n{USE}```" if record["weights"]["file"] == WHOLE else ""),
        _section("Preprocessing", _table(("setting", "value"), _preprocessing(record["preprocess"]))),
        _section("Data", _data(record.get("data", {}))),
        _section("Donor", _table(("", ""), _donor(record.get("donor", {})))),
        _section("Freeze history", _freeze(record.get("freeze", {}))),
        _section("Metrics", _metrics(record.get("metrics", {}), record.get("intervals", {}))),
        _section("Command", f"```bash\n{record['command']}\n```" if record.get("command") else ""),
        _section("Birth certificate", _birth(record.get("tensors", {}))),
        f"Written by {record['made_by']}.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(build: Mapping[str, Any]) -> str:
    lines = ["pipeline_tag: image-classification", "tags:", "- image-classification", "- transfer-learning", "- graft"]
    if build["library"] == "timm":  # the hub knows no such entry for torchvision
        lines.insert(0, "library_name: timm")
    return "\n".join(["---", *lines, "---"])


def _preprocessing(told: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    size = told["image_size"]
    yield "size", f"{size} × {size} pixels, {told['channels']} channels"
    yield "centre crop", f"{told['crop_fraction']:g} of the resized image's side"
    yield "interpolation", str(told["interpolation"])
    yield "mean, after scaling to 0 … 1", _listed(f"{value:g}" for value in told["mean"])
    yield "standard deviation", _listed(f"{value:g}" for value in told["std"])


def _data(told: Mapping[str, Any]) -> str:
    parts: Mapping[str, Mapping[str, int]] = told.get("parts", {})
    if not parts:
        return ""
    names = list(dict.fromkeys(name for counts in parts.values() for name in counts))
    rows = [[_text(name), *(f"{counts.get(name, 0):,}" for counts in parts.values())] for name in names]
    rows.append(["all", *(f"{sum(counts.values()):,}" for counts in parts.values())])
    left_out = len(told.get("skipped", ()))
    note = f"\n\n{left_out:,} unreadable files were left out." if left_out else ""
    return f"Images of `{told.get('kind', 'data')}` by part:\n\n{_table(('class', *parts), rows)}{note}"


def _donor(donor: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "source", _text(donor.get("source") or "none")
    yield "format", _text(donor.get("format") or "none")
    yield "SHA-256", f"`{donor['sha256']}`" if donor.get("sha256") else "none"
    yield "licence", _text(donor.get("licence") or NOT_STATED)


def _freeze(freeze: Mapping[str, Any]) -> str:
    phases: Sequence[Mapping[str, Any]] = freeze.get("phases", ())
    verified = {
        True: "Proven by hash: what was frozen throughout is bit-identical to what was injected.",
        False: "**The proof failed: frozen tensors moved.**",
        None: "Nothing was frozen throughout, so there was nothing to prove.",
    }[freeze.get("verified")]
    rows = [
        (f"{phase['start_epoch']:g}", f"{phase['start_step']:,}", _listed(phase["frozen_stages"]) or "nothing")
        for phase in phases
    ]
    shown = _table(("from epoch", "from step", "frozen"), rows) if rows else ""
    asked = f"`freeze={freeze.get('expression')}`, `unfreeze={freeze.get('unfreeze', 'never')}`."
    return "\n\n".join(filter(None, (asked, shown, verified)))


def _metrics(metrics: Mapping[str, float], intervals: Mapping[str, Mapping[str, float]]) -> str:
    rows: list[Sequence[str]] = []
    for name, value in metrics.items():
        part, _, metric = name.partition("/")
        told = intervals.get(name)
        span = f"{told['low']:.4f} to {told['high']:.4f}" if told else "–"
        rows.append((part, METRICS.get(metric, metric), f"{value:.4f}", span))
    if not rows:
        return ""
    note = (
        "The intervals come from resampling the images (percentile bootstrap): they tell what other images of the same "
        "kind might give, not what another seed might. The epoch was chosen on val."
    )
    return f"{_table(('part', 'metric', 'value', '95 % interval'), rows)}\n\n{note}"


def _birth(tensors: Mapping[str, Any]) -> str:
    counts: Mapping[str, int] = tensors.get("summary", {})
    if not counts:
        return ""
    rows = [
        (f"{number:,}", origin, ORIGINS.get(origin, ""), state)
        for pair, number in counts.items()
        for origin, _, state in [pair.partition(", ")]
    ]
    shown = _table(("tensors", "origin", "meaning", "in training"), rows)
    return f"{shown}\n\nThe `.json` beside this card names every tensor, under `tensors.each`."


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(_text(value) for value in values)


def _text(value: object) -> str:
    """On one line, with what Markdown and HTML would take for their own made harmless."""
    plain = " ".join(str(value).split())
    for sign in ("\\", "|", "`", "*", "_", "[", "]"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain.replace("&", "&amp;").replace("<", "&lt;")
