"""Rebuilds tensors from their description in a pickle, as views of the stored bytes. Each view is checked."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graft.transfer.donors.pickled import Name, Opaque, Persistent, Pickled, kind_of, read_pickle

Bytes = Callable[[str, int], Tensor]
"""Returns a storage's bytes, uint8 [n], from its key and their number."""

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_REBUILDERS = ("torch._utils _rebuild_", "torch._tensor _rebuild_", "torch.nested", "torch.distributed")
"""The functions to which torch's pickles of tensors refer."""
_ARRAYS = frozenset(
    f"numpy.{core} {name}"
    for core, name in [
        ("core.multiarray", "_reconstruct"), ("_core.multiarray", "_reconstruct"),
        ("core.numeric", "_frombuffer"), ("_core.numeric", "_frombuffer"),
    ]
)  # fmt: skip
_MAGIC = 0x1950A86A20F9469CFC6C
_DIMENSIONS = 64


class NotRebuilt(ValueError):
    """A tensor of a kind that donors do not use (sparse, quantized, distributed)."""


def is_tensor(value: object) -> bool:
    """Whether this is the description of a torch tensor of any kind."""
    return isinstance(value, Opaque) and value.name.startswith(_REBUILDERS)


def is_array(value: object) -> bool:
    """Whether this is the description of a NumPy array."""
    return isinstance(value, Opaque) and value.name in _ARRAYS


def tensor_of(value: Opaque, storages: Bytes | None) -> Tensor:
    """The described tensor, on the memory of its storage.

    Args:
        storages: gives the bytes of a storage. None: the file has none beside the pickle.

    Raises:
        NotRebuilt: it is of an unsupported kind.
        ValueError, TypeError, …: it is damaged (`refusal.DAMAGE`).
    """
    if value.name in _ARRAYS:
        return _array(value)
    match value.name.partition(" ")[2], value.arguments:
        case "_rebuild_tensor" | "_rebuild_tensor_v2", (storage, int(offset), tuple(size), tuple(stride), *rest):
            return _marked(_view(*_storage(storage, storages), offset, size, stride), rest[2:3])
        case "_rebuild_tensor_v3", (storage, int(offset), tuple(size), tuple(stride), _, _, Name() as kind, *rest):
            content, _ = _storage(storage, storages)
            return _marked(_view(content, _dtype(kind), offset, size, stride), rest[:1])
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (Opaque() as data, *_):
            return tensor_of(data, storages)
        case "_rebuild_from_type_v2", (Name() as function, Name() as of, tuple(arguments), _) if of in _PLAIN:
            return tensor_of(Opaque(function, arguments), storages)
        case _:
            raise NotRebuilt(kind_of(value))


_PLAIN = ("torch Tensor", "torch.nn.parameter Parameter")


def _storage(storage: object, storages: Bytes | None) -> tuple[Tensor, torch.dtype]:
    """The bytes of a storage, and their dtype."""
    match storage:
        case Persistent(id=("storage", Name() as kind, key, _, int(count), *view)) if storages is not None:
            dtype = storage_dtype(kind)
            content = storages(str(key), count * dtype.itemsize)
            match view:
                case [(_, int(offset), int(length))] if 0 <= offset <= offset + length <= count:
                    return content[offset * dtype.itemsize : (offset + length) * dtype.itemsize], dtype
                case [] | [None]:
                    return content, dtype
                case _:
                    raise ValueError(f"a view of a storage that is none: {view}")
        case Opaque(name="torch.storage _load_from_bytes", arguments=(bytes(inner),)):  # pickled without torch.save
            pickled, inner_storages = read_legacy(io.BytesIO(inner))
            return _storage(pickled.root, inner_storages)
        case _:
            raise ValueError(f"a tensor on a {kind_of(storage)} in place of a storage")


def storage_dtype(kind: Name) -> torch.dtype:
    """The dtype of a torch storage class.

    Raises:
        NotRebuilt: the class is not supported.
    """
    name = kind.rpartition(" ")[2]
    if name not in _STORAGES:
        raise NotRebuilt(kind.dotted)
    return _STORAGES[name]


def _dtype(kind: Name) -> torch.dtype:
    dtype = getattr(torch, kind.rpartition(" ")[2], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"a tensor of {kind.dotted}, which is no dtype")
    return dtype


