"""Weights on the Hugging Face hub: from the local cache, otherwise by the library's own download, in bounded time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from graft.config.examples import HUB, LOCAL_DIR
from graft.config.faults import InputError
from graft.transfer.donors.download import PATIENCE, Unreachable, ask

SCHEME = HUB
LOCAL_SCHEME = LOCAL_DIR
FILES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in a repository, the preferred one first."""


def files_like(file: str | None) -> tuple[str, ...]:
    """The file names to look for if a repository's weights are known as `file`: its safetensors counterpart first."""
    if file is None or file == FILES[1]:
        return FILES
    if not file.endswith(".bin"):
        return (file,)
    twin = file.replace("pytorch_model.bin", "model.safetensors")
    return (twin if twin != file else file.removesuffix(".bin") + ".safetensors", file)


def hub_file(repository: str, files: Sequence[str] = FILES, *, endpoint: str | None = None) -> Path:
    """The local path of the first of `files` that a repository has, downloaded if necessary.

    Args:
        repository: `owner/name`, or `owner/name@revision`.

    Raises:
        Unreachable: it is not in the cache and cannot be downloaded.
    """
    name, _, revision = repository.partition("@")
    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(name, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise Unreachable(f"{repository} is not in the hub's cache, and HF_HUB_OFFLINE is set")
    ask(huggingface_hub.hf_hub_url(name, files[0], revision=revision or None, endpoint=endpoint))
    for file in files:
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    name, file, revision=revision or None, endpoint=endpoint, etag_timeout=PATIENCE
                )
            )
        except LocalEntryNotFoundError as error:
            raise Unreachable(f"the hub did not give {repository} ({error})") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
            raise Unreachable(f"the hub did not give {repository} ({str(error).splitlines()[0]})") from error
    raise Unreachable(f"{repository} has none of {', '.join(files)}")


def file_of_reference(reference: str) -> Path:
    """The local path for `hf-hub:owner/name[@revision]` or `local-dir:folder`, timm's notations for a model.

    Raises:
        InputError: it is not available; the message says where to put it.
    """
    if reference.startswith(LOCAL_SCHEME):
        return Path(reference.removeprefix(LOCAL_SCHEME))
    repository = reference.removeprefix(SCHEME)
    try:
        validate_repo_id(repository.partition("@")[0])
        return hub_file(repository)
    except (Unreachable, ValueError) as error:
        raise InputError(
            f"donor {reference}: expected {' or '.join(FILES)} of that repository in the hub's cache or over the "
            f"network, received none: {error}; try: `hf download {repository.replace('@', ' --revision ')}` on a "
            "machine with network, its HF_HOME copied here, or donor=file donor.path=FILE, or donor=none"
        ) from error
