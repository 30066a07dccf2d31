"""A transfer with its whole account, beside the plain loading of the same file into the same model."""

from __future__ import annotations

from pathlib import Path

from graft.benchmark.case import Case
from graft.config.faults import InputError, nearest

TIME_LIMIT = 1.3
MEMORY_LIMIT = 1.2


def make(model: str, folder: Path) -> Case:
    """A safetensors file of a torchvision model, into another instance of it.

    Raises:
        InputError: torchvision has no such model.
    """
    from safetensors.torch import load_file, save_file
    from torchvision import models

    from graft.transfer import transfer

    known = models.list_models(module=models)
    if model not in known:
        near = nearest(model, known) or ["resnet50"]
        raise InputError(f"--model: expected a model of torchvision's, received {model!r}; try {', '.join(near)}")
    file = folder / f"{model}.safetensors"
    options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    save_file(models.get_model(model, weights=None, **options).state_dict(), file)
    target = models.get_model(model, weights=None, **options)
    return Case(
        what=f"{model} from safetensors, {file.stat().st_size / 1e6:.1f} MB, into a live model",
        ours=lambda: transfer(file, target),
        reference=lambda: target.load_state_dict(load_file(file), strict=True),
        ours_name="graft.transfer",
        reference_name="load_file + load_state_dict",
        limit=TIME_LIMIT,
        size=file.stat().st_size,
        memory_limit=MEMORY_LIMIT,
    )
