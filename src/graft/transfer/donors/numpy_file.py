"""NumPy .npz archives, read with `allow_pickle=False`, one array at a time."""

from __future__ import annotations

import tokenize
import zipfile
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.transfer.donor import Donor
from graft.transfer.donors import archive
from graft.transfer.donors.jax import in_torch_layout, is_jax
from graft.transfer.donors.sniff import DAMAGE, first_line, refused
from graft.transfer.ledger import TensorInfo

WHAT = "an .npz archive"
_DAMAGE = (*DAMAGE, SyntaxError, tokenize.TokenError)  # an array's header is a Python literal


def open_npz(path: Path) -> Donor:
    """Opens an archive of arrays. Types that torch does not have (text, dates) are skipped, with a remark.

    Names of JAX's vision transformers and BiT ResNets are mapped to timm's.

    Raises:
        InputError: the archive is damaged, or contains pickled Python objects.
    """
    zip_infos = archive.entries(path, WHAT)
    infos: dict[str, TensorInfo] = {}
    remarks: list[str] = []
    members = {entry.filename.removesuffix(".npy"): entry for entry in zip_infos}
    for name, entry in members.items():
        shape, dtype = _header(path, entry)
        if dtype.hasobject:
            raise refused(
                path,
                expected="arrays of numbers",
                received=f"{name} as an array of pickled Python objects; nothing of it was executed",
                remedy="np.savez with numeric arrays only",
            )
        kind = _torch_dtype(dtype)
        if kind is None:
            remarks.append(f"not a tensor, left out: {name} ({dtype})")
        else:
            infos[name] = TensorInfo(shape=shape, dtype=str(kind).removeprefix("torch."))
    if not infos:
        raise refused(path, expected="arrays of numbers", received="an archive with none in it")
    donor = Donor(
        source=str(path),
        format="npz",
        infos=infos,
        reader=lambda name: _read(path, members[name]),
        remarks=remarks,
    )
    return in_torch_layout(donor) if is_jax(list(infos)) else donor


def _header(path: Path, entry: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one array, after checking that the entry has the corresponding length."""
    try:
        with zipfile.ZipFile(path) as zipped, zipped.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            begin = file.tell()
    except _DAMAGE as error:
        raise refused(
            path, expected=WHAT, received=f"a damaged entry {entry.filename} ({first_line(error)})"
        ) from error
    length = prod(shape) * dtype.itemsize
    if any(side < 0 for side in shape) or (not dtype.hasobject and begin + length != entry.file_size):
        raise refused(
            path,
            expected=f"{length} bytes for {entry.filename} of shape {shape}",
            received=f"{entry.file_size - begin}",
        )
    return shape, dtype


def _torch_dtype(dtype: np.dtype) -> torch.dtype | None:
    try:
        return torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    except TypeError:
        return None


def _read(path: Path, entry: zipfile.ZipInfo) -> Tensor:
    try:
        with zipfile.ZipFile(path) as zipped, zipped.open(entry) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except _DAMAGE as error:
        raise refused(path, expected=f"the array {entry.filename}", received=f"damage ({first_line(error)})") from error
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))).reshape(array.shape)
