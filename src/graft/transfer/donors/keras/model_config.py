"""Reads a Keras model's config into a graph. Nothing is instantiated; the code of a Lambda stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graft.transfer.donors.keras.graph import Graph, Layer, Reference, snake_case

_MODELS = ("Sequential", "Functional", "Model")
_DEPTH = 16


def graph_of(config: Any, version: str | None = None) -> Graph:
    """The graph of a model's config, as in `config.json` and the attribute `model_config`.

    Args:
        version: version of Keras in the file.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not such a config.
    """
    number = re.match(r"\d+", version or "")
    graph = Graph(
        model=str(config["config"].get("name", "")) if isinstance(config["config"], dict) else "",
        version=int(number[0]) if number else 3,
    )
    end = _collect(config, _Place(), [], graph)
    graph.end = graph.last_of(end)
    return graph


@dataclass(frozen=True, slots=True)
class _Place:
    """The position of a layer in nested models: by names, and by Keras' generated names."""

    name: str = ""
    automatic: str = ""
    depth: int = 0

    def below(self, name: str, automatic: str) -> _Place:
        if self.depth == _DEPTH:
            raise ValueError(f"models nested more than {_DEPTH} deep")
        return _Place(f"{self.name}.{name}".lstrip("."), f"{self.automatic}.{automatic}".lstrip("."), self.depth + 1)


def _collect(model: Mapping[str, Any], place: _Place, feeds: list[str], graph: Graph) -> str:
    """Adds a model's layers to the graph, and returns the name of its last one."""
    content = model["config"]
    listed = content if isinstance(content, list) else content.get("layers", [])  # Keras 1 and 2 wrote both
    sequential = model["class_name"] == "Sequential"
    counted: dict[str, int] = {}
    last = feeds
    for entry in listed:
        class_name = str(entry["class_name"])
        here = place.below(str(entry["config"].get("name") or entry.get("name")), _number(class_name, counted))
        if class_name == "InputLayer":
            parents = feeds
            if sequential:
                counted.clear()  # which does not count its input among its layers
        else:
            parents = last if sequential else [place.below(parent, "").name for parent in _inbound(entry)]
        graph.automatic[here.automatic] = here.name
        if class_name in _MODELS:
            graph.ends[here.name] = _collect(entry, here, parents, graph)
            graph.calls[here.name] = len(entry.get("inbound_nodes") or [0])
            graph.models.append(here.name.removeprefix(f"{place.name}.") if place.name else here.name)
        else:
            graph.layers[here.name] = _layer(entry, here.name, parents)
            graph.layers[here.name].operands = list(_operands(entry, place, parents))
        last = [here.name]
    outputs = None if isinstance(content, list) else content.get("output_layers")
    ends = [place.below(name, "").name for name in _references(outputs)] if outputs else last
    return ends[0] if ends else place.name


def _layer(entry: Mapping[str, Any], name: str, parents: list[str]) -> Layer:
    shape = (entry.get("build_config") or {}).get("input_shape")
    several = not isinstance(shape, list) or any(isinstance(side, list) for side in shape)
    return Layer(
        name=name,
        class_name=str(entry["class_name"]),
        config=entry["config"],
        parents=parents,
        input_shape=None if several else shape,
        calls=len(entry.get("inbound_nodes") or [0]),
    )


def _number(class_name: str, counted: dict[str, int]) -> str:
    """`conv2d`, `conv2d_1`, …: Keras' name of the next layer of a class in a weights file."""
    name = snake_case(class_name)
    counted[name] = counted.get(name, -1) + 1
    return f"{name}_{counted[name]}" if counted[name] else name


def _inbound(entry: Mapping[str, Any]) -> list[str]:
    """The layers that are inputs of the first call of a layer."""
    nodes = entry.get("inbound_nodes") or []
    return list(dict.fromkeys(_references(nodes[0]))) if nodes else []


def _operands(entry: Mapping[str, Any], place: _Place, parents: list[str]) -> Iterator[Any]:
    """The arguments of the first call of a layer; its parents if none are recorded (Sequential)."""
    nodes = entry.get("inbound_nodes") or []
    if not nodes:
        yield from map(Reference, parents)
        return
    for value in _values(nodes[0]):
        yield Reference(place.below(value.name, "").name) if isinstance(value, Reference) else value


def _values(value: Any) -> Iterator[Any]:
    """The operands in a node: Keras 3's args and kwargs, or Keras 2's [name, node, tensor, {further: …}]."""
    if isinstance(value, Mapping):
        yield from _of_mapping(value)
    elif not isinstance(value, list):
        yield value
    elif _is_triple(value):
        yield Reference(value[0])
        yield from (each for further in value[3:] for each in _values(further))
    elif not value or any(isinstance(each, Mapping | list) for each in value):
        for inner in value:
            yield from _values(inner)
    else:
        yield value  # a list of numbers


def _of_mapping(value: Mapping[str, Any]) -> Iterator[Any]:
    """A tensor of the model, a constant, an object identified only by its class, or named operands."""
    config = value.get("config")
    history = config.get("keras_history") if isinstance(config, Mapping) else None
    if isinstance(history, list) and history:
        yield Reference(str(history[0]))
    elif value.get("class_name") in ("__tensor__", "__numpy__") and isinstance(config, Mapping):
        yield config["value"]
    elif "class_name" in value:
        yield str(value["class_name"])
    else:
        for name, inner in value.items():
            if name not in ("name", "training", "mask") and inner is not None:
                yield from _values(inner)


def _is_triple(value: list[Any]) -> bool:
    """Whether a list is Keras 2's layer name, call number and tensor number."""
    return len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int) and isinstance(value[2], int)


def _references(value: Any) -> Iterator[str]:
    """Layer names in Keras 3's `keras_history` and in Keras 2's [name, node, tensor, {further: …}]."""
    if isinstance(value, Mapping):
        history = value.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
        else:
            for inner in value.values():
                yield from _references(inner)
    elif isinstance(value, list):
        named = _is_triple(value)
        if named:
            yield value[0]
        for inner in value[3:] if named else value:
            yield from _references(inner)
