"""The model that a donor's weights were made for, if it can be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.config.choices import DonorKind, Library
from graft.config.faults import InputError
from graft.config.schema import BackboneConfig, DonorConfig, PublishedConfig
from graft.models.backbones import construct
from graft.models.derive import derive_heads
from graft.models.network import Network, plain_model, rebuild
from graft.models.stages import HEAD, is_counter
from graft.transfer.donor import Donor
from graft.transfer.donors.folder import record_of
from graft.transfer.ledger import Ledger
from graft.transfer.names import WRAPPERS, Globs, land, parse_renames, strippings

SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnModel:
    """A donor's own model with the donor's weights, on the CPU."""

    name: str
    module: nn.Module
    ends: tuple[str, ...] = ()
    """Modules at which its trunk ends, if known."""
    head: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The record of its head, if it comes from a run's record."""
    exact: bool = False
    """Whether its operations differ from the network's, so that only float64 can tell rounding from a different
    function."""

    def has(self, path: str) -> bool:
        return self._name_of(path) is not None

    def path_of(self, path: str) -> str:
        """The path of the module with this name, possibly behind a wrapper (`model.fc`)."""
        name = self._name_of(path)
        assert name is not None
        return name

    def _name_of(self, path: str) -> str | None:
        names = {name for name, _ in self.module.named_modules()}
        front = ""
        while f"{front}{path}" not in names:
            front = next((front + each for each in WRAPPERS if (front + each).removesuffix(".") in names), "")
            if not front:
                return None
        return f"{front}{path}"


def own_model(
    chosen: DonorConfig, backbone: BackboneConfig, donor: Donor, network: Network, ledger: Ledger
) -> OwnModel:
    """The live module itself, the model of a run's record, or the library's model with the backbone's name.

    For a file that describes its model (Keras, Hugging Face), it is the trunk of that model.

    The weights are loaded under the donor's own names, without the renames, tables and adapters of the config, because
    these are what is to be verified. Only the renames that the backbone declares for its published weights are applied.

    Raises:
        InputError: there is no such model, with the reason.
    """
    if donor.module is not None:
        return OwnModel(name=donor.source, module=donor.module)
    if donor.own_trunk is not None or donor.format == "keras":
        return _of_trunk(donor, network, ledger)
    record = record_of(Path(str(chosen.path))) if chosen.kind is not DonorKind.pretrained else None
    if record is not None:
        return _of_record(record, donor)
    published = backbone.published if chosen.kind is DonorKind.pretrained else PublishedConfig()
    state = _landed(donor, published, set(network.module.state_dict()))
    build = {**network.build, "num_classes": _classes(network, state, donor)}
    module = plain_model(build)
    _fill(module, state, donor, f"{build['library']}'s {build['name']}")
    return OwnModel(name=f"{build['library']} {build['name']} with all of {donor.source}", module=module)


def _of_trunk(donor: Donor, network: Network, ledger: Ledger) -> OwnModel:
    if donor.own_trunk is None:
        raise _none("a Keras file of weights alone does not say how its model computes; model.save('….keras') does")
    trunk = [entry for entry in ledger.tensors if network.stages.stage_of(entry.target) != HEAD]
    used = {source for entry in trunk for source in entry.sources}
    module = _Ended(donor.own_trunk(used), network.stages.head)
    return OwnModel(name=f"the model that {donor.source} describes", module=module, exact=True)


class _Ended(nn.Module):
    """A trunk that ends with the module of the given name, whose input is the features."""

    def __init__(self, trunk: nn.Module, path: str) -> None:
        super().__init__()
        self.trunk, self._path = trunk, path
        *above, last = path.split(".")
        place: nn.Module = self
        for part in above:
            place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(last, nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        return self.get_submodule(self._path)(self.trunk(images))


def _of_record(record: Mapping[str, Any], donor: Donor) -> OwnModel:
    try:
        module, head = rebuild(record["build"], record["head"]), record["head"]
        ends = tuple(path for path in (head.get("pool"), head["at"]) if path)
    except InputError as error:
        raise _none(str(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _none(f"its model.json does not describe one ({type(error).__name__}: {error})") from error
    _fill(module, {name: name for name in donor.infos}, donor, "the model that its model.json describes")
    return OwnModel(name=f"the model of {donor.source}", module=module, ends=ends, head=head)


def _landed(donor: Donor, published: PublishedConfig, wanted: set[str]) -> dict[str, str]:
    """Full donor names by the own model's names, after removing as many wrapper prefixes as match the most names."""
    renames = parse_renames(published.rename)
    ignored = Globs((), dict.fromkeys(published.ignore, "no place for it"), "ignore")
    donor_names = [name for name in donor.infos if ignored.reason(name) is None]
    landings = [land(level, renames).names for level in strippings(donor_names)]
    names = max(landings, key=lambda each: len(wanted & set(each.values())))
    return {own: full for full, own in names.items()}


def _classes(network: Network, state: Mapping[str, str], donor: Donor) -> int:
    """The number of classes of the donor's own last layer, or of the network's if it has none."""
    build = network.build

    def built(classes: int) -> nn.Module:
        library, name, kwargs = Library(build["library"]), build["name"], build["kwargs"]
        return construct(library, name, kwargs, num_classes=classes, channels=build["channels"], device="meta")

    def rows(heads: Sequence[str]) -> int | None:
        shapes = (donor.infos[full].shape for own, full in state.items() if own.rpartition(".")[0] in heads)
        return next((shape[0] for shape in shapes if shape), None)

    # A head of hidden layers stands where more than the last layer was; the last one is then looked for.
    return rows(network.stages.heads) or rows(derive_heads(built, build["name"])) or build["num_classes"]


def _fill(module: nn.Module, state: Mapping[str, str], donor: Donor, what: str) -> None:
    """Loads every tensor under the same name and in the same shape; batch counters may be missing."""
    receiving = module.state_dict()
    missing = [name for name in receiving if name not in state and not is_counter(name)]
    further = [name for name in state if name not in receiving]
    other = [n for n in receiving if n in state and tuple(receiving[n].shape) != donor.infos[state[n]].shape]
    wrong = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', …' if names[SHOWN:] else ''})"
        for kind, names in (("missing", missing), ("unknown to it", further), ("of another shape", other))
        if names
    ]
    if wrong:
        raise _none(f"under its own names it does not fit {what}: {'; '.join(wrong)}")
    with torch.no_grad():
        for own, full in state.items():
            receiving[own].copy_(donor.read(full))


def _none(why: str) -> InputError:
    return InputError(
        f"donor.verify: expected a donor with a model of its own that can be run, received none: {why}; "
        "try donor.verify=false"
    )
