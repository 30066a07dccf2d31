"""Splits a network in two at the end of a stage, by torch.fx. Both parts share the network's tensors.

Only modules that lie on both sides of the cut are traced. A module on one side is called as a whole, so `train()` and
`eval()` have the same effect in the second part as in the network. The traced code exists as two graphs, one per mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from graft.config.faults import InputError, one_line
from graft.models.cut_graph import Cut
from graft.models.stages import HEAD, Stages, covers, tensor_names
from graft.models.tracing import ROOT, Tracer, Untraceable, Whole, double, is_layer, targets
from graft.system.machine import full_float32

TOLERANCE = 1e-5


class Prefix(fx.GraphModule):
    """The first part. It is frozen: it always runs in eval mode."""

    def train(self, mode: bool = True) -> Prefix:
        super().train(False)
        return self


class Rest(nn.Module):
    """The second part: the network after the prefix, in train and in eval mode."""

    def __init__(self, in_train: fx.GraphModule, in_eval: fx.GraphModule, inputs: int) -> None:
        super().__init__()
        self.in_train, self.in_eval, self.inputs = in_train, in_eval, inputs

    def forward(self, features: Tensor | tuple[Tensor, ...]) -> Tensor:
        values = (features,) if self.inputs == 1 else features
        # A first layer that works in place would write into what the caller keeps (a cache, say).
        owned = [value.clone() if isinstance(value, Tensor) else value for value in values]
        return (self.in_train if self.training else self.in_eval)(*owned)


def split(module: nn.Module, stages: Stages, after: str, *, example: Tensor | None = None) -> tuple[Prefix, Rest]:
    """Two modules with `rest(prefix(x)) == module(x)`.

    The prefix ends with stage `after`, including layers that follow it and have neither weights nor randomness (an
    activation, a pooling). It returns one tensor, or a tuple if several tensors cross the cut. If possible, it is
    traced down to its layers, so that a batch-norm can be folded into the convolution before it. It has its own
    train/eval modes.

    Args:
        module: remains unchanged, including its modes. Split it on the device where it will stay.
        after: name of a trunk stage.
        example: images [B, C, H, W] on which the split is verified in eval mode.

    Raises:
        InputError: `after` is not a trunk stage, or the network cannot be cut there, with the reason.
    """
    if after == HEAD:
        raise InputError(f"cut: expected a stage of the trunk ({', '.join(stages.names)}), received {HEAD!r}")
    sides = _Sides(module, stages, after)
    try:
        halves = _fewest_crossings(module, sides)
        prefix = _to_layers(halves.prefix())
        rest = halves.rest(module)
    except Untraceable as error:
        raise _uncuttable(module, after, error) from error
    if example is not None:
        prove(module, prefix, rest, example, after)
    return prefix, rest


@dataclass(frozen=True, slots=True)
class _Halves:
    """A network's graph in each mode, divided, and the copies on which they were traced."""

    in_train: Cut
    in_eval: Cut
    doubles: tuple[nn.Module, nn.Module]

    def prefix(self) -> fx.GraphModule:
        return fx.GraphModule(self.doubles[1], self.in_eval.prefix())

    def rest(self, module: nn.Module) -> Rest:
        """The second part, built on the network's own modules, so that it follows their modes."""
        real = Whole(module)
        in_train, in_eval = (
            fx.GraphModule(targets(graph, real, double), graph)
            for graph, double in zip((self.in_train.rest(), self.in_eval.rest()), self.doubles, strict=True)
        )
        rest = Rest(in_eval if in_train.code == in_eval.code else in_train, in_eval, len(self.in_eval.crossing))
        rest.training = module.training
        return rest


def _fewest_crossings(module: nn.Module, sides: _Sides) -> _Halves:
    """Traces as little as possible, and down to the layers if that fails or if several values cross the cut."""
    cuts: list[_Halves] = []
    failure = Untraceable()
    for whole in (sides.whole, sides.layer):
        try:
            cuts.append(_halves(module, sides, whole))
        except Untraceable as error:
            failure = failure if str(failure) else error
        if cuts and len(cuts[-1].in_eval.crossing) == 1:
            break
    if not cuts:
        raise failure
    return min(cuts, key=lambda halves: len(halves.in_eval.crossing))


