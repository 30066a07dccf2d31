"""The model card: README.md beside the exported weights, for readers who do not have the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.config.choices import Library, TaskKind
from graft.config.figures import FIGURES
from graft.data.corrections import in_words as in_words_of_corrections
from graft.models.stage_head import head_in_words
from graft.page.words import measured
from graft.results.left_out import in_words
from graft.results.resampling import BOOTSTRAP

TITLES = {figure.name: figure.title for figures in FIGURES.values() for figure in figures}
FILE = "README.md"
WHOLE = "model.safetensors"  # the name of the weights in a model folder, which graft.load can open
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
outputs = model(model.preprocess("image.png")[None])
print(dict(zip(model.classes, model.answers(outputs)[0].tolist())))  # {answers}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """The words for a task in its model card."""

    names: str
    """The noun for the outputs, in the plural."""
    does: str
    answers: str
    """What `model.answers` returns."""
    tags: tuple[str, ...]
    """Tags of the Hugging Face hub. The first is also the pipeline's if `is_pipeline`."""
    is_pipeline: bool = True


PURPOSES: Mapping[TaskKind, Purpose] = {
    TaskKind.single_label: Purpose(
        names="classes",
        does="Image classification: one of {count} classes for each image.",
        answers="the probability of each class",
        tags=("image-classification",),
    ),
    TaskKind.multi_label: Purpose(
        names="labels",
        does="Image classification: any of {count} labels for each image, each with a probability of its own.",
        answers="the probability of each label",
        tags=("image-classification", "multi-label"),
    ),
    TaskKind.regression: Purpose(
        names="numbers",
        does="Image regression: {count} numbers for each image.",
        answers="each number in its units",
        tags=("image-regression",),
        is_pipeline=False,
    ),
}


