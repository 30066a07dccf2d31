"""Under which licence a donor's publisher offers the weights, where that is stated in a form that can be read."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from graft.config.choices import DonorKind
from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, Config, Library
from graft.models.backbones import timm_cfg
from graft.transfer.donors.folder import record_of

SAYS_NOTHING = ("", "UNKNOWN")


def licence_of(config: Config) -> str | None:
    """The licence as its publisher writes it; None where none is stated.

    A package states it in its metadata, timm beside each set of weights, a graft run in its model.json. torchvision
    states none for its weights, and a plain file cannot.
    """
    if config.donor.kind is DonorKind.run and config.donor.path:
        return _of_run(Path(config.donor.path))
    if config.donor.kind is not DonorKind.pretrained:
        return None
    backbone = config.backbone
    if backbone.published.package is not None:
        return _of_package(backbone.published.package)
    return _of_timm(backbone) if backbone.library is Library.timm and ":" not in backbone.name else None


def _of_package(package: str) -> str | None:
    try:
        told = metadata(package)
    except PackageNotFoundError:
        return None
    fields = told.json
    stated = str(fields.get("license_expression") or fields.get("license") or "").strip()
    if stated not in SAYS_NOTHING:
        return stated.splitlines()[0]
    named = (line for line in told.get_all("Classifier") or () if line.startswith("License"))
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
