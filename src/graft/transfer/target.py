"""The receiving network: its tensors by name, their metadata, and which of them share memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graft.transfer.donor import check_dense, dtype_name
from graft.transfer.habits import Habit, Habits, habits_of
from graft.transfer.layer_settings import UNKNOWN, layers_of
from graft.transfer.ledger import TensorInfo, TransferError

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class Target:
    """A module's persistent tensors, live: writing to them writes to the module."""

    tensors: dict[str, Tensor]
    infos: dict[str, TensorInfo]
    ties: dict[str, str]
    """The earlier name of the same tensor, by name."""
    remarks: list[str]
    habits: Habits = field(default_factory=dict[Habit, frozenset[str]])
    """What its layers without tensors do, as far as they are modules."""


def target_of_module(module: object) -> Target:
    """Reads a module's names, shapes and dtypes. The module may be on the meta device.

    Raises:
        TransferError: the module is lazy, or builds its state dict by a hook, so that a write would go to a copy.
    """
    if not isinstance(module, nn.Module):
        raise TransferError(
            f"target: expected a torch.nn.Module, received {type(module).__name__}; try the module itself"
        )
    state = module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    modules = list(module.modules())
    parameters, buffers, transposed = _owned(modules)
    layers = layers_of(module)
    infos: dict[str, TensorInfo] = {}
    for name, value in tensors.items():
        if is_lazy(value):
            raise TransferError(
                f"target: {name!r} belongs to a lazy module that has not seen an input yet, so its shape is unknown; "
                "try one forward pass through the target before the transfer"
            )
        if id(value) not in parameters and id(value) not in buffers:
            raise TransferError(
                f"target: {name!r} in the state dict of {type(module).__name__} is made by a hook and is no "
                "parameter or buffer; try the transfer into the sub-module that owns it"
            )
        check_dense(name, value, "target")
        layer = layers.get(id(value), UNKNOWN)
        infos[name] = TensorInfo(
            tuple(value.shape), dtype_name(value.dtype), id(value) in buffers, id(value) in transposed,
            layer.epsilon, layer.settings,
        )  # fmt: skip
    remarks = [f"{name}: extra state that is no tensor; left as it is" for name in state if name not in tensors]
    return Target(tensors, infos, _ties(tensors), remarks, habits_of(modules))


def _owned(modules: Sequence[nn.Module]) -> tuple[set[int], set[int], set[int]]:
    """The identities of the parameters, the buffers, and the weights of transposed convolutions."""
    parameters = {id(value) for child in modules for value in child.parameters(recurse=False)}
    buffers = {id(value) for child in modules for value in child.buffers(recurse=False)}
    return parameters, buffers, {id(child.weight) for child in modules if isinstance(child, _TRANSPOSED)}


def _ties(tensors: dict[str, Tensor]) -> dict[str, str]:
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, value in tensors.items():
        earlier = first.setdefault(id(value), name)
        if earlier != name:
            ties[name] = earlier
    return ties
