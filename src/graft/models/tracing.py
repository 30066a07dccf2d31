"""graft's use of torch.fx: the caller decides which modules are not traced into."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any

import torchvision
from torch import Tensor, fx, nn

from graft.config.faults import one_line
from graft.models.stages import tensor_names

ROOT = "network"
# What following a forward symbolically may raise when it asks a value which way to go or hands one to foreign code.
_REASONS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)


class Untraceable(Exception):
    """The network cannot be traced, copied or divided. Any other error is a bug in graft."""


class Whole(nn.Module):
    """A network as a module with one argument, so that other arguments of its forward keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.training = network.training
        self.network = network

    def forward(self, image: Tensor) -> Any:
        return self.network(image)


class Tracer(fx.Tracer):
    """Does not trace into modules for which `whole` is true."""

    def __init__(self, whole: Callable[[nn.Module, str], bool]) -> None:
        modules: Any = (math, torchvision.ops)  # torch annotates a tuple of one
        super().__init__(autowrap_modules=modules, autowrap_functions=_opaque_functions(), param_shapes_constant=True)
        self.whole = whole
        self._own_mistake = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Like `torch.fx.Tracer.trace`.

        Raises:
            Untraceable: the forward does something that is impossible with symbols.
        """
        try:
            return super().trace(root, concrete_args)
        except _REASONS as error:
            if self._own_mistake:
                raise
            raise Untraceable(one_line(error)) from error

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        self._own_mistake = True  # as long as `whole` is asked, which is graft's
        whole = self.whole(m, module_qualified_name)
        self._own_mistake = False
        return whole


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a single step of computation: one of torch's own, or one that holds all its tensors itself,
    or none."""
    if type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential):
        return True
    return type(module) in _opaque_modules() or not any(tensor_names(child) for child in module.children())


def double(module: nn.Module, training: bool) -> nn.Module:
    """A copy in one mode that shares every parameter and buffer. Tracing may leave symbols in a module's caches.

    Raises:
        Untraceable: something in the module cannot be copied.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    try:
        copied = copy.deepcopy(module, shared)
    except _REASONS as error:
        raise Untraceable(one_line(error)) from error
    for part in copied.modules():
        part.training = training
    return copied


def targets(graph: fx.Graph, real: nn.Module, double: nn.Module) -> dict[str, Any]:
    """The modules and tensors that a graph uses, from the real network; those that tracing added, from the copy."""
    named = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    return {name: _at(real, name, _at(double, name, None)) for name in sorted(named)}


def _at(root: nn.Module, name: str, otherwise: Any) -> Any:
    value: Any = root
    for part in name.split("."):
        value = getattr(value, part, None)
    return otherwise if value is None else value


def _opaque_functions() -> tuple[Callable[..., Any], ...]:
    """Functions that timm declares untraceable, where timm is in use."""
    if "timm.layers" not in sys.modules:
        return ()
    from timm.models import get_notrace_functions

    return tuple(get_notrace_functions())


def _opaque_modules() -> tuple[type[nn.Module], ...]:
    """Module classes that timm declares untraceable, where timm is in use."""
    if "timm.layers" not in sys.modules:
        return ()
    from timm.models import get_notrace_modules

    return tuple(get_notrace_modules())
