"""A network's traced graph, walked node by node into a functional Keras model with channels last.

A Keras layer with weights has the torch module's path for its name, with `__` for each dot, which Keras does not take:
read back as a donor with donor.rename=[["__", "."]], the file gives the network's own names.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision import ops

from graft.models.tracing import ROOT, Tracer, Untraceable, Whole, double, is_layer
from graft.results.keras.layers import Unmapped, Value, activation, batch_norm, convolution, dense, pair

DOT = "__"
NOTHING_IN_EVAL = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity, ops.StochasticDepth)


def keras_model(keras: Any, module: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Any, dict[str, int]]:
    """The network in eval mode as a Keras model of images [N, H, W, C], its weights set.

    Beside it, for each dense layer, the channels of the flattened map that it reads (0 where it reads none), which a
    file of weights alone does not say (`donor.keras.flatten`).

    Args:
        keras: the package, imported with the backend that is wanted.
        image_shape: channels, height, width.

    Raises:
        Unmapped: the first thing that has no counterpart.
    """
    try:
        whole = double(Whole(module), training=False)
        graph = Tracer(lambda child, _: is_layer(child)).trace(whole)
    except Untraceable as error:
        raise Unmapped(f"a forward that cannot be traced ({' '.join(str(error).split())[:120]})") from error
    channels, height, width = image_shape
    images = keras.Input((height, width, channels), name="images")
    walk = _Walk(keras, whole)
    return walk.run(graph, images), walk.flatten


class _Walk:
    """One model in the making."""

    def __init__(self, keras: Any, whole: nn.Module) -> None:
        self.keras, self.whole = keras, whole
        self.values: dict[fx.Node, Value] = {}
        self.layers: dict[str, Any] = {}
        """Keras layers by torch's path; one that torch calls twice is called twice."""
        self.weights: list[tuple[Any, Any]] = []
        self.flatten: dict[str, int] = {}
        self.kinds: dict[type[nn.Module], Callable[[Any, str, Value], Value]] = {
            nn.Conv2d: self._convolution,
            nn.BatchNorm2d: self._batch_norm,
            nn.BatchNorm1d: self._batch_norm,
            nn.Linear: self._dense,
            nn.MaxPool2d: self._max_pool,
            nn.AvgPool2d: self._average_pool,
            nn.AdaptiveAvgPool2d: lambda layer, name, value: self._adaptive(layer.output_size, name, value),
            nn.Flatten: lambda layer, name, value: self._flatten(value),
        }

    def run(self, graph: fx.Graph, images: Any) -> Any:
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = Value(tensor=images)
            elif node.op == "output":
                (result,) = node.args
                if not isinstance(result, fx.Node) or self.values[result].is_map:
                    raise Unmapped("a result that is not one row of logits an image")
                model = self.keras.Model(images, self.values[result].tensor)
                for layer, weights in self.weights:
                    layer.set_weights(weights)
                return model
            elif node.op == "call_module":
                self.values[node] = self._module(node)
            elif node.op in ("call_function", "call_method"):
                self.values[node] = self._function(node)
            else:
                raise Unmapped(f"{str(node.target).removeprefix(f'{ROOT}.')}, a tensor outside any layer")
        raise Unmapped("a graph without a result")

    # -- modules

    def _module(self, node: fx.Node) -> Value:
        path = str(node.target)
        name = path.removeprefix(f"{ROOT}.").replace(".", DOT)
        layer = self.whole.get_submodule(path)
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(source, fx.Node):
            raise Unmapped(f"{name}, which takes more than one tensor")
        return self._layer(layer, name, self.values[source])

    def _layer(self, layer: nn.Module, name: str, value: Value) -> Value:
        if isinstance(layer, NOTHING_IN_EVAL) or type(layer).__name__ == "DropPath":
            return value
        if isinstance(layer, nn.Sequential):  # of layers without weights, which tracing leaves whole
            for place, child in layer.named_children():
                value = self._layer(child, f"{name}{DOT}{place}", value)
            return value
        for kind, walk in self.kinds.items():
            if isinstance(layer, kind):
                return walk(layer, name, value)
        if type(layer).__name__ == "SelectAdaptivePool2d":
            return self._select_pool(layer, name, value)
        function = None if next(layer.parameters(), None) is not None else self._activation(layer, name)
        if function is None:
            raise Unmapped(f"{name} ({type(layer).__name__})")
        return replace(value, tensor=function[0](value.tensor), positive=function[1])

    def _activation(self, layer: nn.Module, name: str) -> tuple[Any, bool] | None:
        return activation(self.keras, layer, f"{name}{DOT}{len(self.values)}")  # one module may stand in several places

    def _named(self, name: str, make: Callable[[], tuple[Any, Any]]) -> Any:
        if name not in self.layers:
            layer, weights = make()
            self.layers[name] = layer
            self.weights.append((layer, weights))
        return self.layers[name]

    def _convolution(self, layer: nn.Conv2d, name: str, value: Value) -> Value:
        if not value.is_map:
            raise Unmapped(f"{name}: a convolution of features")
        fresh, weights, padding = convolution(self.keras, layer, name, same=type(layer).__name__ == "Conv2dSame")
        keras_layer = self._named(name, lambda: (fresh, weights))
        return Value(tensor=keras_layer(self._padded(value, (padding[0], padding[0]), (padding[1], padding[1])).tensor))

    def _batch_norm(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, name: str, value: Value) -> Value:
        if value.flattened is not None:
            raise Unmapped(f"{name}: a batch-norm behind a Flatten")
        result = Value(tensor=self._named(name, lambda: batch_norm(self.keras, layer, name))(value.tensor))
        for part in ("drop", "act"):  # timm's BatchNormAct2d
            child = getattr(layer, part, None)
            if isinstance(child, nn.Module):
                result = self._layer(child, f"{name}{DOT}{part}", result)
        return result

    def _dense(self, layer: nn.Linear, name: str, value: Value) -> Value:
        if value.is_map:
            raise Unmapped(f"{name}: a linear layer over a map")
        self.flatten[name] = value.flattened[2] if value.flattened else 0
        keras_layer = self._named(name, lambda: dense(self.keras, layer, name, value.flattened))
        return Value(tensor=keras_layer(value.tensor))

    def _select_pool(self, layer: Any, name: str, value: Value) -> Value:
        if layer.pool_type not in ("avg", "fast", "fastavg", ""):
            raise Unmapped(f"{name}: pooling by {layer.pool_type}")
        if layer.pool_type:
            value = self._adaptive(1, name, value)
        flattens = not isinstance(layer.flatten, nn.Identity) or layer.pool_type == "fast"
        return self._flatten(value) if flattens and value.is_map else value

    # -- functions and methods

    def _function(self, node: fx.Node) -> Value:
        target = node.target
        values = [self.values[each] for each in node.args if isinstance(each, fx.Node)]
        rest = [each for each in node.args if not isinstance(each, fx.Node)]
        options = dict(node.kwargs)
        name = node.name
        if target in (operator.add, torch.add, operator.iadd, "add", "add_") and len(values) == 2 and not rest:
            return self._merge("Add", values, positive=values[0].positive and values[1].positive)
        if target in (operator.mul, torch.mul, operator.imul, "mul") and len(values) == 2 and not rest:
            return self._merge("Multiply", values, positive=values[0].positive and values[1].positive)
        if target in (torch.cat, torch.concat) and isinstance(node.args[0], list | tuple):
            return self._concatenate(node)
        if len(values) == 1:
            done = self._of_one(target, values[0], rest, options, name)
            if done is not None:
                return done
        raise Unmapped(f"the operation {getattr(target, '__name__', target)}")

    def _of_one(self, target: Any, value: Value, rest: list[Any], options: dict[str, Any], name: str) -> Value | None:
        inert = (F.dropout, F.dropout2d, ops.stochastic_depth, "contiguous")
        if target in inert:
            return value
        functions: dict[Any, nn.Module] = {F.relu: nn.ReLU(), torch.relu: nn.ReLU(), "relu": nn.ReLU(),
                                           "relu_": nn.ReLU(), F.relu6: nn.ReLU6(), F.silu: nn.SiLU(),
                                           torch.sigmoid: nn.Sigmoid(), "sigmoid": nn.Sigmoid()}  # fmt: skip
        if target in functions:
            return self._layer(functions[target], name, value)
        if target in (torch.flatten, "flatten") and (rest or [options.get("start_dim")]) in ([1], [1, -1]):
            return self._flatten(value)
        if target is F.adaptive_avg_pool2d:
            return self._adaptive(rest[0] if rest else options["output_size"], name, value)
        axes = rest[0] if rest else options.get("dim")
        spatial = value.is_map and axes is not None and sorted(axis % 4 for axis in _listed(axes)) == [2, 3]
        if target in ("mean", torch.mean) and spatial:
            pooled = self._adaptive(1, name, value)
            return pooled if (rest[1] if len(rest) > 1 else options.get("keepdim", False)) else self._flatten(pooled)
        return None

    def _merge(self, layer: str, values: list[Value], *, positive: bool) -> Value:
        if values[0].is_map != values[1].is_map or values[0].flattened != values[1].flattened:
            raise Unmapped(f"an operation {layer} of maps and features")
        merged = getattr(self.keras.layers, layer)()([value.tensor for value in values])
        return Value(tensor=merged, flattened=values[0].flattened, positive=positive)

    def _concatenate(self, node: fx.Node) -> Value:
        listed: Any = node.args[0]
        values = [self.values[each] for each in listed]
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if axis != 1 or any(value.flattened for value in values) or len({value.is_map for value in values}) > 1:
            raise Unmapped("a concatenation other than of channels")
        merged = self.keras.layers.Concatenate(axis=-1)([value.tensor for value in values])
        return Value(tensor=merged, positive=all(value.positive for value in values))

    # -- maps

    def _max_pool(self, layer: nn.MaxPool2d, name: str, value: Value) -> Value:
        if pair(layer.dilation) != (1, 1):
            raise Unmapped(f"{name}: a dilated pooling")
        window, stride, padding = pair(layer.kernel_size), pair(layer.stride), pair(layer.padding)
        return self._pool("MaxPooling2D", name, value, window, stride, padding, ceil=layer.ceil_mode)

    def _average_pool(self, layer: nn.AvgPool2d, name: str, value: Value) -> Value:
        window, stride, padding = pair(layer.kernel_size), pair(layer.stride), pair(layer.padding)
        if layer.ceil_mode or layer.divisor_override or (padding != (0, 0) and not layer.count_include_pad):
            raise Unmapped(f"{name}: an average that counts no border")
        return self._pool("AveragePooling2D", name, value, window, stride, padding, ceil=False)

    def _padded(self, value: Value, vertical: tuple[int, int], horizontal: tuple[int, int]) -> Value:
        if not any((*vertical, *horizontal)):
            return value
        return replace(value, tensor=self.keras.layers.ZeroPadding2D((vertical, horizontal))(value.tensor))

    def _pool(
        self,
        layer: str,
        name: str,
        value: Value,
        window: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        *,
        ceil: bool,
    ) -> Value:
        sides: list[tuple[int, int]] = []
        for size, wide, step, border in zip(value.tensor.shape[1:3], window, stride, padding, strict=True):
            steps, left = divmod(size + 2 * border - wide, step)
            # torch's ceil_mode takes a last window that hangs over, if it begins within the image
            hangs = ceil and left > 0 and (steps + 1) * step < size + border
            sides.append((border, border + (step - left if hangs else 0)))
        if layer == "MaxPooling2D" and any(map(any, sides)) and not value.positive:
            raise Unmapped(f"{name}: a maximum with a border of minus infinity, of values that may be below zero")
        padded = self._padded(value, sides[0], sides[1])
        pooled = getattr(self.keras.layers, layer)(window, strides=stride, padding="valid")(padded.tensor)
        return replace(value, tensor=pooled)

    def _adaptive(self, size: Any, name: str, value: Value) -> Value:
        wanted, present = pair(size), tuple(value.tensor.shape[1:3])
        if wanted == (1, 1):
            pooled = self.keras.layers.GlobalAveragePooling2D(keepdims=True)(value.tensor)
            return replace(value, tensor=pooled)
        if wanted == present:
            return value
        if any(have % want for have, want in zip(present, wanted, strict=True)):
            raise Unmapped(f"{name}: averages of unequal windows, {present} to {wanted}")
        window = (present[0] // wanted[0], present[1] // wanted[1])
        return replace(value, tensor=self.keras.layers.AveragePooling2D(window)(value.tensor))

    def _flatten(self, value: Value) -> Value:
        if not value.is_map:
            return value
        height, width, channels = value.tensor.shape[1:]
        flat = self.keras.layers.Flatten()(value.tensor)
        shape = (height, width, channels) if prod((height, width)) > 1 else None
        return Value(tensor=flat, flattened=shape, positive=value.positive)


def _listed(axes: Any) -> list[int]:
    return list(axes) if isinstance(axes, list | tuple) else [axes]