def model_card(record: Mapping[str, Any]) -> str:
    """Renders model.json as Markdown, with front matter for the Hugging Face hub."""
    build, classes, task = record["build"], record["classes"], record.get("task") or {"kind": "single_label"}
    purpose = PURPOSES[TaskKind(task["kind"])]
    parts = [
        _front_matter(build, purpose),
        f"# {build['name']}: {_listed(classes) if len(classes) <= 4 else f'{len(classes)} {purpose.names}'}",
        f"{purpose.does.format(count=len(classes))} The network is {_owner(build)}`{build['name']}` with a "
        f"`{record['head']['kind']}` head. {head_in_words(record['head'], build)}".rstrip(),
        _altered(build),
        _section(purpose.names.capitalize(), _outputs(classes, task)),
        _section(
            "Use", f"```python\n{USE.format(answers=purpose.answers)}```" if record["weights"]["file"] == WHOLE else ""
        ),
        _section("Preprocessing", _table(("setting", "value"), _preprocessing(record["preprocess"]))),
        _section("Data", _data(record.get("data", {}))),
        _section("Donor", _table(("", ""), _donor(record.get("donor", {})))),
        _section("Freeze history", _freeze(record.get("freeze", {}))),
        _section(
            "Metrics",
            _metrics(record.get("metrics", {}), record.get("intervals", {}), record.get("left_out", {}), task["kind"]),
        ),
        _section("Calibration", _calibration(record.get("calibration"))),
        _section("Threshold", _threshold(record.get("threshold"))),
        _section("Command", f"```bash\n{record['command']}\n```" if record.get("command") else ""),
        _section("Birth certificate", _birth(record.get("tensors", {}))),
        f"Written by {record['made_by']}.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _owner(build: Mapping[str, Any]) -> str:
    return "built by " if build["library"] == Library.custom.value else f"{build['library']}'s "


def _front_matter(build: Mapping[str, Any], purpose: Purpose) -> str:
    lines = [f"pipeline_tag: {purpose.tags[0]}"] if purpose.is_pipeline else []
    lines += ["tags:", *(f"- {tag}" for tag in (*purpose.tags, "transfer-learning", "graft"))]
    if build["library"] == "timm":  # the hub has no library_name for torchvision
        lines.insert(0, "library_name: timm")
    return "\n".join(["---", *lines, "---"])


def _altered(build: Mapping[str, Any]) -> str:
    """The layers whose settings differ from those of the library's model of this name."""
    alike: dict[str, list[str]] = {}
    for layer, settings in build.get("altered", {}).items():
        alike.setdefault(", ".join(f"{name}: {value}" for name, value in settings.items()), []).append(layer)
    if not alike:
        return ""
    rows = [
        (_text(settings), f"{len(layers):,}", _listed(layers[:3]) + ", …" * (len(layers) > 3))
        for settings, layers in alike.items()
    ]
    text = (
        f"By `backbone.alter`, some layers are not set as {build['library']}'s model of that name has them: with the "
    )
    text += "same weights that model computes something else. `graft.load` sets them as below."
    return _section("Altered layers", f"{text}\n\n{_table(('set to', 'layers', 'which'), rows)}")


def _outputs(names: Sequence[str], task: Mapping[str, Any]) -> str:
    listed = "\n".join(f"{place}. {_text(name)}" for place, name in enumerate(names))
    if "std" not in task:
        return listed
    rows = [
        (_text(name), f"{std:.9g}", f"{mean:.9g}")
        for name, mean, std in zip(names, task["mean"], task["std"], strict=True)
    ]
    text = "The network gives each standardised, so that number = output × deviation + mean, as `model.answers` does."
    return f"{text}\n\n{_table(('number', 'deviation', 'mean'), rows)}"


def _preprocessing(preprocess: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    size = preprocess["image_size"]
    yield "size", f"{size} × {size} pixels, {preprocess['channels']} channels"
    if (resize := preprocess.get("resize", "crop")) == "crop":
        yield "centre crop", f"{preprocess['crop_fraction']:g} of the resized image's side"
    else:
        yield "whole image", str(resize)
    yield "interpolation", str(preprocess["interpolation"])
    if preprocess.get("reduced_jpeg"):
        yield "large JPEGs", "decoded at 1/2, 1/4 or 1/8 of their size where that leaves twice the resized image's side"
    yield "mean, after scaling to 0 … 1", _listed(f"{value:g}" for value in preprocess["mean"])
    yield "standard deviation", _listed(f"{value:g}" for value in preprocess["std"])


def _data(summary: Mapping[str, Any]) -> str:
    parts: Mapping[str, Mapping[str, int]] = summary.get("parts", {})
    images: Mapping[str, int] = summary.get("images", {})
    if not parts and not images:
        return ""
    names = list(dict.fromkeys(name for counts in parts.values() for name in counts))
    rows = [[_text(name), *(f"{counts.get(name, 0):,}" for counts in parts.values())] for name in names]
    whole = images or {part: sum(counts.values()) for part, counts in parts.items()}
    rows.append(["all", *(f"{number:,}" for number in whole.values())])
    left_out = len(summary.get("skipped", ()))
    note = f"\n\n{left_out:,} unreadable files were left out." if left_out else ""
    corrected = "".join(f"\n\n{_text(line)}." for line in in_words_of_corrections(summary.get("corrections")))
    header = ("class" if parts else "", *whole)
    return f"Images of `{summary.get('kind', 'data')}` by part:\n\n{_table(header, rows)}{note}{corrected}"


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
    shown = _table(("after epochs", "after steps", "frozen"), rows) if rows else ""
    line = f"`freeze={freeze.get('expression')}`, `unfreeze={freeze.get('unfreeze', 'never')}`."
    return "\n\n".join(filter(None, (line, shown, verified)))


def _metrics(
    metrics: Mapping[str, float | None],
    intervals: Mapping[str, Mapping[str, Any]],
    out: Mapping[str, Sequence[str]],
    task: str,
) -> str:
    rows: list[Sequence[str]] = []
    for name, value in metrics.items():
        part, _, metric = name.partition("/")
        interval = intervals.get(name)
        span = f"{measured(interval['low'], 4)} to {measured(interval['high'], 4)}" if interval else "–"
        by = _text(interval.get("method", BOOTSTRAP)) if interval else "–"
        rows.append((part, TITLES.get(metric, metric), measured(value, 4), span, by))
    if not rows:
        return ""
    note = (
        "The intervals tell what other images of the same kind might give, not what another seed might; those of "
        "proportions are Wilson's, the others come from resampling the images. The epoch was chosen on val."
    )
    shown = _table(("part", "metric", "value", "95 % interval", "by"), rows)
    return "\n\n".join([shown, *(f"{_text(line)}." for line in in_words(out, TaskKind(task))), note])


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    if not calibration:
        return ""
    if calibration["reason"]:
        return f"Probabilities are the softmax or sigmoid of plain logits, not calibrated: {calibration['reason']}."
    rows = [
        (part, *(f"{error[name]:.3f}" for name in ("before", "after", "chance")))
        for part, error in calibration.get("ece", {}).items()
    ]
    text = (
        f"`model.answers` divides the logits by {calibration['temperature']:.6g}, a temperature fitted on"
        f" {calibration['images']:,} images of val. Programs that use the logits of an export must do the same. The"
        " expected calibration error, in 15 bins of equal width, beside that of exact probabilities of so many images:"
    )
    return f"{text}\n\n{_table(('part', 'before', 'after', 'by chance'), rows)}"


def _threshold(threshold: Mapping[str, Any] | None) -> str:
    if not threshold:
        return ""
    rule = (
        f"at least {threshold['sensitivity']:g} of its images are found"
        if threshold["sensitivity"] is not None
        else f"mistakes cost least, where a miss costs {threshold['cost']:g} false alarms"
    )
    rows = [
        (part, *(measured(counts[name], 4) for name in ("sensitivity", "specificity")))
        for part, counts in threshold["parts"].items()
    ]
    text = (
        f"`graft predict` names {_text(threshold['positive'])} from a probability of {threshold['probability']:.6g}, so"
        f" that on val {rule}. The metrics above are of the likeliest class."
    )
    return f"{text}\n\n{_table(('part', 'sensitivity', 'specificity'), rows)}"


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
    """On one line, with the special characters of Markdown and HTML escaped."""
    plain = " ".join(str(value).split())
    for sign in ("\\", "|", "`", "*", "_", "[", "]"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain.replace("&", "&amp;").replace("<", "&lt;")
