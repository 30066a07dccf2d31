"""The weights that every way is given: one file, under the library's own names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.composed import composed
from graft.models.network import Network, build_network
from graft.transfer import account_donor, inject, target_of_module
from graft.transfer.chosen import open_chosen, rules_for

CLASSES = 1000  # of the donor's own head, which every way replaces


def published(backbone: str) -> bool:
    """Whether a package ships the backbone's weights; else they are drawn at random, which costs the same time."""
    return composed(f"backbone={backbone}").backbone.published.package is not None


def network_of(backbone: str) -> Network:
    """The backbone with its old head and the donor's values."""
    kind = "pretrained" if published(backbone) else "none"
    config = composed(f"backbone={backbone}", "head=none", f"donor={kind}", "freeze=none")
    network = build_network(config.backbone, config.head, num_classes=CLASSES, seed=config.seed)
    if kind == "pretrained":
        with open_chosen(config.network) as donor:
            ledger = account_donor(donor, target_of_module(network.module), rules_for(config.network, network, ()))
            inject(ledger, donor, network.module)
    else:
        _settle_norms(network)
    return network


def write_donor(backbone: str, folder: Path) -> tuple[Path, Network]:
    network = network_of(backbone)
    file = folder / f"{backbone}.safetensors"
    save_file({name: value.contiguous() for name, value in network.module.state_dict().items()}, file)
    return file, network


def _settle_norms(network: Network) -> None:
    """Batch-norm statistics of a few noisy images: with those of a new network, random layers overflow in eval mode."""
    preprocess, module = network.preprocess, network.module
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]  # pyright: ignore[reportPrivateUsage]
    rates = [norm.momentum for norm in norms]
    shape = (4, preprocess.channels, preprocess.image_size, preprocess.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(images)
    for norm, rate in zip(norms, rates, strict=True):
        norm.momentum = rate
    module.eval()
