"""The forms of the files in a run's folder, which may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from graft.config.choices import Resize, TaskKind
from graft.config.faults import InputError
from graft.system.documents import Malformed, read_json
from graft.system.forms import (
    Form,
    any_of,
    by_name,
    each,
    fields,
    flag,
    number,
    one_of,
    optional,
    text,
    whole,
)

NAME = text(1000)
SIZE = whole(1, 65536)
CLASSES = 1_000_000
FIGURE = optional(number())
NUMBERS = by_name(FIGURE)
PARTS = ("train", "val", "test")
SPREAD = ("mean", "std", "lowest", "highest")
"""What a plan says of the numbers of each part."""

SPAN = fields({
    "start_epoch": number(0), "start_step": whole(), "stop_step": whole(), "frozen": NAME, "frozen_stages": each(NAME),
    "factor": number(),
})  # fmt: skip
TASK = fields({"kind": one_of(*(kind.value for kind in TaskKind))}, needed=("kind",))
INTERVAL = fields({"value": FIGURE, "low": FIGURE, "high": FIGURE, "level": FIGURE, "method": NAME})
PREPROCESS = fields(
    {
        "image_size": whole(1, 8192),
        "crop_fraction": number(0.01, 1),
        "interpolation": one_of("bilinear", "bicubic", "nearest"),
        "mean": each(number(-1e6, 1e6), 1, 1024),
        "std": each(number(1e-6, 1e6), 1, 1024),
        "channels": whole(1, 1024),
        "reduced_jpeg": flag,
        "resize": one_of(*(resize.value for resize in Resize)),
    },
    needed=("image_size", "crop_fraction", "interpolation", "mean", "std"),
)
SKIPPED = each(fields({"path": text(), "reason": text()}))
DATA = fields({
    "kind": NAME, "classes": each(NAME, most=CLASSES), "skipped": SKIPPED,
    "parts": by_name(by_name(whole())), "images": by_name(whole()),
    "values": by_name(by_name(fields(dict.fromkeys(SPREAD, number()), SPREAD))),
})  # fmt: skip
DONOR = fields({name: optional(text()) for name in ("source", "sha256", "format", "licence")})
CALIBRATION = optional(fields({"temperature": number(1e-6, 1e6), "images": whole(), "reason": optional(text())}))
HEAD = fields({
    "solver": NAME, "features": NAME, "penalty": FIGURE, "chosen_by": NAME, "neighbours": FIGURE, "returned": flag,
    "path": each(fields({"penalty": number(), "loss": FIGURE, "train_loss": FIGURE, "epoch": number(0)}, ("penalty",))),
    "measured": each(
        fields(
            {"features": NAME, "head": text(), "loss": FIGURE, "crop_fraction": number(0.01, 1)}, ("features", "head")
        )
    ),
    "start": optional(fields({f"{part}/{name}": FIGURE for part in PARTS for name in ("loss", "accuracy")})),
    "fine_tuned": optional(fields({})),
})  # fmt: skip

METRICS = fields({
    "parameters": whole(), "epochs": number(0), "best_epoch": optional(number(0)), "steps": whole(),
    "train/seconds": number(0), "train/images_per_second": FIGURE, "lr": FIGURE,
    "frozen_verified": optional(flag), "frozen_statistics_moved": whole(), "pruned": flag,
    "phases": each(SPAN), "left_out": by_name(each(NAME)), "intervals": by_name(INTERVAL),
    "calibration": CALIBRATION, "confusion": by_name(each(each(whole()))), "head": optional(HEAD),
    "profile": optional(NUMBERS), "seconds": optional(NUMBERS), "seconds_to_first_step": FIGURE,
    "precision": by_name(NAME),
    "by": by_name(by_name(each(fields({"value": any_of(text(), FIGURE), "images": whole()}, ("value", "images"))))),
    "threshold": optional(fields({
        "positive": NAME, "probability": number(0, 1), "parts": by_name(fields({})),
    })),
    "folds": optional(fields({})),
})  # fmt: skip
PLAN = fields({
    "backbone": NAME, "classes": each(NAME, most=CLASSES), "task": TASK, "data": DATA, "preprocess": PREPROCESS,
    "head": fields({"kind": NAME}), "donor": DONOR, "epochs": number(0), "batch_size": whole(1), "steps": whole(),
    "steps_per_epoch": whole(), "thaw_warmup_steps": whole(), "phases": each(SPAN),
    "stages": each(fields({"name": NAME, "parameters": whole(), "buffers": whole(), "frozen": flag}, ("name",))),
    "parameters": by_name(whole()), "methods": each(text()),
    "metrics": each(NAME), "decided": optional(fields({"rule": text()}, ("rule",))),
    "groups": each(fields({"name": NAME, "stage": NAME, "rates": optional(each(optional(each(FIGURE))))})),
})  # fmt: skip
LEDGER = fields({
    "donor": DONOR, "summary": by_name(number()), "remarks": each(text()),
    "tensors": each(fields({
        "target": text(), "verdict": NAME, "source": optional(text()), "rule": optional(text()),
        "shape": each(whole()), "dtype": NAME, "reason": optional(text()),
    }, ("target", "verdict"))),
    "donor_tensors": each(fields({"source": text(), "status": NAME, "reason": optional(text())})),
})  # fmt: skip
DRIFT = fields({
    "since": text(),
    "stages": each(fields(
        {"stage": NAME, "change": number(0), "moved": whole(), "tensors": whole(), "largest": text(),
         "largest_change": number(0)},
        ("stage", "change", "moved", "tensors", "largest", "largest_change"),
    )),
})  # fmt: skip
RATE_SEARCH = fields({
    "rates": each(number()), "losses": each(FIGURE), "smoothed": each(FIGURE), "suggestion": FIGURE,
})  # fmt: skip
FILES = frozenset({
    "cache_dir", "checkpoint_path", "checkpoint", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "weights", "weights_backbone",
})  # fmt: skip
"""Arguments by which the libraries open files or download: a model's record, which brings its weights, has none."""


