"""Configs of Keras models as their files hold them, read into graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.model_config import graph_of


def entry(class_name: str, name: str, config: Mapping[str, Any], *fed: str) -> dict[str, Any]:
    nodes = [[[parent, 0, 0, {}] for parent in fed]] if fed else []
    return {"class_name": class_name, "config": {"name": name, **config}, "name": name, "inbound_nodes": nodes}


def sequential(
    sides: tuple[int | None, ...], *layers: tuple[str, str, Mapping[str, Any]], version: str = "3.0"
) -> Graph:
    image = entry("InputLayer", "image", {"batch_shape": [None, *sides, 3]})
    listed = [image, *(entry(*layer) for layer in layers)]
    return graph_of({"class_name": "Sequential", "config": {"name": "m", "layers": listed}}, version)


def functional(*entries: dict[str, Any]) -> Graph:
    last = [[entries[-1]["name"], 0, 0]]
    return graph_of({"class_name": "Functional", "config": {"name": "m", "layers": [*entries], "output_layers": last}})
