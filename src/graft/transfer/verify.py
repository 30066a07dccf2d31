"""donor.verify: passes the same images through the donor's own model and the new network's trunk, and compares the
features."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from graft.config.faults import InputError, one_line
from graft.config.schema import NetworkConfig
from graft.models.network import Network
from graft.models.stage_head import alike
from graft.models.stages import HEAD, Stages, is_counter
from graft.system.machine import full_float32
from graft.transfer.donor import Donor
from graft.transfer.ledger import Ledger, Verdict
from graft.transfer.own_model import OwnModel, own_model

IMAGES = 2
SEED = 0
TOLERANCE = 1e-5
"""Relative to the largest feature, or to 1 if that is larger. The same operations on the same values give the same
bits; other memory formats and thread counts change the last ones."""
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The result, as recorded in transfer.json."""

    probe: str
    largest_difference: float
    tolerance: float

    def __str__(self) -> str:
        return f"{self.probe}: largest difference {self.largest_difference:.2g}, tolerance {self.tolerance:.2g}"


def check_verifiable(ledger: Ledger, stages: Stages) -> None:
    """Raises InputError if the trunk is not meant to compute what the donor's own model computes."""
    trunk = [entry for entry in ledger.tensors if stages.stage_of(entry.target) != HEAD]
    adapted = [entry.target for entry in trunk if entry.chain is not None and not entry.chain.keeps_function]
    fresh = [entry.target for entry in trunk if entry.verdict is Verdict.initialized and not is_counter(entry.target)]
    for names, fate in ((adapted, "adapted"), (fresh, "without a donor's value")):
        if names:
            raise InputError(
                f"donor.verify: expected a trunk that takes the donor's tensors as they are, received {len(names)} "
                f"{fate} ({', '.join(names[:SHOWN])}{', …' if names[SHOWN:] else ''}), which no model of the donor's "
                "own has; try donor.verify=false"
            )


def verify(config: NetworkConfig, ledger: Ledger, donor: Donor, network: Network) -> Verified:
    """Compares the inputs of the head in both models on a batch of random images, and records the difference in the
    ledger.

    Raises:
        InputError: they differ, or the donor has no model of its own that can be run.
    """
    check_verifiable(ledger, network.stages)
    own = own_model(config.donor, config.backbone, donor, network, ledger)
    channels, side = config.channels, network.preprocess.image_size
    images = torch.randn(IMAGES, channels, side, side, generator=torch.Generator().manual_seed(SEED))
    entrances = _entrances(network, own)
    module = network.module
    if own.exact:
        module, images = copy.deepcopy(module).double(), images.double()
        own.module.double()
    here = _entering(module, entrances, images, whose="the new network")
    if not here:
        raise InputError(
            f"donor.verify: expected a network that calls {' or '.join(entrances)}, where the trunk of "
            f"{own.name} ends, received one that does not; try donor.verify=false"
        )
    there = _entering(own.module, [own.path_of(path) for path in here], images, whose=own.name)
    largest, scale = 0.0, 1.0
    for path in _compared(list(here), network.stages.heads):
        ours, theirs = alike(here[path], there[own.path_of(path)], network.head, own.head)
        largest, scale = max(largest, _difference(ours, theirs, path, own)), max(scale, float(theirs.abs().max()))
    proof = Verified(
        probe=f"{IMAGES} images of {channels}×{side}×{side}, normal noise of seed {SEED}, through {own.name}",
        largest_difference=largest,
        tolerance=TOLERANCE * scale,
    )
    if largest > proof.tolerance:
        raise InputError(
            f"donor.verify: expected features within {proof.tolerance:.2g} of those of {own.name}, received a "
            f"difference of {largest:.3g}: a tensor went to a place where it does something else; try looking through "
            "the renames and adapters, or donor.verify=false"
        )
    ledger.verified = asdict(proof)
    return proof


def _entrances(network: Network, own: OwnModel) -> list[str]:
    """Modules at which the trunk may end, in the new network or in the donor's own model. The first one called
    counts."""
    named = [network.head.get("pool"), network.head["at"], *network.stages.heads, *own.ends]
    both = [path for path in named if path and own.has(path) and _has(network.module, path)]
    if not both:
        raise InputError(
            f"donor.verify: expected {own.name} to have a module {network.head['at']}, where its trunk ends, received "
            "none of that name; try donor.verify=false"
        )
    return list(dict.fromkeys(both))


def _compared(called: Sequence[str], heads: Sequence[str]) -> Sequence[str]:
    """Where the trunk ends: at the first module called, or at all last layers if there are several in parallel."""
    return [path for path in called if path in heads] if called[0] in heads else called[:1]


def _entering(module: nn.Module, paths: Iterable[str], images: Tensor, *, whose: str) -> dict[str, Tensor]:
    """The input of each module, in the order of their calls."""
    entries: dict[str, Tensor] = {}

    def watch(path: str) -> None:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            entries.setdefault(path, inputs[0].detach().clone())

        hooks.append(module.get_submodule(path).register_forward_pre_hook(see))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for path in paths:
        watch(path)
    try:
        with torch.no_grad(), _evaluating(module), full_float32(images.device):
            module(images)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InputError(
            f"donor.verify: expected {whose} to take images of {list(images.shape)}, received: {one_line(error)}; "
            "try donor.verify=false"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return entries


def _difference(ours: Tensor, theirs: Tensor, path: str, own: OwnModel) -> float:
    if ours.shape != theirs.shape:
        raise InputError(
            f"donor.verify: expected {own.name} to hand {list(ours.shape)} to {path}, received {list(theirs.shape)}; "
            "try donor.verify=false"
        )
    if not bool(torch.isfinite(theirs).all()) or not float(theirs.std()) > 0:
        raise InputError(
            f"donor.verify: expected features that tell images apart, received constant or infinite ones of {own.name},"
            " with which nothing can be compared; try donor.verify=false"
        )
    difference = float((ours - theirs).abs().max())
    return math.inf if math.isnan(difference) else difference  # NaN in the new network only


@contextmanager
def _evaluating(module: nn.Module) -> Generator[None]:
    """Puts a module into eval mode within a block, and then restores the mode of each submodule."""
    modes: Mapping[nn.Module, bool] = {child: child.training for child in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def _has(module: nn.Module, path: str) -> bool:
    return any(name == path for name, _ in module.named_modules())
