"""The donor and the rules given by a config, including those that follow from head, channels, image size and
classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graft.config.choices import DonorKind, HeadKind, Library
from graft.config.faults import InputError
from graft.config.keras_donor import backbone_for_donor
from graft.config.schema import BackboneConfig, DonorConfig, NetworkConfig
from graft.models.backbones import construct
from graft.models.network import Network, network_for
from graft.models.preprocess import preprocess_for
from graft.models.stages import HEAD
from graft.transfer.donor import Donor, donor_of_mapping
from graft.transfer.donors import classes_of_folder, open_donor
from graft.transfer.donors.published import open_published, published_classes
from graft.transfer.ledger import Ledger
from graft.transfer.rules import OWN_HEAD, Rules, rules_of
from graft.transfer.target import target_of_module


def open_chosen(config: NetworkConfig) -> Donor:
    """Opens the donor. For donor=none this is an empty donor that says so.

    Raises:
        InputError: the donor does not exist or cannot be opened.
    """
    donor, backbone = config.donor, config.backbone
    if donor.kind is DonorKind.none:
        nothing = donor_of_mapping({}, source="none", format="none")
        nothing.remarks.append("donor=none: every weight is random, so this trains from scratch")
        return nothing
    if donor.kind is DonorKind.pretrained:
        return open_published(backbone, sha256=donor.sha256)
    assert donor.path is not None, "the config's check asks for donor.path"
    is_keras = donor.kind is DonorKind.keras
    return open_donor(
        donor.path, container=donor.container, ema=donor.ema, sha256=donor.sha256, keras=donor.keras,
        application=backbone.keras if is_keras else None,
        image_size=preprocess_for(
            backbone_for_donor(backbone, donor), image_size=config.image_size
        ).image_size if is_keras else None,
    )  # fmt: skip


def rules_for(config: NetworkConfig, network: Network, classes: Sequence[str]) -> Rules:
    """The user's rules, and those that follow from the rest of the config."""
    if config.donor.kind is DonorKind.none:
        return Rules(auto_skip={"*": "donor=none: trained from scratch"}, without_donor=True, seed=config.seed)
    sources = {DonorKind.pretrained: config.backbone.published, DonorKind.keras: config.backbone.keras}
    source = sources.get(config.donor.kind)
    ignore = dict.fromkeys(source.ignore, "the backbone has no place for it") if source else {}
    skip: dict[str, str] = {}
    own = config.backbone.keras.adapt if config.donor.kind is DonorKind.keras else {}
    adapt = {**own, **_channel_adapters(config, network), **_size_adapters(config, network)}
    new_head = config.donor.class_map is None and config.head.kind is not HeadKind.none
    if config.donor.class_map is not None:
        adapt.update(_class_adapters(config, network, classes))
    elif new_head:
        heads = [glob for path in network.stages.heads for glob in (path, f"{path}.*")]
        skip = dict.fromkeys(heads, "new head")
        ignore.update(dict.fromkeys(heads, OWN_HEAD))
    return rules_of(
        config.donor,
        seed=config.seed,
        new_head=new_head,
        auto_rename=source.rename if source else (),
        auto_skip=skip,
        auto_ignore=ignore,
        auto_adapt=adapt,
    )


def _channel_adapters(config: NetworkConfig, network: Network) -> dict[str, Any]:
    """Adapters of the first layer for another number of channels: one channel sums the colours, more than three repeat
    them."""
    channels = config.channels
    if channels == 3:
        return {}
    own = _is_own(config)
    changed = list(_changed_own(config, network) if own else _changed(config, network, channels=3))
    if channels == 2 and not own and not all(any(name == glob for glob in config.donor.adapt) for name in changed):
        rule = "{" + ", ".join(f"{name}: {{name: input_select, channels: [0, 1]}}" for name in changed) + "}"
        raise InputError(
            f"data.channels: expected a rule for 2 channels of a donor's 3, received none; try donor.adapt='{rule}'"
        )
    return dict.fromkeys(changed, "input_sum" if channels == 1 else "input_repeat")


def _size_adapters(config: NetworkConfig, network: Network) -> dict[str, Any]:
    """Adapters of the position embeddings whose number depends on the image size."""
    if config.image_size is None or _is_own(config):
        return {}
    return {
        name: "position_resize"
        for name in _changed(config, network, image_size=None)
        if "pos" in name.rpartition(".")[2]
    }


def _changed(config: NetworkConfig, network: Network, **otherwise: Any) -> Iterator[str]:
    """Names of tensors whose shape differs from that in the same network with other channels or another image size."""
    other = network_for(replace(config, **otherwise), network.classes, device="meta")
    before = target_of_module(other.module).infos
    for name, info in target_of_module(network.module).infos.items():
        if name in before and before[name].shape != info.shape:
            yield name


def _is_own(config: NetworkConfig) -> bool:
    """Whether the backbone is a user's own, of which only the given size and channels are known to work."""
    return config.backbone.library is Library.custom


def _changed_own(config: NetworkConfig, network: Network) -> Iterator[str]:
    """Names of tensors whose shape differs in the module that the same builder makes for three channels. One that
    refuses three has no donor of three."""
    library, name, kwargs = config.backbone.library, config.backbone.name, config.backbone.kwargs
    try:
        before = construct(library, name, kwargs, num_classes=network.classes, channels=3, device="meta").state_dict()
    except InputError:
        return
    for tensor, value in network.module.state_dict().items():
        if tensor in before and before[tensor].shape != value.shape and network.stages.stage_of(tensor) != HEAD:
            yield tensor


def _class_adapters(config: NetworkConfig, network: Network, classes: Sequence[str]) -> dict[str, Any]:
    names = _donor_classes(config.donor, config.backbone)
    if names is None:
        raise InputError(
            "donor.class_map: expected a donor that names its classes, received one that does not; try"
            " donor=run donor.path=…, a torchvision backbone with donor=pretrained, or donor.class_map=null"
        )
    rule: Mapping[str, Any] = {"name": "class_rows", "donor_classes": list(names), "classes": list(classes)}
    return {f"{path}.*": rule for path in network.stages.heads}


def _donor_classes(donor: DonorConfig, backbone: BackboneConfig) -> tuple[str, ...] | None:
    if donor.kind is DonorKind.pretrained:
        return published_classes(backbone)
    return classes_of_folder(Path(str(donor.path)))


def rows_of_classes(
    config: NetworkConfig, ledger: Ledger, donor: Donor, classes: Sequence[str]
) -> tuple[Tensor, Tensor] | None:
    """Weight [K, D] and bias [K] of the donor's own last layer for these classes.

    None unless the donor names all of them and its last layer is a linear one that the network does not take.
    """
    if config.donor.kind not in (DonorKind.pretrained, DonorKind.run):
        return None
    names = _donor_classes(config.donor, config.backbone) or ()
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) != len(names) or not set(classes) <= set(rows):
        return None
    left_out = [entry.source for entry in ledger.donor_tensors if not entry.used and entry.reason == OWN_HEAD]
    shapes = {name: donor.infos[name].shape for name in left_out}
    weights = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == len(names)]
    biases = [name for name, shape in shapes.items() if tuple(shape) == (len(names),)]
    if len(left_out) != 2 or len(weights) != 1 or len(biases) != 1:
        return None
    places = torch.tensor([rows[name] for name in classes])
    return donor.read(weights[0])[places].clone(), donor.read(biases[0])[places].clone()
