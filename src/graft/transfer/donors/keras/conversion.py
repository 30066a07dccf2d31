"""Converts a Keras file's layers to a donor's tensors, with remarks."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from graft.config.schema import ApplicationConfig, KerasConfig
from graft.transfer.donors.keras.families import Family, numbered_from_zero
from graft.transfer.donors.keras.flattening import Flattening
from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.hdf5 import Hdf5
from graft.transfer.donors.keras.kinds import TypedLayer, kind_of, raw
from graft.transfer.donors.keras.layers import NORMS, Kind, Mismatch, Shape, TorchTensor, convert
from graft.transfer.donors.keras.variables import FileLayer
from graft.transfer.ledger import TensorInfo

_KERAS_EPSILON = 1e-3
_TORCH_EPSILON = 1e-5


@dataclass(slots=True)
class _Tensor:
    """How one tensor of the donor is computed."""

    dataset: str
    formula: Callable[[Tensor], Tensor]
    minus: str | None = None
    """A dataset to subtract: the bias of the preceding convolution."""


class Conversion:
    """The result of converting a file's layers.

    Attributes:
        infos: the donor's tensors, in the order of the layers.
        layers: the names of each layer's tensors.
        faults: what cannot be converted with certainty, each with the option that would settle it. The tensors are
            included as Keras stores them.
        remarks: the decisions that were made.
    """

    def __init__(
        self,
        file: Hdf5,
        file_layers: Sequence[FileLayer],
        graph: Graph | None,
        options: KerasConfig,
        application: ApplicationConfig,
        family: Family | None = None,
    ) -> None:
        self.infos: dict[str, TensorInfo] = {}
        self.layers: dict[str, list[str]] = {}
        self.faults: list[str] = []
        self.remarks: list[str] = []
        self._file, self._graph, self._options, self._family = file, graph, options, family
        self._tensors: dict[str, _Tensor] = {}
        self._layers: dict[str, TypedLayer] = {}
        self._names = numbered_from_zero([layer.layer for layer in file_layers]) if family and family.numbered else {}
        for layer in file_layers:
            self._settle(layer)
        counts = [*options.flatten.items(), *application.flatten.items()]
        self._flattening = Flattening(self._layers, self._shapes, graph, family, counts)
        for name in self._layers:
            self._convert(name)
        if options.fold_bias or application.fold_bias:
            self._fold_biases(folds=options.fold_bias)

    def read(self, name: str) -> Tensor:
        """A tensor in torch's layout."""
        tensor = self._tensors[name]
        value = tensor.formula(self._file.read(tensor.dataset))
        if tensor.minus is not None:
            value = value - self._file.read(tensor.minus)
        return value.contiguous()

    def variables(self, layer: str) -> Mapping[str, Tensor]:
        """A layer's tensors as Keras stores them, by Keras' names; empty if it has none."""
        entry = self._layers.get(layer)
        return {} if entry is None else {name: self._file.read(path) for name, path in entry.datasets.items()}

    def is_dense(self, layer: str) -> bool:
        return layer in self._layers and self._layers[layer].kind is Kind.dense

    def turn_first_round(self) -> None:
        """Reverses the input channels of the first convolution with three of them, so that it takes RGB images."""
        firsts = [name for name, info in self.infos.items() if len(info.shape) == 4 and info.shape[1] == 3]
        if not firsts:
            self.faults.append(
                "no convolution reads three channels that could be turned round; set donor.keras.input=rgb"
            )
            return
        first = self._tensors[firsts[0]]
        turned = first.formula
        first.formula = lambda value: turned(value).flip(1)
        self.remarks.append(f"{firsts[0]}: input channels turned round, W[:, ::-1], so that it reads red, green, blue")

    def _settle(self, layer: FileLayer) -> None:
        shapes = [self._file.datasets[dataset].shape for dataset in layer.datasets]
        unscaled = self._family is not None and self._family.unscaled
        if layer.layer in self._layers:
            self.faults.append(f"{layer.layer}: two layers of this name")
            return
        try:
            self._layers[layer.layer] = kind_of(layer, shapes, self._graph, self._options, unscaled=unscaled)
        except Mismatch as error:
            self.faults.append(f"{layer.layer}: {error}")
            self._layers[layer.layer] = raw(layer)

    def _shapes(self, entry: TypedLayer) -> dict[str, Shape]:
        return {variable: self._file.datasets[dataset].shape for variable, dataset in entry.datasets.items()}

    def _convert(self, name: str) -> None:
        entry = self._layers[name]
        tensors: list[TorchTensor] | None = None
        epsilon: float | None = None
        try:
            if entry.kind is not None:
                tensors = convert(entry.kind, self._shapes(entry), flattened=self._flattening.channels(name))
                epsilon = self._epsilon(name) if entry.kind in NORMS else None
        except Mismatch as error:
            self.faults.append(f"{name}: {error}")
            tensors = None
        if tensors is None:
            for variable, dataset in entry.datasets.items():
                self._add(name, variable, self._file.datasets[dataset].shape, dataset, lambda value: value)
            return
        first = next(iter(entry.datasets.values()))
        carries = "running_var" if entry.kind is Kind.batch_normalization else "weight"
        for each in tensors:
            dataset = entry.datasets[each.source] if each.source is not None else first
            own_epsilon = epsilon if each.suffix == carries else None
            full = self._add(name, each.suffix, each.shape, dataset, self._typed(each), own_epsilon)
            if each.rule:
                self.remarks.append(f"{full}: {each.rule}")

    def _add(
        self,
        layer: str,
        suffix: str,
        shape: Shape,
        dataset: str,
        formula: Callable[[Tensor], Tensor],
        epsilon: float | None = None,
    ) -> str:
        name = f"{self._names.get(layer, layer)}.{suffix}"
        if name in self.infos:
            self.faults.append(f"{name} would come from two layers")
            return name
        dtype = str(self._file.datasets[dataset].dtype).removeprefix("torch.")
        self.infos[name] = TensorInfo(shape=shape, dtype=dtype, epsilon=epsilon)
        self._tensors[name] = _Tensor(dataset, formula)
        self.layers.setdefault(layer, []).append(name)
        return name

    @staticmethod
    def _typed(tensor: TorchTensor) -> Callable[[Tensor], Tensor]:
        return lambda value: tensor.formula(value).to(value.dtype)

    # -- what the target cannot see

    def _epsilon(self, name: str) -> float:
        if self._graph is not None:
            value = self._graph.layers[name].config.get("epsilon", _KERAS_EPSILON)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
                raise Mismatch(f"an epsilon between 0 and 1, received {str(value)[:40]}")
            return float(value)
        if self._layers[name].kind is not Kind.batch_normalization:
            return _KERAS_EPSILON if self._family is None else self._family.layer_epsilon
        if self._options.epsilon is not None:
            return self._options.epsilon
        return _KERAS_EPSILON if self._family is None else self._family.epsilon

    def _fold_biases(self, *, folds: bool) -> None:
        folded = 0
        for name, entry in self._layers.items():
            front = self._in_front(name) if entry.kind is Kind.batch_normalization else None
            if front is None:
                continue
            bias, mean = (f"{self._names.get(layer, layer)}.{leaf}"
                          for layer, leaf in ((front, "bias"), (name, "running_mean")))  # fmt: skip
            if bias not in self.infos:
                continue
            if self.infos[bias].shape != self.infos[mean].shape or self.infos[bias].dtype != self.infos[mean].dtype:
                self.faults.append(f"{name}: a running mean that {bias} cannot be taken off")
                continue
            self._tensors[mean].minus = self._tensors.pop(bias).dataset
            del self.infos[bias]
            self.layers[front].remove(bias)
            folded += 1
            self.remarks.append(f"{mean}: running_mean − {bias}, which is left out (exact)")
        if folds and not folded:
            self.faults.append("donor.keras.fold_bias: no convolution with a bias stands in front of a batch-norm")

    def _in_front(self, name: str) -> str | None:
        """The convolution whose output is the input of a batch-norm."""
        if self._graph is not None:
            parents = self._graph.parents(name)
            front = parents[0] if len(parents) == 1 else None
        else:
            front = re.sub(r"bn(?!.*bn)", "conv", name)
        return front if front in self._layers and self._flattening.is_convolution(front) else None

    def remark(self, prepared: Collection[str]) -> None:
        """Adds remarks on whole layers.

        Args:
            prepared: layers that preprocess the images.
        """
        raw_layers = [name for name, entry in self._layers.items() if entry.kind is None and name not in prepared]
        guessed = [f"{name} {entry.kind.value}" for name, entry in self._layers.items() if entry.guessed and entry.kind]
        if raw_layers:
            self.remarks.append(
                f"of classes without a counterpart, left as Keras has them: {', '.join(raw_layers[:5])}"
            )
        if guessed:
            self.remarks.append(f"classes told by shapes alone: {', '.join(guessed[:8])}")
        if any(name != alias for name, alias in self._names.items()):
            name, alias = next((name, alias) for name, alias in self._names.items() if name != alias)
            self.remarks.append(f"layers that Keras named by number count from 0: {name} is {alias} here")
        self._remark_epsilons()

    def _remark_epsilons(self) -> None:
        norms = [name for name, entry in self._layers.items() if entry.kind is Kind.batch_normalization]
        if norms and self._graph is None and self._options.epsilon is None:
            whose = f", as in Keras' {self._family.name}" if self._family is not None else ""
            self.remarks.append(
                f"no model config: {self._epsilon(norms[0])} taken as the epsilon of {len(norms)} batch-norms{whose}; "
                "donor.keras.epsilon=… says another"
            )
        for name, entry in self._layers.items():
            weight = f"{self._names.get(name, name)}.weight"
            if entry.kind is Kind.layer_normalization and weight in self.infos:
                epsilon = self.infos[weight].epsilon
                if epsilon != _TORCH_EPSILON:
                    layer = weight.removesuffix(".weight")
                    self.remarks.append(f"{layer}: computed with epsilon {epsilon}; set it on the target's layer")
