"""Donors from files: one reader per format, selected by the contents of the file. Code in a file is never executed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from graft.config.schema import ApplicationConfig, KerasConfig
from graft.system.files import sha256 as hash_of_file
from graft.transfer.donor import Donor
from graft.transfer.donors.folder import SCHEME, classes_of_folder, file_in, open_imported
from graft.transfer.donors.hub import LOCAL_SCHEME, file_of_reference
from graft.transfer.donors.hub import SCHEME as HUB_SCHEME
from graft.transfer.donors.huggingface import with_config
from graft.transfer.donors.keras import open_keras
from graft.transfer.donors.numpy_file import open_npz
from graft.transfer.donors.safetensors_file import open_safetensors
from graft.transfer.donors.sharded import hash_of_shards, open_shards
from graft.transfer.donors.sniff import Format, refused, sniff
from graft.transfer.donors.torch_file import open_torch

__all__ = ["classes_of_folder", "open_donor"]


def open_donor(
    path: str | Path,
    *,
    container: str | None = None,
    ema: bool = False,
    sha256: str | None = None,
    keras: KerasConfig | None = None,
    application: ApplicationConfig | None = None,
    image_size: int | None = None,
) -> Donor:
    """Opens a donor, wherever it is.

    Args:
        path: a file in PyTorch's, safetensors', NumPy's or Keras' format, an index of shards, a folder with one of
            these (a run's folder gives its exported model), timm's `hf-hub:owner/name` and `local-dir:folder`, or
            `python:package.module:factory`.
        container: which mapping inside a PyTorch file holds the tensors, if there are several.
        ema: use the averaged weights of a PyTorch file.
        sha256: hexadecimal hash that the file must have; for a live module, a hash over its tensors.
        keras: information that a Keras file lacks.
        application: properties of the receiving network as one of Keras' applications.
        image_size: side of the network's images, if known; the padding of a Keras file depends on it.

    Raises:
        InputError: the donor does not exist, or is damaged, ambiguous, of an unknown format, or would run code.
    """
    text = str(path)
    if text.startswith(SCHEME):
        _check_options(text, Format.module, container=container, ema=ema, keras=keras)
        live = open_imported(text)
        _check_hash(text, live.sha256, sha256)
        return live
    path_or_folder = file_of_reference(text) if text.startswith((HUB_SCHEME, LOCAL_SCHEME)) else Path(path).expanduser()
    file, format, recognised = path_or_folder, sniff(path_or_folder), list[str]()
    if format is Format.folder:
        file, recognised = file_in(path_or_folder)
        format = sniff(file)
    fingerprint = cache(partial(_hash, file, format, _state(file)))
    if sha256 is not None:
        _check_hash(file, fingerprint(), sha256)
    _check_options(file, format, container=container, ema=ema, keras=keras)
    as_keras = partial(open_keras, file, keras or KerasConfig(), application, image_size=image_size)
    donor = _open(file, format, container=container, ema=ema, as_keras=as_keras)
    if format in (Format.safetensors, Format.torch, Format.shards):
        donor = with_config(donor, str(path_or_folder))
    donor.source, donor.fingerprint = text, fingerprint
    donor.remarks[:0] = recognised
    return donor


def _hash(file: Path, format: Format, opened: tuple[int, ...]) -> str:
    """The hash of the opened file. It takes longer than a transfer, so it is computed later."""
    if _state(file) != opened:
        raise refused(file, expected="the file as it was opened", received="a changed one", remedy="the run again")
    return hash_of_shards(file) if format is Format.shards else hash_of_file(file)


def _state(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check_hash(donor: Path | str, sha256: str | None, wanted: str | None) -> None:
    if wanted is not None and sha256 != wanted.lower():
        raise refused(
            donor, expected=f"sha256 {wanted}", received=str(sha256), remedy="the donor that was meant, or its hash"
        )


def _check_options(
    file: Path | str, format: Format, *, container: str | None, ema: bool, keras: KerasConfig | None
) -> None:
    """Rejects options for another format than the file's, which would have no effect."""
    idle: list[str] = []
    if format is not Format.torch:
        idle += [f"donor.container={container}"] if container is not None else []
        idle += ["donor.ema=true"] if ema else []
    if format not in (Format.keras, Format.hdf5) and keras not in (None, KerasConfig()):
        idle.append("donor.keras")
    if idle:
        raise refused(
            file,
            expected="only options that this format has",
            received=f"{', '.join(idle)} with a file in the format {format.value}",
            remedy="leave it out",
        )


def _open(file: Path, format: Format, *, container: str | None, ema: bool, as_keras: Callable[[], Donor]) -> Donor:
    match format:
        case Format.torch:
            return open_torch(file, container=container, ema=ema)
        case Format.safetensors:
            return open_safetensors(file)
        case Format.shards:
            return open_shards(file)
        case Format.npz:
            return open_npz(file)
        case Format.keras | Format.hdf5:
            return as_keras()
        case Format.folder | Format.module:
            raise refused(file, expected="a file", received=f"a {format.value}")
