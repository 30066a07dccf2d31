"""head=stages: one linear layer on the pooled outputs of every block and on the input of the library's last layer.

The network is the library's model traced by torch.fx in eval mode. Its blocks are called as they are, so every tensor
keeps the library's name. Pooling and concatenation have no weights, so a cut after the last stage leaves a vector.
[Evci et al. 2022, Head2Toe]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from graft.config.choices import HeadKind, Taps
from graft.config.faults import InputError, one_line
from graft.models.blocks import find_taps, pooled_axes
from graft.models.stages import Stages, covers, tensor_names
from graft.models.tracing import ROOT, Tracer, Untraceable, Whole, double, targets


class StagesNetwork(fx.GraphModule):
    """A library's model whose last layer takes the pooled outputs of its blocks. The trunk always runs in eval mode."""

    def __deepcopy__(self, memo: dict[int, Any]) -> StagesNetwork:
        """Corrects the copy, in which fx makes every buffer persistent."""
        copied: Any = super().__deepcopy__(memo)
        _match_buffers(copied, self)
        return copied


def describe_taps(
    module: nn.Module, stages: Stages, head: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The arguments of `tap` as JSON values: each tapped module with the axes and statistics of its pooling.

    Args:
        module: a module on the meta device.
        head: `statistics` (mean, std, max) and `taps` (block or stage), as in the config.

    Raises:
        InputError: there is nothing to tap, or the network does not take images of this shape.
    """
    statistics = list(head["statistics"])
    try:
        taps, entering = find_taps(module, stages, Taps(head["taps"]), image_shape)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise _untappable(module, error) from error
    if not taps:
        raise _untappable(module, ValueError("no module of its stages gives a map or tokens"))
    rows = [
        {"module": tap.module, "axes": list(tap.axes), "statistics": _of_places(statistics, tap.places)} for tap in taps
    ]
    axes = pooled_axes(entering)
    channels = entering[1] if len(entering) == 4 else entering[-1]
    last: dict[str, Any] = {
        "axes": list(axes),
        "statistics": list(dict.fromkeys(["mean", *statistics])) if axes else ["mean"],
    }
    last["width"] = channels * len(last["statistics"])
    width = sum(tap.channels * len(row["statistics"]) for tap, row in zip(taps, rows, strict=True))
    return {
        "kind": head["kind"],
        "at": head["at"],
        "statistics": statistics,
        "taps": rows,
        "last": last,
        "width": width + last["width"],
    }


def tap(module: nn.Module, head: Mapping[str, Any], *, num_classes: int) -> StagesNetwork:
    """The network made from a library's model, which shares its tensors, with a new linear layer.

    Raises:
        InputError: torch.fx cannot trace the model far enough.
    """
    at, rows = head["at"], head["taps"]
    on_meta = next(module.parameters()).is_meta
    layer = nn.Linear(head["width"], num_classes, device="meta" if on_meta else None)
    if not 0 < head["last"]["width"] <= head["width"]:
        raise ValueError(f"a last layer that takes {head['last']['width']} of {head['width']} values")
    names = {name for name in tensor_names(module) if not covers(at, name)} | {f"{at}.weight", f"{at}.bias"}
    paths = [*(row["module"] for row in rows), at]
    try:
        whole = Whole(double(module, training=False))
        graph = Tracer(lambda _, path: _is_leaf(path.removeprefix(f"{ROOT}."), paths)).trace(whole)
        _pool(graph, whole, rows, head["last"], at)
        values = targets(graph, Whole(module), whole)
    except Untraceable as error:
        raise _untappable(module, error) from error
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = str(node.target).removeprefix(f"{ROOT}.")
    module.set_submodule(at, layer)
    named = {name.removeprefix(f"{ROOT}."): value for name, value in values.items()} | {at: layer}
    network = StagesNetwork(named, graph, class_name=type(module).__name__)
    _complete(network, module)
    _match_buffers(network, module)
    further = set(tensor_names(network)) ^ names
    if further:
        raise _untappable(module, ValueError(f"following it would lose or add {', '.join(sorted(further)[:3])}"))
    network.train(module.training)
    return network


def columns_of(head: Mapping[str, Any]) -> dict[str, Tensor]:
    """Column indices of the inputs of a head=stages: `last`, the input of the library's own last layer; `blocks`, the
    pooled outputs; and `all`."""
    own, width = head["last"], head["width"]
    start = width - own["width"]
    return {
        "last": torch.arange(start, start + own["width"] // len(own["statistics"])),
        "blocks": torch.arange(start),
        "all": torch.arange(width),
    }


def head_in_words(head: Mapping[str, Any], build: Mapping[str, Any]) -> str:
    """A description for plan, card and report of a network with this head record; "" for other heads."""
    if head.get("kind") != HeadKind.stages.value:
        return ""
    pooled, name = ", ".join(map(str, head.get("statistics", []))), build.get("name")
    return (
        f"One linear layer takes {head.get('width')} values an image: what {len(head.get('taps', []))} modules of the "
        f"trunk give, pooled ({pooled}), and what {build.get('library')}'s own last layer would take. No plain {name} "
        "loads these weights; the trunk's tensors alone fit it, under its names."
    )


def alike(a: Tensor, b: Tensor, head_of_a: Mapping[str, Any], head_of_b: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The inputs of the last layers of two networks with the same trunk, so that they can be compared.

    For a network with head=stages beside one with another head, this is the input of the library's own last layer.
    """
    first, second = head_of_a.get("last"), head_of_b.get("last")
    if dict(head_of_a) == dict(head_of_b) or not (first or second):
        return a, b
    return _last_entered(a, first, second), _last_entered(b, second, first)


def _last_entered(entering: Tensor, own: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Tensor:
    """[B, C]: the mean of a feature map, or the last columns if the network has head=stages."""
    if own:
        return entering[:, entering.shape[1] - own["width"] :][:, : own["width"] // len(own["statistics"])]
    return entering.mean(other["axes"]) if other and other["axes"] else entering


def _of_places(statistics: Sequence[str], places: int) -> list[str]:
    """The statistics for this many places: a single value is its own mean and maximum, and has no standard
    deviation."""
    return list(statistics) if places > 1 else ["mean"]


def _is_leaf(path: str, paths: Sequence[str]) -> bool:
    """Whether a module is called as a whole: every module except those around a tap."""
    return path != ROOT and not any(path != inner and covers(path, inner) for inner in paths)


def _pool(
    graph: fx.Graph, whole: nn.Module, rows: Sequence[Mapping[str, Any]], last: Mapping[str, Any], at: str
) -> None:
    """Pools right after each tap, so that the feature map need not be kept, and connects the head to all pooled
    outputs."""
    calls = {str(node.target).removeprefix(f"{ROOT}."): node for node in graph.nodes if node.op == "call_module"}
    missing = [path for path in (*(row["module"] for row in rows), at) if path not in calls]
    if missing:
        raise Untraceable(f"its forward does not call {', '.join(missing[:3])}")
    vectors: list[fx.Node] = []
    for row in rows:
        node = calls[row["module"]]
        with graph.inserting_before(node.next):
            vectors += _statistics(graph, node, row)
    head = calls[at]
    for node in reversed(list(graph.nodes)):  # what the library does with its last layer's output
        if node is head:
            break
        graph.erase_node(node)
    if len(head.all_input_nodes) != 1:
        raise Untraceable(f"its last layer takes {len(head.all_input_nodes)} values")
    (entering,) = head.all_input_nodes
    while _is_dropout(whole, entering):  # which changes nothing in eval mode
        (entering,) = entering.all_input_nodes
    with graph.inserting_before(head):
        vectors += _statistics(graph, entering, last) if last["axes"] else [entering]
        head.args = (graph.call_function(torch.cat, (vectors, 1)),)
    graph.output(head)
    for node in reversed(list(graph.nodes)):
        if not node.users and _is_dropout(whole, node):
            graph.erase_node(node)
    graph.lint()


def _statistics(graph: fx.Graph, node: fx.Node, row: Mapping[str, Any]) -> list[fx.Node]:
    """[B, C] for each statistic. The deviation is squared in place: allocating memory would take longer than the
    arithmetic."""
    axes = list(row["axes"])
    mean = graph.call_function(torch.mean, (node, axes), {"keepdim": True})
    outputs: list[fx.Node] = []
    for statistic in row["statistics"]:
        outputs.append(_STATISTICS[statistic](graph, node, mean, axes))
    return outputs


def _mean(graph: fx.Graph, _node: fx.Node, mean: fx.Node, _axes: list[int]) -> fx.Node:
    return graph.call_function(torch.flatten, (mean, 1))


def _std(graph: fx.Graph, node: fx.Node, mean: fx.Node, axes: list[int]) -> fx.Node:
    """The standard deviation over N, not N - 1. torch.std takes several times as long on a CPU."""
    deviation = graph.call_function(torch.sub, (node, mean))
    squared = graph.call_method("square_", (deviation,))
    return graph.call_function(torch.sqrt, (graph.call_function(torch.mean, (squared, axes)),))


def _max(graph: fx.Graph, node: fx.Node, _mean: fx.Node, axes: list[int]) -> fx.Node:
    return graph.call_function(torch.amax, (node, axes))


_STATISTICS: Mapping[str, Callable[[fx.Graph, fx.Node, fx.Node, list[int]], fx.Node]] = {
    "mean": _mean,
    "std": _std,
    "max": _max,
}


def _is_dropout(whole: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(whole.get_submodule(str(node.target)), nn.Dropout)
    return node.op == "call_function" and node.target is nn.functional.dropout


def _complete(own: nn.Module, library: nn.Module) -> None:
    """Adds all modules of the library's model in their order, including those that the graph does not call (an
    auxiliary classifier)."""
    for name, child in library.named_children():
        present = getattr(own, name, None)
        if present is None:
            present = child
        elif present is not child:
            _complete(present, child)
        if name in dict(own.named_children()):
            delattr(own, name)
        own.add_module(name, present)
    for name, parameter in library.named_parameters(recurse=False):
        setattr(own, name, parameter)
    for name, buffer in library.named_buffers(recurse=False):
        own.register_buffer(name, buffer)


def _match_buffers(own: nn.Module, like: nn.Module) -> None:
    """Makes the same buffers non-persistent as in the library's model."""
    for path, part in like.named_modules():
        saved = {name for name in part.state_dict() if "." not in name}
        for name, _ in part.named_buffers(recurse=False):
            if name not in saved:
                twin = own.get_submodule(path)
                twin.register_buffer(name, twin.get_buffer(name), persistent=False)


def _untappable(module: nn.Module, error: Exception) -> InputError:
    return InputError(
        f"head=stages: expected a network whose blocks torch.fx can find, received {type(module).__name__}: "
        f"{one_line(error)}; try head.taps=stage, or head=linear"
    )
