"""`graft transfer --from A --to-arch NAME --out FILE`: writes a donor's weights for an architecture, untrained."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.commands.destination import file_to_write
from graft.commands.opening import PATH
from graft.config.faults import InputError
from graft.config.options import Option, add_options, config_of, in_options

if TYPE_CHECKING:
    from graft.config.schema import BackboneConfig, NetworkConfig
    from graft.models.network import Network
    from graft.transfer import Ledger

SUFFIX = ".safetensors"
LEDGER_SUFFIX = ".transfer.json"
OPTIONS = (
    Option("--match", "donor.match", "name|structure|table"),
    Option("--rename", "donor.rename", "'PATTERN -> REPLACEMENT'"),
    Option("--table", "donor.table", "DONOR=TARGET"),
    Option("--skip", "donor.skip", "GLOB"),
    Option("--ignore", "donor.ignore", "GLOB"),
    Option("--adapt", "donor.adapt", "GLOB=ADAPTER"),
    Option("--cast", "donor.cast"),
    Option("--channels", "data.channels", "N"),
    Option("--image-size", "data.image_size", "PIXELS"),
    Option("--seed", "seed", "N"),
    Option("--sha256", "donor.sha256", "HASH"),
    Option("--container", "donor.container", "NAME"),
    Option("--ema", "donor.ema"),
    Option("--keras", "donor.keras", "KEY=VALUE"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="donor", required=True, metavar="DONOR", help=PATH)
    parser.add_argument("--to-arch", required=True, metavar="NAME", help="a model of torchvision or timm")
    parser.add_argument(
        "--library",
        choices=("torchvision", "timm"),
        help="the library of the model (torchvision if both have the name)",
    )
    parser.add_argument("--classes", type=int, metavar="N", help="outputs of the last layer (the library's default)")
    parser.add_argument(
        "--head", choices=("donor", "new"),
        help="the last layer's values: the donor's (default), or new ones at random (default with --classes)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar=f"FILE{SUFFIX}", help=f"the ledger is FILE{LEDGER_SUFFIX}")
    add_options(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    out = _out_path(args.out, args.donor)
    config = config_of(args, OPTIONS, _chosen(args))
    try:
        network, ledger = _transferred(config.network, args.classes)
    except InputError as error:
        raise in_options(error, (*OPTIONS, Option("--to-arch", "backbone.name"))) from error
    _write(network, ledger, out)
    print("\n".join([ledger.headline, *ledger.remarks, f"{out}\n{ledger_path(out)}"]))
    return 0


def ledger_path(out: Path) -> Path:
    return out.with_name(out.name.removesuffix(SUFFIX) + LEDGER_SUFFIX)


def _out_path(text: str, donor: str) -> Path:
    """The path of the output, which is checked before anything is read."""
    path = file_to_write("--out", text, [SUFFIX])
    if path.exists() and Path(donor).exists() and path.samefile(donor):
        raise InputError(f"--out: expected another file than the donor, received {text}; try another name")
    return path


def _chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Values of config keys that no option sets directly."""
    if args.classes is not None and args.classes < 1:
        raise InputError(f"--classes: expected 1 or more, received {args.classes}; try --classes 2")
    from graft.config.presets import keras_rules
    from graft.transfer.donors.sniff import is_keras

    new = args.head == "new" or (args.head is None and args.classes is not None)
    library = args.library or _library_of(args.to_arch)
    from_keras = bool(args.keras) or is_keras(args.donor)
    rules = keras_rules(library, args.to_arch) if from_keras else {}
    rules.pop("alter", None)  # the file is for the library's own model, with unaltered layers
    keras = {"keras": rules} if rules else {}
    return {
        "backbone": {"library": library, "name": args.to_arch, **keras},
        "donor": {"kind": "keras" if from_keras else "file", "path": args.donor},
        "head": {"kind": "linear" if new else "none"},
    }


def _library_of(name: str) -> str:
    from graft.config.choices import Library
    from graft.models.backbones import model_names

    return next((each.value for each in Library if name in model_names(each)), Library.timm.value)


def _transferred(config: NetworkConfig, classes: int | None) -> tuple[Network, Ledger]:
    from graft.models.network import network_for, with_donor_preprocess
    from graft.transfer import account_donor, inject, target_of_module
    from graft.transfer.chosen import open_chosen, rules_for

    with open_chosen(config) as donor:
        network = network_for(config, classes or _default_classes(config.backbone))
        ledger = account_donor(donor, target_of_module(network.module), rules_for(config, network, ()))
        inject(ledger, donor, network.module)
    return with_donor_preprocess(network, config, ledger.preprocess), ledger


def _default_classes(backbone: BackboneConfig) -> int:
    """The number of classes that the library's model has by default."""
    from graft.config.choices import Library
    from graft.models.backbones import timm_cfg

    cfg = timm_cfg(backbone.name) if backbone.library is Library.timm else None
    return int(getattr(cfg, "num_classes", 0) or 1000)


def _write(network: Network, ledger: Ledger, out: Path) -> None:
    """Writes the weights, then the ledger with their hash. At no time does a ledger lie beside other weights."""
    from graft.results.export import separate_tensors, write_weights
    from graft.system.files import sha256, write_json

    account = ledger.to_dict() | {"build": dict(network.build), "preprocess": asdict(network.preprocess)}
    ledger_path(out).unlink(missing_ok=True)
    write_weights(separate_tensors(network.module), out)
    write_json(ledger_path(out), account | {"weights": {"file": out.name, "sha256": sha256(out)}})
