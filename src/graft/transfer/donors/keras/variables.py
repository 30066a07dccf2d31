"""Lists the variables in a Keras file layer by layer, whatever the file's layout."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graft.transfer.donors.keras.hdf5 import Hdf5

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies", "layer_checkpoint_dependencies")
_NO_WEIGHTS = ("optimizer", "optimizer_weights", "metrics", "seed_generator")
_SPELLINGS = {
    "W": "kernel",
    "b": "bias",
    "depthwise_weights": "depthwise_kernel",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
"""Names in older versions; Keras 1 called the variance running_std, although it was a variance."""


@dataclass(slots=True, kw_only=True)
class FileLayer:
    """A layer's variables as stored in the file."""

    layer: str
    """Path through nested models, joined by dots."""
    hint: str
    """The class as in the file's paths, or a layer's name that usually begins with it."""
    datasets: list[str]
    """Paths of its datasets, in Keras' order."""
    names: list[str] | None
    """Keras' names of the variables (kernel, bias, …), if the file contains them."""
    within: tuple[str, ...] = ()
    """The nested models that contain it."""


def layers_of_file(file: Hdf5) -> tuple[list[FileLayer], list[str]]:
    """The layers with variables, and remarks on what was left out. Empty if Keras did not write the file."""
    root = next((group for group in ("", "model_weights") if file.texts(group, "layer_names") is not None), None)
    file_layers = _by_paths(file) if root is None else _by_attributes(file, root)
    datasets = {dataset for layer in file_layers for dataset in layer.datasets}
    beside = [path for path in (*file.datasets, *file.others) if path not in datasets]
    remarks = [f"left out: {len(beside)} datasets that are no weights ({beside[0]}, …)"] if beside else []
    return file_layers, remarks


def _by_attributes(file: Hdf5, root: str) -> list[FileLayer]:
    """The legacy .h5 layout: one group per layer, which lists its weights by name."""
    file_layers: list[FileLayer] = []
    for top in file.texts(root, "layer_names") or []:
        group = f"{root}/{top}".lstrip("/")
        layers: dict[str, FileLayer] = {}
        for weight in file.texts(group, "weight_names") or []:
            dataset = f"{group}/{weight}"
            if dataset not in file.datasets:
                raise KeyError(f"{dataset}, which the file's own list of weights names")
            *path, variable = weight.split("/")
            nested = _nested(top, path)
            name, hint = ".".join(nested), path[-1] if path else top
            layer = layers.setdefault(
                name, FileLayer(layer=name, hint=hint, datasets=[], names=[], within=tuple(nested[:-1]))
            )
            layer.datasets.append(dataset)
            assert layer.names is not None
            layer.names.append(_variable(variable, path[-1] if path else top))
        file_layers.extend(layers.values())
    return file_layers


def _nested(top: str, path: list[str]) -> list[str]:
    """`model/outer/inner/kernel` in the group `outer` belongs to `outer.inner`; `conv/kernel:0` in `outer` likewise."""
    own = top.split("/")  # a layer's name may hold slashes itself
    places = [place + len(own) for place in range(len(path)) if path[place : place + len(own)] == own]
    return [top, *(path[places[0] :] if places else path)]


def _variable(name: str, layer: str) -> str:
    """`kernel:0`, `kernel_1:0` and Keras 1's `conv_W:0`, without prefixes and suffixes."""
    bare = re.sub(r"(_\d+)?:\d+$", "", name).removeprefix(f"{layer}_")
    return _SPELLINGS.get(bare, bare)


def _by_paths(file: Hdf5) -> list[FileLayer]:
    """The layout of .weights.h5 and .keras: `layers/conv2d_1/vars/0`, with the layer's name as an attribute."""
    file_layers: dict[str, FileLayer] = {}
    for path in file.datasets:
        *where, marker, number = path.split("/") if path.count("/") >= 1 else ["", path]
        if marker != "vars" or not number.isdigit() or any(part in _NO_WEIGHTS for part in where):
            continue
        group = "/".join(where)
        if group not in file_layers:
            hint = re.sub(r"_\d+$", "", where[-1]) if where else ""
            parts = _parts(file, where)
            file_layers[group] = FileLayer(
                layer=".".join(parts), hint=hint, datasets=[], names=None, within=tuple(parts[:-1])
            )
        file_layers[group].datasets.append(path)
    for layer in file_layers.values():
        layer.datasets.sort(key=lambda dataset: int(dataset.rpartition("/")[2]))
    return list(file_layers.values())


def _parts(file: Hdf5, where: list[str]) -> list[str]:
    parts: list[str] = []
    for depth, part in enumerate(where):
        if part in _CONTAINERS:
            continue
        automatic = depth > 0 and where[depth - 1] in _CONTAINERS
        name = file.text("/".join([*where[: depth + 1], "vars"]), "name") if automatic else None
        parts.append(name or part)
    return parts
