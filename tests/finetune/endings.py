"""What a finished run leaves in its checkpoints, so that two compare by ==, bit for bit."""

from pathlib import Path
from typing import Any

import torch

TIMES = {"seconds", "images_per_second", "clock"}


def plain(value: Any) -> Any:
    """Tensors as their bytes, without what the clock says."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def whole(folder: Path) -> dict[str, Any]:
    """All but what callbacks keep, Lightning's counts of progress among it."""
    found: dict[str, Any] = {}
    for name in ("last.ckpt", "best.ckpt"):
        saved = torch.load(folder / "checkpoints" / name, weights_only=True)
        found[name] = {key: plain(value) for key, value in saved.items() if key != "callbacks"}
    return found


def ending(folder: Path) -> dict[str, Any]:
    """What must be the same however often the run was stopped and went on."""
    return {
        name: {
            "weights": saved["state_dict"],
            "optimizer": saved["optimizer_states"],
            "scheduler": saved["lr_schedulers"],
            **{key: saved["graft"].get(key) for key in ("history", "watch", "average")},
        }
        for name, saved in whole(folder).items()
    }
