"""Cuts a network in two at the end of a stage, by torch.fx; both halves share the network's tensors.

Only what straddles the cut is traced: a module that lies on one side is called as a whole, so that `train()` and
`eval()` mean in the second half what they mean in the network. What the traced code does in each mode is two graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from graft.config.faults import InputError, said
from graft.models.cut_graph import Cut
from graft.models.stages import HEAD, Stages, covers, tensor_names
from graft.models.tracing import ROOT, UNTRACEABLE, Tracer, Whole, double, is_layer

TOLERANCE = 1e-5


class Prefix(fx.GraphModule):
    """The first half. It is frozen: it runs in eval mode and stays there."""

    def train(self, mode: bool = True) -> Prefix:
        super().train(False)
        return self


class Rest(nn.Module):
    """The second half: what the network does with the prefix's output, in train and in eval mode."""

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

    The prefix ends with stage `after` and whatever follows it that has neither weights nor chance (an activation, a
    pooling). It gives one tensor, or a tuple where several cross the cut. It is traced down to its layers, so that a
    batch-norm can be folded into the convolution before it.

    Args:
        module: stays as it is, its modes included; cut it on the device where it will remain.
        after: name of a trunk stage.
        example: images [B, C, H, W] to prove the cut on in eval mode.

    Raises:
        InputError: not a trunk stage, or a network that cannot be cut there, with the reason.
    """
    if after == HEAD:
        raise InputError(f"cut: expected a stage of the trunk ({', '.join(stages.names)}), received {HEAD!r}")
    sides = _Sides(module, stages, after)
    try:
        in_train, in_eval = (_cut(module, sides, training) for training in (True, False))
        if in_train.signature != in_eval.signature:
            raise ValueError("other values cross the cut in training than in evaluation")
        whole = Whole(module)
        prefix = _to_layers(fx.GraphModule(whole, in_eval.prefix()))
        rest_eval = fx.GraphModule(whole, in_eval.rest())
        rest_train = fx.GraphModule(whole, in_train.rest())
    except UNTRACEABLE as error:
        raise _uncuttable(module, after, error) from error
    rest = Rest(rest_eval if rest_train.code == rest_eval.code else rest_train, rest_eval, len(in_eval.crossing))
    prefix.training, rest.training = False, module.training
    if example is not None:
        _prove(module, prefix, rest, example, after)
    return prefix, rest


class _Sides:
    """Which side of the cut a tensor, and so a module, lies on."""

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
        """Whether a module is called as a whole; those around the head are not, lest its pooling land in the rest."""
        if any(head != path and covers(path, head) for head in self.heads):
            return False
        if path in self.heads and type(self.module.get_submodule(path)) is nn.Sequential:
            return False
        return len(self.under.get(path, ())) < 2

    def of(self, node: fx.Node) -> bool | None:
        """True for a call or a tensor after the cut, False for one before it, None for what owns no tensor."""
        if node.op not in ("call_module", "get_attr"):
            return None
        path = str(node.target).removeprefix(f"{ROOT}.")
        if node.op == "get_attr":
            return self.late.get(path)
        found = self.under.get(path)
        return None if not found else True in found


def _cut(module: nn.Module, sides: _Sides, training: bool) -> Cut:
    """Traces what straddles the cut in one mode and divides it."""
    whole = Whole(double(module, training))
    graph = Tracer(lambda _, path: path != ROOT and sides.whole(path.removeprefix(f"{ROOT}."))).trace(whole)
    return Cut(graph, sides.of, lambda target: module.get_submodule(target.removeprefix(f"{ROOT}.")))


def _to_layers(coarse: fx.GraphModule) -> Prefix:
    """The same function in eval mode, traced to layers wherever a block allows it."""
    blocks = {str(node.target) for node in coarse.graph.nodes if node.op == "call_module"}
    closed = {path for path in blocks if not _traceable(coarse.get_submodule(path))}
    graph = Tracer(lambda child, path: path in closed or is_layer(child)).trace(double(coarse, training=False))
    return Prefix(coarse, graph)


def _traceable(block: nn.Module) -> bool:
    if is_layer(block):
        return True
    try:
        Tracer(lambda child, _: is_layer(child)).trace(double(block, training=False))
    except UNTRACEABLE:
        return False
    return True


def _prove(module: nn.Module, prefix: nn.Module, rest: nn.Module, images: Tensor, after: str) -> None:
    parts = {part: part.training for part in (*module.modules(), *rest.modules())}
    try:
        with torch.no_grad():
            expected, received = module.eval()(images), rest.eval()(prefix(images))
    finally:
        for part, training in parts.items():
            part.training = training
    difference = float((expected - received).abs().max())
    if difference > TOLERANCE * max(1.0, float(expected.abs().max())):
        raise _uncuttable(module, after, ValueError(f"its two halves give logits that differ by {difference:.2g}"))


def _uncuttable(module: nn.Module, after: str, error: Exception) -> InputError:
    return InputError(
        f"cut: expected a network that torch.fx can cut after {after}, received {type(module).__name__}: "
        f"{said(error)}; try another freeze, or cache=none"
    )
