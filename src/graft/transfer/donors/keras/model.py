"""A Keras file's own model, computed in torch from its config and its tensors, without importing Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from graft.transfer.donors.keras.activations import Unknown
from graft.transfer.donors.keras.functions import function_of
from graft.transfer.donors.keras.graph import Graph, Layer, Reference
from graft.transfer.donors.keras.weighted import computation_of

Read = Callable[[str], Mapping[str, Tensor]]
"""Returns a layer's variables by Keras' names, as stored in the file; empty if it has none."""


class KerasModel(nn.Module):
    """A model, or the part of it that leads to one layer, in eval mode.

    Values are in Keras' own layout, N, H, W, C. Its tensors are buffers, so that `.double()` converts everything to
    float64.
    """

    def __init__(self, graph: Graph, read: Read, *, to: str | None = None) -> None:
        """
        Args:
            to: the layer whose output is returned; by default the model's output layer.

        Raises:
            Unknown: a layer on the way is one that graft cannot compute, or is called more than once.
        """
        super().__init__()
        self.to_layer = to or graph.end
        self.inputs: list[str] = []
        self._steps: list[tuple[str, list[Any], Callable[..., Tensor]]] = []
        self._variables: dict[str, dict[str, str]] = {}
        """Layer to variable to the name of the buffer."""
        for name in _in_order(graph, self.to_layer):
            self._add(graph, graph.layers[name], read)

    def forward(self, *inputs: Tensor) -> Tensor:
        if len(inputs) != len(self.inputs):
            raise ValueError(f"expected {len(self.inputs)} inputs, received {len(inputs)}")
        values: dict[str, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        for name, operands, compute in self._steps:
            arguments = [values[each.name] if isinstance(each, Reference) else each for each in operands]
            values[name] = compute(*arguments)
        return values[self.to_layer]

    def _add(self, graph: Graph, layer: Layer, read: Read) -> None:
        name = layer.name
        if layer.class_name == "InputLayer" and not layer.parents:
            self.inputs.append(name)
            return
        if layer.calls > 1 or any(count > 1 and name.startswith(f"{path}.") for path, count in graph.calls.items()):
            raise Unknown(f"{name}, which the model calls more than once")
        operands = [Reference(graph.last_of(each.name)) if isinstance(each, Reference) else each
                    for each in layer.operands or map(Reference, layer.parents)]  # fmt: skip
        try:
            self._steps.append((name, operands, self._computed(layer, read(name), graph.version)))
        except Unknown as error:
            raise Unknown(f"{name}, {error}") from error

    def _computed(self, layer: Layer, variables: Mapping[str, Tensor], version: int) -> Callable[..., Tensor]:
        if layer.class_name == "InputLayer":  # of a nested model, which passes on what is given to that
            return lambda x: x
        if not variables and layer.class_name != "Normalization":
            return function_of(layer, version)
        compute, buffers = computation_of(layer, version), {}
        for variable, value in variables.items():
            buffers[variable] = f"variable_{sum(map(len, self._variables.values())) + len(buffers)}"
            self.register_buffer(buffers[variable], value)
        self._variables[layer.name] = buffers

        def run(x: Tensor) -> Tensor:
            return compute({variable: self.get_buffer(buffer) for variable, buffer in buffers.items()}, x)

        return run


def _in_order(graph: Graph, end: str) -> list[str]:
    """The layers that lead to one, each after its inputs.

    Raises:
        Unknown: the graph has a cycle, or a layer is missing.
    """
    ordered: list[str] = []
    begun: set[str] = set()
    pending = [(end, False)]
    while pending:
        name, fed = pending.pop()
        if fed:
            ordered.append(name)
        elif name not in begun:
            if name not in graph.layers:
                raise Unknown(f"a layer {name[:40]!r} that the config does not have")
            begun.add(name)
            pending.append((name, True))
            pending.extend((parent, False) for parent in reversed(graph.parents(name)))
        elif name not in ordered:
            raise Unknown(f"{name}, which feeds itself")
    return ordered
