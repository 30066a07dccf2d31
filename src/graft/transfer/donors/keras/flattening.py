"""Finds layers whose input features come from a flattened feature map, whose order differs in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from graft.transfer.donors.keras.families import Family
from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.kinds import TypedLayer
from graft.transfer.donors.keras.layers import NORMS, Kind, Mismatch, Shape, convert

Shapes = Callable[[TypedLayer], dict[str, Shape]]


class Flattening:
    """The channels of the feature map before a layer's Flatten: from the user, the config, or the shapes."""

    def __init__(
        self,
        layers: Mapping[str, TypedLayer],
        shapes: Shapes,
        graph: Graph | None,
        family: Family | None,
        counts: list[tuple[str, int]],
    ) -> None:
        """
        Args:
            shapes: shapes of the layers' variables by Keras' names.
            counts: (glob of layer names, channels of the feature map) pairs, 0 for no Flatten. The first match decides.
        """
        self._layers, self._shapes, self._graph, self._family, self._counts = layers, shapes, graph, family, counts
        self._outputs: dict[str, int] | None = None

    def channels(self, name: str) -> int | None:
        """The channels; None if a layer's features do not come from a Flatten.

        Raises:
            Mismatch: the features come, or may come, from a Flatten with unknown channels.
        """
        kind = self._layers[name].kind
        if kind is not Kind.dense and kind not in NORMS:
            return None
        width = next((count for glob, count in self._counts if fnmatchcase(name, glob)), None)
        if width is not None:
            return width or None
        if self._graph is None:
            return self._guess(name)
        flatten = self._graph.flatten_before(name)
        if flatten is None:
            return None
        channels = self._graph.channels_into(flatten)
        if channels is None:
            raise Mismatch(
                f"stands behind {flatten}, which flattens a map of unknown channels; "
                f"set donor.keras.flatten={{{name}: CHANNELS}}"
            )
        return channels

    def _guess(self, name: str) -> int | None:
        """Without a config: from the network's family, or None if the features cannot come from a Flatten; otherwise an
        error."""
        shapes = list(self._shapes(self._layers[name]).values())
        features = shapes[0][0] if shapes and shapes[0] else 0
        maps = self._maps()
        if self._family is not None:
            if self._family.pooled:
                return None
            last = next((other for other in reversed(maps) if "block5" in other), None)
            if last is not None and name.rpartition(".")[2] == "fc1":
                return maps[last]
        kind = self._layers[name].kind
        vectors = {self._features(other) for other, each in self._layers.items() if each.kind is Kind.dense}
        pooled = {*maps.values(), *map(self._inputs, maps)} if kind in NORMS else set[int]()
        may_be = any(count and features > count and features % count == 0 for count in maps.values())
        if features in vectors | pooled or not may_be:
            return None
        raise Mismatch(
            f"its {features} features may come from a Flatten, which the file does not say; "
            f"set donor.keras.flatten={{{name}: CHANNELS}} (of the flattened map; 0 where it was pooled)"
        )

    def _maps(self) -> dict[str, int]:
        """The output channels of each convolution."""
        if self._outputs is None:
            self._outputs = {other: self._features(other) for other in self._layers if self.is_convolution(other)}
        return self._outputs

    def is_convolution(self, name: str) -> bool:
        kind = self._layers[name].kind
        return kind is not None and "conv" in kind.value

    def _inputs(self, name: str) -> int:
        """Channels that a convolution takes: a norm of as many stands in front of it, not behind a Flatten."""
        kernel = next(iter(self._shapes(self._layers[name]).values()))
        return kernel[-1 if str(self._layers[name].kind).endswith("transpose") else -2] if len(kernel) > 2 else 0

    def _features(self, name: str) -> int:
        """The number of outputs of a layer per position."""
        entry = self._layers[name]
        assert entry.kind is not None
        try:
            tensors = convert(entry.kind, self._shapes(entry))
        except Mismatch:
            return 0
        weight = [each for each in tensors if each.suffix.endswith("weight")][-1]
        return weight.shape[1 if entry.kind.value.endswith("transpose") else 0]
