"""A donor: named tensors that are read one at a time, and their origin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from math import isfinite
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graft.config.schema import PreprocessConfig
from graft.models.fingerprint import combined, digest
from graft.transfer.habits import Doubt
from graft.transfer.layer_settings import UNKNOWN, layers_of
from graft.transfer.ledger import TensorInfo, TransferError


@dataclass(slots=True, kw_only=True)
class Donor:
    """Named tensors whose metadata is known at once and whose values are read on demand.

    A donor is a context manager; leaving it closes the file behind it.
    """

    source: str
    """Description for people: a path, a model zoo entry, a class name."""
    format: str
    """safetensors, torch, lightning, npz, keras, module, mapping …"""
    infos: Mapping[str, TensorInfo]
    """Every tensor in the donor's own order, under its name in the container. Wrapper prefixes (`module.`) are still
    included: `account` removes them, because only there the target's names are known."""
    reader: Callable[[str], Tensor]
    """Returns the value for a name. It may be called twice for a name, and its result may share memory with the
    donor."""
    resident: bool = False
    """Whether values are views of memory or of a mapped file, so that holding all of them costs nothing."""
    folds_epsilon: bool = False
    """Whether a different norm epsilon is compensated automatically, like the order of axes (Keras). If not, it is only
    remarked on."""
    runs: Sequence[Tensor] = ()
    """Views of all floating-point values in a few long pieces, if the format allows it."""
    _finite: Future[bool] | None = None
    fingerprint: str | Callable[[], str] | None = None
    """The SHA-256, or a function that computes it. This takes longer than a transfer, so it is computed only when it is
    recorded."""
    remarks: list[str] = field(default_factory=list)
    """What was recognised or decided on opening: the container, the kind of file, folded or transposed tensors."""
    closer: Callable[[], None] | None = None
    container: str = ""
    """The mapping that holds these tensors, for a file with several of them; "" if there is only one."""
    doubts: Sequence[Doubt] = ()
    """Reasons against a transfer, unless the receiving network settles them. They do not prevent inspection."""
    wrappers: Sequence[str] = ()
    """Additional prefixes that may be removed from its names: nested models, each with its dot."""
    excuses: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tensors that may stay unused because their function is provided in another way, each with the reason."""
    head: Sequence[str] = ()
    """Tensors of the layers after its trunk, which a network with a new head does not use."""
    preprocess: PreprocessConfig | None = None
    """Its preprocessing, as far as the donor contains it."""
    own_trunk: Callable[[Collection[str]], nn.Module] | None = None
    """For a file that describes its model: builds the part of this model that maps normalised images N, C, H, W to the
    input of the first layer with no tensor among the given ones."""
    module: nn.Module | None = None
    """The live module itself, if the donor is not a file."""

    def read(self, name: str) -> Tensor:
        """One tensor, detached, as stored in the donor. The caller must not write to it."""
        return self.reader(name).detach()

    @property
    def sha256(self) -> str | None:
        return self.fingerprint() if callable(self.fingerprint) else self.fingerprint

    def hash_values(self) -> str:
        """A SHA-256 over names, dtypes, shapes and values, for live tensors, which have no file hash."""
        return combined({name: digest(self.read(name)) for name in self.infos})

    def close(self) -> None:
        if self.closer is not None:
            self.closer()
            self.closer = None

    def look_ahead(self) -> None:
        """Starts a thread that looks for non-finite values, so that the account can be made meanwhile."""
        if self.runs and self._finite is None:
            thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="graft-finite")
            self._finite = thread.submit(are_finite, self.runs)
            thread.shutdown(wait=False)

    def is_finite(self) -> bool:
        """Whether all values are known to be finite. If not, they must be checked one by one."""
        self.look_ahead()
        return self._finite is not None and self._finite.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def donor_of_mapping(mapping: Mapping[str, Any], *, source: str = "mapping", format: str = "mapping") -> Donor:
    """A donor of tensors that are already in memory. They are neither copied nor changed.

    Raises:
        TransferError: A value is not a tensor, or a tensor has no values (lazy or on the meta device).
    """
    for name, value in mapping.items():
        if not isinstance(value, Tensor):
            raise TransferError(
                f"donor {source}: expected a tensor under {name!r}, received {type(value).__name__}; "
                "try the entry that holds the weights (checkpoint['state_dict'], say)"
            )
        check_has_values(name, value, f"donor {source}")
        check_dense(name, value, f"donor {source}")
    infos = {name: info_of_tensor(value) for name, value in mapping.items()}
    return Donor(source=source, format=format, infos=infos, reader=lambda name: mapping[name], resident=True)


def donor_of_module(module: nn.Module, *, source: str | None = None) -> Donor:
    """A donor of a live module's state dict (parameters and persistent buffers), with the settings of its layers."""
    state = module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    donor = donor_of_mapping(tensors, source=source or type(module).__name__, format="module")
    donor.module = module
    donor.remarks += [f"{name}: not a tensor; left out" for name in state if name not in tensors]
    layers = layers_of(module)
    donor.infos = {
        name: replace(info, epsilon=layer.epsilon, settings=layer.settings)
        for name, info in donor.infos.items()
        for layer in [layers.get(id(tensors[name]), UNKNOWN)]
    }
    return donor


def info_of_tensor(value: Tensor) -> TensorInfo:
    """The metadata of a tensor that is in memory."""
    return TensorInfo(shape=tuple(value.shape), dtype=dtype_name(value.dtype))


@cache
def dtype_name(dtype: torch.dtype) -> str:
    """torch's name of the dtype without `torch.`."""
    return str(dtype).removeprefix("torch.")


def check_dense(name: str, value: Tensor, whose: str) -> None:
    """Raises TransferError for a tensor that is not stored densely."""
    if value.is_nested or value.layout is not torch.strided:
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        remedy = "to_padded_tensor(0)" if value.is_nested else "to_dense()"
        raise TransferError(
            f"{whose}: expected dense tensors, received a {layout} one under {name!r}; try value.{remedy}"
        )


def check_has_values(name: str, value: Tensor, whose: str) -> None:
    """Raises TransferError for a lazy or meta tensor, which has a name but no values."""
    if is_lazy(value):
        raise TransferError(
            f"{whose}: {name!r} belongs to a lazy module that has not seen an input yet; "
            "try one forward pass through it before the transfer"
        )
    if value.is_meta:
        raise TransferError(
            f"{whose}: {name!r} is on the meta device and has no values; try module.to_empty(device='cpu') first"
        )


def is_finite(value: Tensor) -> bool:
    """Whether no value is NaN or infinite. A finite sum implies finite terms; a sum that is not finite may have
    overflowed."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    summable = value.float() if value.element_size() == 1 else value  # torch cannot add the 8-bit formats
    return isfinite(abs(summable.sum().item())) or bool(torch.isfinite(summable).all())


def are_finite(values: Iterable[Tensor]) -> bool:
    """Whether no value of any of the tensors is NaN or infinite."""
    return all(map(is_finite, values))


def count_unsound(value: Tensor) -> tuple[int, int]:
    """The number of NaN values, and the number of infinite values."""
    wide = value.float() if value.element_size() == 1 else value
    return int(torch.isnan(wide).sum()), int(torch.isinf(wide).sum())
