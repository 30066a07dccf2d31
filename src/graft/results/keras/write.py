"""`graft export --format keras`: a Keras file of architecture and weights, proven both ways before it counts."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.config.faults import InputError, RunFailed
from graft.models.stages import is_counter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graft.results.model import OpenedModel

WEIGHTS_ONLY = ".weights.h5"


def write_keras(opened: OpenedModel, path: Path) -> None:
    """A .keras file (or, by its name, .weights.h5) of images [N, H, W, C], normalised as model.json says, to logits.

    Its logits must be the network's, and read back as a donor it must give the network's tensors bit by bit.
    """
    import torch

    from graft.results.agree import check_same
    from graft.results.keras.graph import keras_model
    from graft.results.keras.layers import Unmapped
    from graft.system.files import atomic_path

    suffix = WEIGHTS_ONLY if path.name.endswith(WEIGHTS_ONLY) else ".keras"
    if not path.name.endswith(suffix):
        raise InputError(f"--output: expected a name that ends in .keras or {WEIGHTS_ONLY}, received {path}")
    keras, settings = _import_keras(), opened.preprocess.settings
    try:
        shape = (settings.channels, settings.image_size, settings.image_size)
        model, flatten = keras_model(keras, opened.module, shape)
    except Unmapped as error:
        raise InputError(
            f"--format keras: expected a network of layers that Keras has, received {opened.record['build']['name']} "
            f"with {error}; try --format onnx or torch-export"
        ) from error

    def logits(images_NCHW: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = model(images_NCHW.permute(0, 2, 3, 1).numpy(), training=False)
        return torch.from_numpy(keras.ops.convert_to_numpy(outputs).copy())

    check_same(opened, logits, "keras")
    with atomic_path(path) as temporary:
        named = temporary.with_name(f"{temporary.name}{suffix}")  # Keras takes no other names
        try:
            model.save_weights(named) if suffix == WEIGHTS_ONLY else model.save(named)
            check_bits(opened.module, named, flatten)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)


def check_bits(module: nn.Module, path: Path, flatten: dict[str, int]) -> None:
    """Raises RunFailed unless the donor reader gives back every tensor of the module, bit by bit.

    Args:
        flatten: what `donor.keras.flatten` must be told where the file is one of weights alone.
    """
    import torch

    from graft.config.schema import KerasConfig
    from graft.results.keras.graph import DOT
    from graft.transfer.donors import open_donor

    state = {name: value.cpu() for name, value in module.state_dict().items() if not is_counter(name)}
    options = flatten if path.name.endswith(WEIGHTS_ONLY) else {}
    with open_donor(path, keras=KerasConfig(accept=["padding", "strides", "bgr"], flatten=options)) as donor:
        read = {name.replace(DOT, "."): donor.read(name) for name in donor.infos}
    wrong = [
        name
        for name in {**state, **read}
        if name not in state or name not in read or not torch.equal(state[name], read[name])
    ]
    if wrong:
        raise RunFailed(
            f"--format keras: expected the network's tensors when the file is read back, received others for "
            f"{len(wrong)} of {len(state)} ({', '.join(sorted(wrong)[:3])}); nothing was written"
        )


def _import_keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import_module("h5py")
        return import_module("keras")
    except ImportError as error:
        raise InputError(
            f"--format keras: expected the packages keras and h5py, received: {error}; "
            "try pip install 'graft-transfer[keras-export]'"
        ) from error
