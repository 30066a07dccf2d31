"""From a Keras file's layers to a donor's tensors: what each becomes, and what is remarked about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from graft.config.keras_images import BGR_MEAN, BGR_STD
from graft.config.schema import ApplicationConfig, KerasConfig
from graft.transfer.donors.keras.cautions import is_keras_resnet
from graft.transfer.donors.keras.graph import Graph
from graft.transfer.donors.keras.hdf5 import Hdf5
from graft.transfer.donors.keras.kinds import Known, kind_of
from graft.transfer.donors.keras.layers import NORMS, Kind, Made, Mismatch, Shape, convert
from graft.transfer.donors.keras.variables import Held
from graft.transfer.ledger import TensorInfo

_KERAS_EPSILON = 1e-3
_RESNET_EPSILON = 1.001e-5
_TORCH_EPSILON = 1e-5
_PUBLISHED_VGG = re.compile(r"block5_conv[34]")


@dataclass(slots=True)
class _Tensor:
    """How one tensor of the donor comes about."""

    dataset: str
    formula: Callable[[Tensor], Tensor]
    minus: str | None = None
    """A dataset to take off: the bias of the convolution in front."""


class Conversion:
    """What a file's layers become.

    Attributes:
        infos: The donor's tensors, in the order of the layers.
        faults: What cannot be converted with certainty, each with the option that would settle it.
        remarks: What was decided.
    """

    def __init__(
        self,
        file: Hdf5,
        held: Sequence[Held],
        graph: Graph | None,
        options: KerasConfig,
        application: ApplicationConfig,
    ) -> None:
        self.infos: dict[str, TensorInfo] = {}
        self.faults: list[str] = []
        self.remarks: list[str] = []
        self._file, self._graph, self._options = file, graph, options
        self._flatten = [*options.flatten.items(), *application.flatten.items()]
        self._tensors: dict[str, _Tensor] = {}
        self._known: dict[str, Known] = {}
        for layer in held:
            self._settle(layer)
        for name in self._known:
            try:
                self._convert(name)
            except Mismatch as error:
                self.faults.append(f"{name}: {error}")
        if options.input == "bgr":
            self._turn_first_round()
        if options.fold_bias or application.fold_bias:
            self._fold_biases(asked=options.fold_bias)
        self._remark()

    def read(self, name: str) -> Tensor:
        """A tensor in torch's layout."""
        tensor = self._tensors[name]
        value = tensor.formula(self._file.read(tensor.dataset))
        if tensor.minus is not None:
            value = value - self._file.read(tensor.minus)
        return value.contiguous()

    def _settle(self, layer: Held) -> None:
        shapes = [self._file.datasets[dataset].shape for dataset in layer.datasets]
        try:
            if layer.layer in self._known:
                raise Mismatch("two layers of this name")
            self._known[layer.layer] = kind_of(layer, shapes, self._graph, self._options)
        except Mismatch as error:
            self.faults.append(f"{layer.layer}: {error}")

    def _shapes(self, known: Known) -> dict[str, Shape]:
        return {variable: self._file.datasets[dataset].shape for variable, dataset in known.datasets.items()}

    def _convert(self, name: str) -> None:
        known = self._known[name]
        if known.kind is None:
            for variable, dataset in known.datasets.items():
                self._add(f"{name}.{variable}", self._file.datasets[dataset].shape, dataset, lambda value: value)
            return
        flattened = self._flattened(name, known)
        first = next(iter(known.datasets.values()))
        epsilon = self._epsilon(name) if known.kind in NORMS else None
        for made in convert(known.kind, self._shapes(known), flattened=flattened):
            dataset = known.datasets[made.source] if made.source is not None else first
            full = f"{name}.{made.suffix}"
            carries = "running_var" if known.kind is Kind.batch_normalization else "weight"
            self._add(full, made.shape, dataset, self._typed(made), epsilon if made.suffix == carries else None)
            if made.rule:
                self.remarks.append(f"{full}: {made.rule}")

    def _add(
        self, name: str, shape: Shape, dataset: str, formula: Callable[[Tensor], Tensor], epsilon: float | None = None
    ) -> None:
        if name in self.infos:
            raise Mismatch(f"{name} would come from two layers")
        dtype = str(self._file.datasets[dataset].dtype).removeprefix("torch.")
        self.infos[name] = TensorInfo(shape=shape, dtype=dtype, epsilon=epsilon)
        self._tensors[name] = _Tensor(dataset, formula)

    @staticmethod
    def _typed(made: Made) -> Callable[[Tensor], Tensor]:
        return lambda value: made.formula(value).to(value.dtype)

    # -- features behind a Flatten

    def _flattened(self, name: str, known: Known) -> int | None:
        """Channels of the map whose Flatten a layer's features come from.

        Raises:
            Mismatch: They come, or may come, from one that is not known.
        """
        if known.kind is not Kind.dense and known.kind not in NORMS:
            return None
        told = next((count for glob, count in self._flatten if fnmatchcase(name, glob)), None)
        if told is not None:
            return told or None
        if self._graph is None:
            return self._guess_flattened(name, known)
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

    def _guess_flattened(self, name: str, known: Known) -> int | None:
        """Without a config: none where the features are as many as another layer gives, else a question."""
        shapes = self._shapes(known)
        features = next(iter(shapes.values()))[0] if shapes and next(iter(shapes.values())) else 0
        maps = {other: self._features(other) for other in self._known if self._is_convolution(other)}
        last = next((other for other in maps if _PUBLISHED_VGG.fullmatch(other)), None)
        if name == "fc1" and last is not None:
            return maps[last]
        vectors = {self._features(other) for other, each in self._known.items() if each.kind is Kind.dense}
        pooled = set(maps.values()) if known.kind in NORMS else set[int]()
        may_be = any(count and features > count and features % count == 0 for count in maps.values())
        if features in vectors | pooled or not may_be:
            return None
        raise Mismatch(
            f"its {features} features may come from a Flatten, which the file does not say; "
            f"set donor.keras.flatten={{{name}: CHANNELS}} (of the flattened map; 0 where it was pooled)"
        )

    def _is_convolution(self, name: str) -> bool:
        kind = self._known[name].kind
        return kind is not None and "conv" in kind.value

    def _features(self, name: str) -> int:
        """What a layer puts out, per place."""
        known = self._known[name]
        assert known.kind is not None
        try:
            made = convert(known.kind, self._shapes(known))
        except Mismatch:
            return 0
        weight = [each for each in made if each.suffix.endswith("weight")][-1]
        return weight.shape[1 if known.kind.value.endswith("transpose") else 0]

    # -- what the target cannot see

    def _epsilon(self, name: str) -> float:
        if self._graph is not None:
            given = self._graph.layers[name].config.get("epsilon", _KERAS_EPSILON)
            if not isinstance(given, int | float) or isinstance(given, bool) or not 0 <= given < 1:
                raise Mismatch(f"an epsilon between 0 and 1, received {str(given)[:40]}")
            return float(given)
        if self._options.epsilon is not None:
            return self._options.epsilon
        return _RESNET_EPSILON if is_keras_resnet(self._known) else _KERAS_EPSILON

    def _turn_first_round(self) -> None:
        """Turns the input channels of the first convolution of three, so that it reads red, green, blue."""
        firsts = [name for name, info in self.infos.items() if len(info.shape) == 4 and info.shape[1] == 3]
        if not firsts:
            self.faults.append("donor.keras.input=bgr: no convolution reads three channels")
            return
        first = self._tensors[firsts[0]]
        turned = first.formula
        first.formula = lambda value: turned(value).flip(1)
        mean, std = (", ".join(map(str, values)) for values in (BGR_MEAN, BGR_STD))
        self.remarks.append(
            f"{firsts[0]}: input channels turned round, W[:, ::-1], so that it reads red, green, blue; it wants "
            f"0 to 255 less Keras' mean: backbone.published.preprocess.mean=[{mean}] .std=[{std}]"
        )

    def _fold_biases(self, *, asked: bool) -> None:
        folded = 0
        for name, known in self._known.items():
            front = self._in_front(name) if known.kind is Kind.batch_normalization else None
            bias = f"{front}.bias"
            if front is None or bias not in self.infos:
                continue
            mean = f"{name}.running_mean"
            if self.infos[bias].shape != self.infos[mean].shape or self.infos[bias].dtype != self.infos[mean].dtype:
                self.faults.append(f"{name}: a running mean that {bias} cannot be taken off")
                continue
            self._tensors[mean].minus = self._tensors.pop(bias).dataset
            del self.infos[bias]
            folded += 1
            self.remarks.append(f"{mean}: running_mean − {bias}, which is left out (exact)")
        if asked and not folded:
            self.faults.append("donor.keras.fold_bias: no convolution with a bias stands in front of a batch-norm")

    def _in_front(self, name: str) -> str | None:
        """The convolution whose output a batch-norm takes."""
        if self._graph is not None:
            parents = self._graph.parents(name)
            front = parents[0] if len(parents) == 1 else None
        else:
            front = re.sub(r"bn(?!.*bn)", "conv", name)
        return front if front in self._known and self._is_convolution(front) else None

    def _remark(self) -> None:
        raw = [name for name, known in self._known.items() if known.kind is None]
        guessed = [f"{name} {known.kind.value}" for name, known in self._known.items() if known.guessed and known.kind]
        if raw:
            self.remarks.append(f"of classes without a counterpart, left as Keras has them: {', '.join(raw[:5])}")
        if guessed:
            self.remarks.append(f"classes told by shapes alone: {', '.join(guessed[:8])}")
        norms = [name for name, known in self._known.items() if known.kind is Kind.batch_normalization]
        if norms and self._graph is None and self._options.epsilon is None:
            self.remarks.append(
                f"no model config: {self._epsilon(norms[0])} taken as the epsilon of {len(norms)} batch-norms; "
                "donor.keras.epsilon=… says another"
            )
        for name, known in self._known.items():
            if known.kind is Kind.layer_normalization and f"{name}.weight" in self.infos:
                epsilon = self.infos[f"{name}.weight"].epsilon
                if epsilon != _TORCH_EPSILON:
                    self.remarks.append(f"{name}: computed with epsilon {epsilon}; set it on the target's layer")
