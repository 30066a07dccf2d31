"""Donors from outside: one reader a format, chosen by what the file holds. A file's content is never run."""

from __future__ import annotations

from pathlib import Path

from graft.files import sha256 as hash_of_file
from graft.transfer.donor import Donor
from graft.transfer.donors.folder import classes_of_folder, file_in
from graft.transfer.donors.hub import LOCAL_SCHEME, file_of_reference
from graft.transfer.donors.hub import SCHEME as HUB_SCHEME
from graft.transfer.donors.imported import SCHEME, open_imported
from graft.transfer.donors.numpy_file import open_npz
from graft.transfer.donors.refusal import refused
from graft.transfer.donors.safetensors_file import open_safetensors
from graft.transfer.donors.sharded import hash_of_shards, open_shards
from graft.transfer.donors.sniff import Format, sniff
from graft.transfer.donors.torch_file import open_torch

__all__ = ["classes_of_folder", "open_donor"]


def open_donor(
    path: str | Path, *, container: str | None = None, ema: bool = False, sha256: str | None = None
) -> Donor:
    """Opens a donor wherever it lies.

    Args:
        path: A file in PyTorch's, safetensors', NumPy's or Keras' format, an index of shards, a folder with one of
            these (a run's folder gives its exported model), timm's `hf-hub:owner/name` and `local-dir:folder`, or
            `python:package.module:factory`.
        container: Which mapping inside a PyTorch file holds the tensors, where there is a choice.
        ema: Take the averaged weights of a PyTorch file.
        sha256: The hash that the file must have, in hexadecimal.

    Raises:
        InputError: There is no such thing, or it is damaged, ambiguous, of no known format, or would run code.
    """
    if isinstance(path, str) and path.startswith(SCHEME):
        return open_imported(path)
    referred = isinstance(path, str) and path.startswith((HUB_SCHEME, LOCAL_SCHEME))
    given = file_of_reference(str(path)) if referred else Path(path).expanduser()
    file, format, recognised = given, sniff(given), list[str]()
    if format is Format.folder:
        file, recognised = file_in(given)
        format = sniff(file)
    found = hash_of_shards(file) if format is Format.shards else hash_of_file(file)
    if sha256 is not None and found != sha256.lower():
        raise refused(
            file, expected=f"sha256 {sha256}", received=found, remedy="the file that was meant, or its own hash"
        )
    donor = _open(file, format, container=container, ema=ema)
    donor.source, donor.sha256 = str(path), found
    donor.remarks[:0] = recognised
    return donor


def _open(file: Path, format: Format, *, container: str | None, ema: bool) -> Donor:
    if format is Format.torch:
        return open_torch(file, container=container, ema=ema)
    if container is not None or ema:
        raise refused(
            file,
            expected="donor.container and donor.ema only with PyTorch files",
            received=f"{'donor.ema=true' if ema else f'donor.container={container}'} with {format.value}",
            remedy="leave it out",
        )
    match format:
        case Format.safetensors:
            return open_safetensors(file)
        case Format.shards:
            return open_shards(file)
        case Format.npz:
            return open_npz(file)
        case _:
            raise refused(file, expected="a file", received=f"a {format.value}")