def _view(content: Tensor, dtype: torch.dtype, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Tensor:
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of shape {size[:8]} and strides {stride[:8]}")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if prod(size) and (last + 1) * dtype.itemsize > content.numel():
        raise ValueError(f"a tensor of shape {size[:8]} that reaches beyond its storage of {content.numel()} bytes")
    if content.data_ptr() % dtype.itemsize or content.storage_offset() % dtype.itemsize:  # its writer did not align it
        content = content.clone()
    typed = content.view(dtype)
    return typed.as_strided(size, stride, typed.storage_offset() + offset)


def _marked(tensor: Tensor, metadata: list[Any]) -> Tensor:
    """The tensor with the conjugate and negative bits that torch stores for such views."""
    marks = metadata[0] if metadata and isinstance(metadata[0], dict) else {}
    tensor = tensor.conj() if marks.get("conj") else tensor
    return tensor.neg() if marks.get("neg") else tensor


# -- NumPy's arrays


def _array(value: Opaque) -> Tensor:
    match value.arguments, value.state:
        case (bytes() | bytearray() as content, Opaque() as kind, tuple(shape), str(order)), _:
            pass
        case _, (int(), tuple(shape), Opaque() as kind, fortran, bytes() | str() as content):
            order = "F" if fortran else "C"
            content = content.encode("latin-1") if isinstance(content, str) else content
        case _:
            raise NotRebuilt(f"{kind_of(value)} of objects")
    dtype = _numpy_dtype(kind)
    if not all(type(side) is int and side >= 0 for side in shape) or prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of shape {shape[:8]} and type {dtype} with {len(content)} bytes")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if order == "F" else "C")
    return _from_numpy(array)


def _numpy_dtype(kind: Opaque) -> np.dtype[Any]:
    match kind.name, kind.arguments, kind.state:
        case "numpy dtype", (str() | bytes() as code, *_), (int(), str() | bytes() as order, None, None, None, *_):
            letters = [text.decode("latin-1") if isinstance(text, bytes) else text for text in (code, order)]
            dtype = np.dtype(letters[0])
            if dtype.kind in "biufc":
                return dtype.newbyteorder(">" if letters[1] == ">" else "<" if letters[1] == "<" else "=")
        case _:
            pass
    raise NotRebuilt(f"an array of {kind_of(kind)} {str(kind.arguments)[:40]}")


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it must not be written to, which no donor's tensor is
        try:
            return torch.from_numpy(native)
        except TypeError as error:
            raise NotRebuilt(f"an array of {array.dtype}") from error


# -- torch's form before 1.6


def read_legacy(file: io.BufferedReader | io.BytesIO, mapped: Tensor | None = None) -> tuple[Pickled, Bytes | None]:
    """The contents of a file of torch.save before 1.6, and its storages; for any other pickle its contents, and None.

    Args:
        mapped: uint8 [n], the whole file; None: `file` is in memory.

    Raises:
        ValueError, TypeError, …: it is damaged (`refusal.DAMAGE`).
    """
    first = read_pickle(file)
    if first.root != _MAGIC:
        return first, None
    _protocol, system = read_pickle(file), read_pickle(file)
    if isinstance(system.root, dict) and not system.root.get("little_endian", True):
        raise ValueError("numbers with their highest byte first, as another machine has them")
    pickled, keys = read_pickle(file), read_pickle(file).root
    begin = file.tell()
    whole = _in_memory(file) if mapped is None else mapped
    return pickled, _laid_out(begin, keys, _item_sizes(pickled), whole)


def _in_memory(file: io.BufferedReader | io.BytesIO) -> Tensor:
    file.seek(0)
    return _from_numpy(np.frombuffer(file.read(), np.uint8))


def _item_sizes(pickled: Pickled) -> Mapping[str, int]:
    ids = (outside.id for outside in pickled.outside)
    return {str(id[2]): storage_dtype(id[1]).itemsize for id in ids if isinstance(id, tuple) and len(id) > 2}


def _laid_out(begin: int, keys: Any, item_sizes: Mapping[str, int], mapped: Tensor) -> Bytes:
    """The storages after the pickles: each starts with its number of elements in eight bytes, followed by these."""
    places: dict[str, tuple[int, int]] = {}
    for key in map(str, keys):
        count = int.from_bytes(bytes(mapped[begin : begin + 8].tolist()), "little")
        places[key] = (begin + 8, count * item_sizes[key])
        begin = sum(places[key])
        if begin > mapped.numel():
            raise EOFError(f"the file ends inside the storage {key}")

    def storage(key: str, length: int) -> Tensor:
        start, size = places[key]
        if size != length:
            raise ValueError(f"a storage of {length} bytes where {size} are held")
        return mapped[start : start + length]

    return storage