def _halves(module: nn.Module, sides: _Sides, whole: Callable[[str], bool]) -> _Halves:
    doubles = Whole(double(module, training=True)), Whole(double(module, training=False))
    tracers = (Tracer(lambda _, path: path != ROOT and whole(path.removeprefix(f"{ROOT}."))) for _ in doubles)
    graphs = [tracer.trace(each) for tracer, each in zip(tracers, doubles, strict=True)]
    in_train, in_eval = (
        Cut(graph, sides.of, lambda target: module.get_submodule(target.removeprefix(f"{ROOT}."))) for graph in graphs
    )
    if in_train.signature != in_eval.signature:
        raise Untraceable("other values cross the cut in training than in evaluation")
    return _Halves(in_train, in_eval, doubles)


class _Sides:
    """The side of the cut on which a tensor, and therefore a module, lies."""

    def __init__(self, module: nn.Module, stages: Stages, after: str) -> None:
        last = stages.index(after)
        self.heads, self.module = stages.heads, module
        self.late = {name: stages.index(stages.stage_of(name)) > last for name in tensor_names(module)}
        self.under: dict[str, set[bool]] = {}
        for name, late in self.late.items():
            parts = name.split(".")
            for depth in range(1, len(parts)):
                self.under.setdefault(".".join(parts[:depth]), set()).add(late)

    def whole(self, path: str) -> bool:
        """Whether a module is called as a whole. Modules around the head are not, so that their pooling does not end up
        in the rest."""
        if any(head != path and covers(path, head) for head in self.heads):
            return False
        if path in self.heads and type(self.module.get_submodule(path)) is nn.Sequential:
            return False
        return len(self.under.get(path, ())) < 2

    def layer(self, path: str) -> bool:
        """Whether a module is called as a whole when everything else is traced."""
        return is_layer(self.module.get_submodule(path))

    def of(self, node: fx.Node) -> bool | None:
        """True for a call or a tensor after the cut, False for one before it, None for a node without tensors."""
        if node.op not in ("call_module", "get_attr"):
            return None
        path = str(node.target).removeprefix(f"{ROOT}.")
        if node.op == "get_attr":
            return self.late.get(path)
        sides = self.under.get(path)
        return None if not sides else True in sides


def _to_layers(coarse: fx.GraphModule) -> Prefix:
    """The same function in eval mode, traced down to layers. Unchanged if a block cannot be traced.

    It is all or nothing: a block traced behind an untraced one would receive a symbol where it expects a list.
    """
    copied = double(coarse, training=False)
    try:
        graph = Tracer(lambda child, _: is_layer(child)).trace(copied)
    except Untraceable:
        graph = coarse.graph
    prefix = Prefix(copied, graph)
    prefix.training = False
    return prefix


def prove(module: nn.Module, prefix: nn.Module, rest: nn.Module, images: Tensor, after: str) -> float:
    """The largest difference between the logits of the two parts and those of the network in eval mode.

    Raises:
        InputError: the difference exceeds rounding errors.
    """
    parts = {part: part.training for part in (*module.modules(), *rest.modules())}
    try:
        with torch.no_grad(), full_float32(images.device):
            expected, received = module.eval()(images), rest.eval()(prefix(images))
    finally:
        for part, training in parts.items():
            part.training = training
    difference = float((expected - received).abs().max())
    if difference > TOLERANCE * max(1.0, float(expected.abs().max())):
        raise _uncuttable(module, after, Untraceable(f"its two halves give logits that differ by {difference:.2g}"))
    return difference


def _uncuttable(module: nn.Module, after: str, error: Exception) -> InputError:
    return InputError(
        f"cut: expected a network that torch.fx can cut after {after}, received {type(module).__name__}: "
        f"{one_line(error)}; try another freeze, or cache=none"
    )
