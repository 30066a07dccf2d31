"""The settings that a resumed run must share with the one that wrote the checkpoint, besides those of the training
itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from graft.config.choices import HeadKind
from graft.data.table import PARTS
from graft.plan.plan import Plan


def shared(plan: Plan) -> dict[str, Any]:
    """Plain values that affect the result of a step, each with a name that users recognise."""
    config, table, preprocess = plan.config, plan.table, plan.network.preprocess
    augment = {f"augment.{name}": value for name, value in asdict(config.augment).items() if name != "name"}
    stored = [config.cache.dtype, config.cache.views] if plan.cache.outputs else None
    files = {"exclude": table.corrections.exclude, "relabel": table.corrections.relabel}
    parts = ", ".join(f"{len(table.part(part)):,} {part}" for part in PARTS)
    return {
        "images, labels and their parts": f"{parts} ({table.division()})",
        **{f"data.{name}": file and f"{file.file} (SHA-256 {file.sha256})" for name, file in files.items()},
        "data.image_size": preprocess.image_size,
        "data.crop_fraction": preprocess.crop_fraction,
        "data.resize": preprocess.resize,
        "data.channels": preprocess.channels,
        "data.reduced_jpeg": preprocess.reduced_jpeg,
        "interpolation, mean and std": [preprocess.interpolation, list(preprocess.mean), list(preprocess.std)],
        "data.balanced": config.data.balanced,
        **augment,
        "features kept after": [[output.cut, *(output.epochs or ())] for output in plan.cache.outputs],
        "cache.dtype and cache.views": stored,
        "how kept features are computed": plan.cache.computed,
        "how frozen stages run": plan.cache.prefix,
        "backbone.drop_path": config.backbone.drop_path,
        "backbone.drop_rate": config.backbone.drop_rate,
        "head.dropout": config.head.dropout,
        "head.pool and head.taps": [config.head.pool, config.head.taps.value]
        if config.head.kind is HeadKind.stages
        else None,
        "trainer.clip_norm": config.trainer.clip_norm,
    }
