"""Files of torch.save, read with `weights_only=True` and nothing else: tensors and plain values, never code."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from graft.transfer.donor import Donor, donor_of_mapping
from graft.transfer.donors import archive
from graft.transfer.donors.containers import TOP, choose
from graft.transfer.donors.refusal import DAMAGE, first_line, refused

WHAT = "a file of torch.save"
# What a checkpoint of dense tensors, numbers and strings calls for. torch allows more (sparse and quantized tensors,
# byte arrays of any length), which a donor has no use for and which can claim memory that the file does not have.
_HARMLESS = re.compile(
    r"(collections (OrderedDict|Counter)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch(\.cuda|\.storage)? \w*Storage"
    r"|torch (Size|device|float\w*|bfloat16|half|double|u?int\w*|short|long|bool|complex\w*)"
    r"|torch\.nn\.parameter Parameter|torch\.serialization _get_layout"
    r"|_codecs encode|(builtins|__builtin__) (set|complex))"
)
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the storages' keys


def open_torch(path: Path, *, container: str | None, ema: bool) -> Donor:
    """Opens a .pt, .pth, .bin or .ckpt file; tensors of the zip format stay on disk until they are read."""
    zipped = zipfile.is_zipfile(path)
    records = _check_zip(path) if zipped else None
    _check_globals(path, zipped=zipped)
    checkpoint, remarks = _load(path, zipped=zipped)
    contents = choose(path, checkpoint, container=container, ema=ema)
    for name, tensor in contents.tensors.items():
        _check_tensor(path, name, tensor)
    if records is not None:
        _check_storages(path, contents.tensors, records)
    kind = "lightning" if isinstance(checkpoint, dict) and "pytorch-lightning_version" in checkpoint else "torch"
    donor = donor_of_mapping(contents.tensors, source=str(path), format=kind)
    donor.container = "" if contents.container == TOP else contents.container
    donor.remarks += [*remarks, *contents.remarks]
    return donor


def _check_zip(path: Path) -> Counter[int]:
    """The sizes of the archive's storages, once its structure and checksums hold."""
    found = archive.entries(path, WHAT)
    names = [entry.filename for entry in found]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise refused(
            path,
            expected=f"{WHAT} with tensors",
            received="a TorchScript archive, which holds code",
            remedy="torch.save(torch.jit.load(…).state_dict(), …) on a machine where you trust the file",
        )
    archive.check_stored(path, found, WHAT)
    return Counter(entry.file_size for entry in found if "/data/" in entry.filename)


def _check_globals(path: Path, *, zipped: bool) -> None:
    """Refuses a pickle that names anything to call but the rebuilding of plain tensors. Executes nothing."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes in damaged strings
            named = {name for pickled in _pickles(path, file, zipped=zipped) for name in _globals(pickled)}
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a damaged pickle ({first_line(error)})") from error
    foreign = sorted(name.replace(" ", ".") for name in named if not _HARMLESS.fullmatch(name))
    if not foreign:
        return
    whole = any(name.startswith(("torch.nn.modules", "torchvision.models", "timm.models")) for name in foreign)
    raise refused(
        path,
        expected="tensors, numbers and strings",
        received=f"a pickle that would run code to rebuild {', '.join(foreign[:5])}; nothing of it was executed",
        remedy="save model.state_dict() instead of the whole module"
        if whole
        else "torch.save(checkpoint['state_dict'], …) where you trust the file, or safetensors",
    )


def _pickles(path: Path, file: IO[bytes], *, zipped: bool) -> list[IO[bytes]]:
    if not zipped:
        return [file] * _LEGACY_PICKLES  # one after another in the same stream
    with zipfile.ZipFile(file) as found:
        records = [entry for entry in found.infolist() if _is_pickle(entry.filename)]
    return [io.BytesIO(archive.stored_bytes(path, records[0]))]


def _is_pickle(name: str) -> bool:
    return name.endswith("/data.pkl") and name.count("/") == 1


def _globals(pickled: IO[bytes]) -> set[str]:
    return {str(arg) for opcode, arg, _ in pickletools.genops(pickled) if opcode.name in ("GLOBAL", "INST")}


def _load(path: Path, *, zipped: bool) -> tuple[Any, list[str]]:
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise refused(
            path,
            expected="tensors, numbers and strings",
            received=f"a pickle that torch refuses as unsafe or damaged ({_reason(error)}); nothing of it was executed",
            remedy="save only the tensors, as torch.save(model.state_dict(), …) or as safetensors",
        ) from error
    except DAMAGE as error:
        raise refused(path, expected=WHAT, received=f"a damaged file ({first_line(error)})") from error
    return checkpoint, [f"torch said: {first_line(str(warning.message))}" for warning in said if _is_news(warning)]


def _reason(error: pickle.UnpicklingError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "rror" in line and "Please file" not in line]
    return first_line(lines[-1] if lines else error)


def _is_news(warning: warnings.WarningMessage) -> bool:
    return not issubclass(warning.category, (DeprecationWarning, FutureWarning)) and "TypedStorage" not in str(
        warning.message
    )


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """A tensor may not be larger than the file: a view that repeats one element costs nothing until it is copied."""
    size = path.stat().st_size
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise refused(path, expected="dense tensors", received=f"{name} as {tensor.layout} on {tensor.device}")
    if tensor.numel() * tensor.element_size() > size:
        raise refused(
            path,
            expected=f"tensors that fit in the file ({size} bytes)",
            received=f"{name} of shape {tuple(tensor.shape)}, which repeats fewer stored values",
            remedy="save it again after .contiguous()",
        )


def _check_storages(path: Path, tensors: dict[str, Tensor], records: Counter[int]) -> None:
    """Every storage in use must be as long as one of the archive's records; else the pickle and the data disagree."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    used = Counter(size for size in storages.values() if size)
    if used - records:
        raise refused(
            path,
            expected="storages as long as their records",
            received=f"a storage of {next(iter(used - records))} bytes that no record holds",
        )
