"""Divides a traced network into a prefix that can be computed once and a rest that runs in training. Pure on graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import fx, nn

from graft.models.tracing import Untraceable

# Parts of the names of what is random in training, as modules and as functions.
CHANCE = ("drop", "stochastic", "bernoulli", "rand")


class Cut:
    """A graph in two parts, and the values that pass from the first to the second.

    Args:
        graph: images in, logits out.
        side: of a node: True if it owns tensors after the cut, False if it owns tensors before it, None if none.
        module_of: a call's target to its module.
    """

    def __init__(
        self, graph: fx.Graph, side: Callable[[fx.Node], bool | None], module_of: Callable[[str], nn.Module]
    ) -> None:
        self.graph, self.module_of = graph, module_of
        self.numbers = _numbers(graph)
        _drop_checks(graph, self.numbers)
        self.fed = _reached(graph, lambda node: node.op == "placeholder")
        late = _reached(graph, lambda node: side(node) is True)
        early = [node for node in graph.nodes if node in self.fed and node not in late and node.op != "output"]
        core = _ancestors(node for node in early if side(node) is False or self._takes_constant(node))
        self.front, self.crossing = min(
            (self._divide(early, core, tail=tail) for tail in (True, False)), key=lambda division: len(division[1])
        )
        if not self.crossing:
            raise Untraceable("nothing that comes from the images crosses the cut")

    @property
    def signature(self) -> tuple[str, ...]:
        """The values that cross the cut, in a form that does not depend on the numbering of nodes."""
        return tuple(f"{node.op} {node.target}" for node in self.crossing)

    def prefix(self) -> fx.Graph:
        """The graph from images to the values that cross the cut: a tensor, or a tuple."""
        new, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        wanted = _ancestors(self.front)
        for node in self.graph.nodes:
            if node in wanted:
                copies[node] = new.node_copy(node, copies.__getitem__)
        outputs = [copies[node] for node in self.crossing]
        new.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        new.lint()
        return new

    def rest(self) -> fx.Graph:
        """The graph from the values that cross the cut (one argument each) to logits. It also computes values that do
        not depend on the images."""
        new, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for number, node in enumerate(self.crossing):
            copies[node] = new.placeholder(f"features_{number}")
        features = copies[self.crossing[0]]

        def make(node: fx.Node) -> None:
            if node in copies:
                return
            if node in self.numbers and _is_batch_size(node):
                copies[node] = new.call_method("size", (features, 0))
                return
            for source in node.all_input_nodes:
                make(source)
            copies[node] = new.node_copy(node, copies.__getitem__)

        for node in self.graph.nodes:
            if node in self.fed and node not in self.front and node not in self.numbers:
                make(node)
        new.lint()
        return new

    def _divide(
        self, early: Sequence[fx.Node], core: set[fx.Node], *, tail: bool
    ) -> tuple[set[fx.Node], list[fx.Node]]:
        """The prefix's nodes, and those of them that cross the cut.

        The prefix consists of what its weights need and, with `tail`, of following nodes with neither weights nor
        randomness.
        """
        early_nodes: set[fx.Node] = set()
        for node in early:
            ready = all(source in early_nodes for source in node.all_input_nodes if source in self.fed)
            follows = tail and ready and node not in self.numbers and not self._by_chance(node)
            if node in core or node.op == "placeholder" or follows:
                early_nodes.add(node)
        crossing: set[fx.Node] = set()

        def use(source: fx.Node) -> None:
            if source in self.numbers:
                for origin in () if _is_batch_size(source) else source.all_input_nodes:
                    use(origin)
            elif source in early_nodes:
                crossing.add(source)

        for node in self.graph.nodes:
            if node in self.fed and node not in early_nodes and node not in self.numbers:
                for source in node.all_input_nodes:
                    use(source)
        return early_nodes, [node for node in self.graph.nodes if node in crossing]

    def _takes_constant(self, node: fx.Node) -> bool:
        """Whether a node combines the images with values that do not depend on them (a position embedding)."""
        return any(source not in self.fed for source in node.all_input_nodes)

    def _by_chance(self, node: fx.Node) -> bool:
        """Whether a node is random in training."""
        if node.op == "call_module":
            names = [type(part).__name__ for part in self.module_of(str(node.target)).modules()]
        else:
            names = [node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")]
        return any(word in name.lower() for name in names for word in CHANCE)


def _reached(graph: fx.Graph, start: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """The starting nodes, and all nodes that depend on them."""
    nodes: set[fx.Node] = set()
    for node in graph.nodes:
        if start(node) or any(source in nodes for source in node.all_input_nodes):
            nodes.add(node)
    return nodes


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes, and all nodes that they depend on."""
    ancestors: set[fx.Node] = set()
    open_ends = list(nodes)
    while open_ends:
        node = open_ends.pop()
        if node not in ancestors:
            ancestors.add(node)
            open_ends += node.all_input_nodes
    return ancestors


def _numbers(graph: fx.Graph) -> set[fx.Node]:
    """Sizes of tensors, and values that depend only on sizes."""
    nodes: set[fx.Node] = set()
    for node in graph.nodes:
        asks_shape = node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim")
        asks_size = node.op == "call_method" and node.target in ("size", "dim", "numel")
        home = getattr(node.target, "__module__", "") if node.op == "call_function" else ""
        plain = home in ("_operator", "math", "builtins") and bool(node.all_input_nodes)
        if asks_shape or asks_size or (plain and all(source in nodes for source in node.all_input_nodes)):
            nodes.add(node)
    return nodes


def _drop_checks(graph: fx.Graph, numbers: set[fx.Node]) -> None:
    """Removes assertions about shapes, and sizes that only they use."""
    for node in reversed(list(graph.nodes)):
        if not node.users and (getattr(node.target, "__name__", "") == "_assert" or node in numbers):
            graph.erase_node(node)
            numbers.discard(node)


def _is_batch_size(node: fx.Node) -> bool:
    """`x.size(0)`, or item 0 of `x.shape` or `x.size()`."""
    if node.op == "call_method":
        return node.target == "size" and tuple(node.args[1:]) == (0,)
    whole = node.args[0] if getattr(node.target, "__name__", "") == "getitem" else None
    if not isinstance(whole, fx.Node) or node.args[1] != 0:
        return False
    return whole.target is getattr or (whole.target == "size" and len(whole.args) == 1)