def no_files(value: Any) -> str:
    """The arguments of a network's constructor, of which none makes it read a file."""
    if fault := fields({})(value):
        return fault
    named = sorted(FILES.intersection(value))
    return f"arguments that open no files, received {named[0]}" if named else ""


BUILD = fields(
    {
        "library": one_of("torchvision", "timm", "custom"), "name": NAME, "kwargs": no_files,
        "num_classes": whole(0, CLASSES), "channels": whole(1, 1024), "altered": optional(fields({})),
    },
    needed=("library", "name", "kwargs", "num_classes", "channels"),
)  # fmt: skip
MODEL = fields({
    "format": whole(), "made_by": NAME, "classes": each(any_of(NAME, number()), most=CLASSES), "task": TASK,
    "build": BUILD,
    "head": fields({"kind": NAME}), "stages": by_name(each(NAME)), "heads": each(NAME), "preprocess": PREPROCESS,
    "donor": DONOR, "freeze": fields({"expression": NAME, "unfreeze": NAME, "phases": each(SPAN)}), "data": DATA,
    "metrics": by_name(any_of(FIGURE, fields({}), each(FIGURE), flag, text())), "intervals": by_name(INTERVAL),
    "left_out": by_name(each(NAME)), "calibration": CALIBRATION, "command": optional(text()),
    "tensors": fields({"summary": by_name(whole()), "each": by_name(fields({}))}),
    "weights": fields({"file": NAME, "sha256": NAME}),
})  # fmt: skip
FORMS: Mapping[str, Form] = {
    "metrics.json": METRICS,
    "plan.json": PLAN,
    "transfer.json": LEDGER,
    "drift.json": DRIFT,
    "lr_find.json": RATE_SEARCH,
    "model.json": MODEL,
}


def read_document(path: Path) -> dict[str, Any]:
    """A run's file of this name, in its form; empty where there is none.

    Raises:
        InputError: no JSON object, too large, too deep, or with values that graft does not write.
    """
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except Malformed as error:
        raise InputError(f"{path}: expected JSON, received something else ({error}); try the run again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, received a {type(value).__name__}; try the run again")
    if fault := FORMS.get(path.name, fields({}))(value) or _figure_fault(path, cast("dict[str, Any]", value)):
        raise InputError(f"{path}: expected {fault}; try the run again")
    return cast("dict[str, Any]", value)


def _figure_fault(path: Path, values: Mapping[str, Any]) -> str:
    """Of metrics.json: what is called part/figure is a number or null."""
    if path.name != "metrics.json":
        return ""
    named = ((name, value) for name, value in values.items() if name.partition("/")[0] in PARTS and "/" in name)
    return next((f"{fault} (under {name[:80]})" for name, value in named if (fault := FIGURE(value))), "")
