"""Files of torch.save and plain pickles: their structure is read without calling anything, and their tensors are
views."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graft.transfer.donor import Donor, donor_of_mapping
from graft.transfer.donors import archive
from graft.transfer.donors.containers import TOP, choose, mappings
from graft.transfer.donors.parallel import check_whole
from graft.transfer.donors.pickled import Name, Pickled, read_pickle
from graft.transfer.donors.rebuilt import Bytes, NotRebuilt, is_array, is_tensor, read_legacy, tensor_of
from graft.transfer.donors.sniff import DAMAGE, first_line, refused

WHAT = "a file of torch.save"
_INERT = re.compile(
    r"(argparse Namespace|types SimpleNamespace|functools partial|_codecs encode|copy_?reg _reconstructor"
    r"|(collections|pathlib|pathlib\._local|datetime|zoneinfo|decimal|fractions|uuid|enum|typing|signal|http) \w+"
    r"|(builtins|__builtin__) (set|frozenset|complex|list|dict|int|long|float|str|unicode|bool|tuple|bytes|bytearray"
    r"|slice|range|xrange|object|getattr))"
)
"""Objects of Python's standard library that checkpoints contain besides tensors. None is constructed. A file that
refers to anything else in that library (a shell, a file to open) was not written by someone who saved a checkpoint."""
_PYTHONS_OWN = frozenset({*sys.stdlib_module_names, "__builtin__", "copy_reg"})


def open_torch(path: Path, *, container: str | None, ema: bool) -> Donor:
    """Opens a .pt, .pth, .bin, .ckpt or .pkl file. Its tensors stay on disk until they are read."""
    check_whole(path)
    zipped = zipfile.is_zipfile(path)
    pickled, storages = _read(path, zipped=zipped)
    kind = "torch" if storages is not None else "pickle"
    _check_names(path, pickled.names)
    checkpoint = _with_tensors(path, pickled.root, storages)
    if isinstance(checkpoint, dict) and "pytorch-lightning_version" in checkpoint:
        kind = "lightning"
    contents = choose(path, checkpoint, container=container, ema=ema)
    for name, tensor in contents.tensors.items():
        _check_tensor(path, name, tensor)
    donor = donor_of_mapping(contents.tensors, source=str(path), format=kind)
    donor.container = "" if contents.container == TOP else contents.container
    donor.remarks += contents.remarks
    return donor


def _read(path: Path, *, zipped: bool) -> tuple[Pickled, Bytes | None]:
    """The pickle of the saved object, and a function that gives its storages. None: the file is only a pickle."""
    mapped = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    if zipped:
        return _read_zip(path, mapped)
    try:
        with open(path, "rb") as file:
            return read_legacy(file, mapped)
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a damaged pickle ({first_line(error)})") from error


def _read_zip(path: Path, mapped: Tensor) -> tuple[Pickled, Bytes]:
    infos = archive.entries(path, WHAT)
    names = [entry.filename for entry in infos]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise refused(
            path,
            expected=f"{WHAT} with tensors",
            received="a TorchScript archive, which holds code",
            remedy="torch.save(torch.jit.load(…).state_dict(), …) on a machine where you trust the file",
        )
    archive.check_stored(path, infos, WHAT)
    entries = {entry.filename: entry for entry in infos}
    pickle = next(name for name in names if _is_pickle(name))
    prefix = pickle.removesuffix("data.pkl")

    def storage(key: str, length: int) -> Tensor:
        entry = entries.get(f"{prefix}data/{key}")
        if entry is None or entry.file_size != length:
            raise refused(
                path,
                expected="storages as long as their records",
                received=f"a storage of {length} bytes that no record holds",
            )
        begin = archive.begin_of(path, entry)
        return mapped[begin : begin + length]

    try:
        if (order := entries.get(f"{prefix}byteorder")) and archive.stored_bytes(path, order) == b"big":
            raise ValueError("numbers with their highest byte first, as another machine has them")
        return read_pickle(io.BytesIO(archive.stored_bytes(path, entries[pickle]))), storage
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a damaged pickle ({first_line(error)})") from error


def _is_pickle(name: str) -> bool:
    return name.endswith("/data.pkl") and name.count("/") == 1


def _check_names(path: Path, names: Iterable[Name]) -> None:
    """Refuses a pickle that refers to something that no checkpoint needs, although nothing in it is called here."""
    code = sorted(name.dotted for name in names if _module(name) in _PYTHONS_OWN and not _INERT.fullmatch(name))
    if code:
        raise refused(
            path,
            expected="tensors, numbers and strings",
            received=f"a pickle that would run code to rebuild {', '.join(code[:5])}; nothing of it was executed",
            remedy="torch.save(checkpoint['state_dict'], …) where you trust the file, or safetensors",
        )


def _module(name: Name) -> str:
    return name.partition(" ")[0].partition(".")[0]


def _with_tensors(path: Path, checkpoint: Any, storages: Bytes | None) -> Any:
    """Mutates the contents: replaces the description of each named tensor by the tensor.

    Raises:
        InputError: a tensor is damaged or of an unsupported kind.
    """
    built: dict[int, Tensor] = {}

    def tensor(value: Any, name: str) -> Tensor:
        if id(value) not in built:
            try:
                built[id(value)] = tensor_of(value, storages)
            except NotRebuilt as kind:
                raise refused(
                    path,
                    expected="dense tensors",
                    received=f"{name} by {kind}",
                    remedy="save it again after .full_tensor(), .dequantize() or .to_dense()",
                ) from kind
            except DAMAGE as error:
                raise refused(path, expected=WHAT, received=f"a damaged one: {name}, {first_line(error)}") from error
        return built[id(value)]

    if is_tensor(checkpoint):
        return tensor(checkpoint, "a tensor")
    for counts in (is_tensor, is_array):  # beside tensors, an array is a figure that somebody kept
        for _, mapping in mappings(checkpoint):
            for key, value in mapping.items():
                if counts(value):
                    mapping[key] = tensor(value, str(key)[:80])
        if built:
            break
    return checkpoint


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Refuses a tensor that is larger than the file: a view that repeats one element costs nothing until it is
    copied."""
    size = path.stat().st_size
    if tensor.numel() * tensor.element_size() > size:
        raise refused(
            path,
            expected=f"tensors that fit in the file ({size} bytes)",
            received=f"{name} of shape {tuple(tensor.shape)}, which repeats fewer stored values",
            remedy="save it again after .contiguous()",
        )
