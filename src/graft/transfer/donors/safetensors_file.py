"""Safetensors files: the header is checked completely, then the file is mapped once, and each tensor is a view of
it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from graft.transfer.donor import Donor, dtype_name
from graft.transfer.donors.sniff import DAMAGE, first_line, refused
from graft.transfer.ledger import TensorInfo

WHAT = "a safetensors file"
MAX_HEADER = 100_000_000
"""In bytes; the format's own limit."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def open_safetensors(path: Path) -> Donor:
    """Opens a .safetensors file. Its tensors are views of the mapped file.

    Raises:
        InputError: the file is damaged.
    """
    header = read_header(path)
    metadata = header.pop("__metadata__", {})
    infos = _infos(path, header)
    try:
        with safe_open(path, framework="pt", device="cpu"):
            pass  # the library's own checks: that the tensors fill the file, without gaps and without overlap
        file = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    except (SafetensorError, *DAMAGE) as error:
        raise refused(path, expected=WHAT, received=f"a damaged one ({first_line(error)})") from error
    start = file.numel() - max(entry["data_offsets"][1] for entry in header.values())

    whole = _Mapped(file)

    def read(name: str) -> Tensor:
        entry = header[name]
        return whole.view(_DTYPES[entry["dtype"]], start + entry["data_offsets"][0], entry["shape"])

    return Donor(
        source=str(path),
        format="safetensors",
        infos=infos,
        reader=read,
        resident=True,
        remarks=_layout_remarks(metadata),
        runs=_runs(whole, start, header),
    )


class _Mapped:
    """A mapped file, with a view of the whole of it for each dtype."""

    def __init__(self, file: Tensor) -> None:
        self._file = file
        self._typed: dict[torch.dtype, Tensor] = {}

    def view(self, dtype: torch.dtype, begin: int, shape: Sequence[int]) -> Tensor:
        """A tensor on the file's own memory; a copy if its writer did not align it.

        Args:
            begin: offset in bytes.
        """
        if begin % dtype.itemsize:
            return self._file[begin : begin + prod(shape) * dtype.itemsize].clone().view(dtype).view(shape)
        if dtype not in self._typed:
            self._typed[dtype] = self._file[: self._file.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
        strides, step = [1] * len(shape), 1
        for axis in range(len(shape) - 1, 0, -1):
            step *= shape[axis]
            strides[axis - 1] = step
        return self._typed[dtype].as_strided(shape, strides, begin // dtype.itemsize)


def _runs(file: _Mapped, start: int, header: Mapping[str, Any]) -> list[Tensor]:
    """The floating-point tensors; adjacent tensors of one dtype are joined into one long view."""
    runs: list[tuple[torch.dtype, int, int]] = []
    for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
        (begin, end), dtype = entry["data_offsets"], _DTYPES[entry["dtype"]]
        if runs and runs[-1][0] == dtype:
            runs[-1] = (dtype, runs[-1][1], end)
        else:
            runs.append((dtype, begin, end))
    return [
        file.view(dtype, start + begin, [(end - begin) // dtype.itemsize])
        for dtype, begin, end in runs
        if dtype.is_floating_point or dtype.is_complex
    ]


def read_header(path: Path) -> dict[str, Any]:
    """The file's header, including its `__metadata__`.

    Raises:
        InputError: it is longer than the file, not JSON, or contains a tensor twice.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER):
            raise refused(
                path,
                expected=f"{WHAT} with a header of at most {min(size - 8, MAX_HEADER)} bytes",
                received=f"one that says its header has {length} bytes in a file of {size}",
            )
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a header that cannot be read ({first_line(error)})") from error
    if not isinstance(header, dict):
        raise refused(path, expected=WHAT, received=f"a header that is a {type(header).__name__}")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is named twice")
    return entries


def _infos(path: Path, header: dict[str, Any]) -> dict[str, TensorInfo]:
    infos = {name: _info(path, name, entry) for name, entry in header.items()}
    if not infos:
        raise refused(path, expected="tensors", received="a safetensors file with none in it")
    return infos


def _info(path: Path, name: str, entry: Any) -> TensorInfo:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if kind in _DTYPES:
            if all(type(side) is int and side >= 0 for side in shape):
                return _checked(path, name, _DTYPES[kind], shape, end - begin)
        case _:
            pass
    raise refused(
        path,
        expected="a known dtype, a shape and two offsets for each tensor",
        received=f"{str(entry)[:120]} for {name}",
        remedy="write the tensors again as float32, float16 or bfloat16",
    )


def _checked(path: Path, name: str, dtype: torch.dtype, shape: Sequence[int], length: int) -> TensorInfo:
    if prod(shape) * dtype.itemsize != length:
        raise refused(
            path,
            expected=f"{prod(shape) * dtype.itemsize} bytes for {name} of shape {list(shape)}",
            received=f"{length}",
        )
    return TensorInfo(shape=tuple(shape), dtype=dtype_name(dtype))


def _layout_remarks(metadata: Any) -> list[str]:
    written_for = metadata.get("format") if isinstance(metadata, dict) else None
    if written_for in ("tf", "flax", "jax", "np"):
        return [f"written for {written_for}: kernels may have another axis order than torch's"]
    return []
