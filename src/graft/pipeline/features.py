"""Cached features: the output of the frozen prefix for every image, computed before training."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from graft.config.choices import CacheKind
from graft.config.faults import InputError
from graft.data.datamodule import DataModule
from graft.data.loader import as_batched
from graft.features.cache import FeatureCache, PartImages
from graft.features.cache_folder import CacheFolder
from graft.features.dataset import FeatureDataset
from graft.features.engine import proven_engine
from graft.features.ingredients import PLAIN, Ingredients
from graft.finetune.hardware import device_type
from graft.finetune.route import TRAIN
from graft.models.cut import prove, split
from graft.models.memo import once_for
from graft.models.network import Network, take_trunk, with_values
from graft.plan.describe import size
from graft.plan.features import Rows, StageOutput, by_purpose, rows_of
from graft.plan.plan import Plan
from graft.system.machine import full_float32, keep_freed_memory
from graft.system.processes import all_cores, at_once, say

EXAMPLES = 2
"""Number of images on which an engine is verified."""


@dataclass(slots=True)
class Features:
    """What training starts from if a prefix's output is cached, each by the stage that ends the prefix."""

    behind: dict[str, torch.nn.Module] = field(default_factory=dict[str, torch.nn.Module])
    """The part of the network after the prefix."""
    stored: dict[str, dict[str, FeatureDataset]] = field(default_factory=dict[str, dict[str, FeatureDataset]])
    """The prefix's features, by part."""
    prefixes: dict[str, torch.nn.Module] = field(default_factory=dict[str, torch.nn.Module])
    """The prefix with the network's own modules."""
    source: Network | None = None
    """The network that the features belong to, if it is another one (with head=stages)."""
    computed: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    """How the features were computed and stored, for training and for evaluation."""


def compute_features(plan: Plan, network: Network, data: DataModule) -> Features:
    """Computes the output of each stage that the plan caches, for every image.

    The data module serves the first phase's features until `DataModule.serve` changes that.
    """
    features = Features(source=_with_all_blocks(plan, network))
    for output in plan.cache.outputs:
        try:
            stored, prefix, behind, computed = features_after(output, plan, features.source or network, data)
        except InputError as reason:
            if plan.config.cache.kind is not CacheKind.auto:
                raise
            say(f"cache     not of {output.cut} after all: {reason}")
        else:
            features.behind[output.cut], features.computed[output.cut] = behind, computed
            features.stored[output.cut], features.prefixes[output.cut] = stored, prefix
    data.use_stored(features.stored, as_batched)
    return features


def compute_other_crop(plan: Plan, network: Network, features: Features, crop: float) -> tuple[Network, Features]:
    """The features of the images with another crop, and the network with the corresponding preprocessing.

    Args:
        features: features of the same cut with the donor's crop.
    """
    preprocess = replace(network.preprocess, crop_fraction=crop)
    other, (output, *_) = replace(network, preprocess=preprocess), plan.cache.outputs
    source = None if features.source is None else replace(features.source, preprocess=preprocess)
    data = DataModule(plan.table, plan.config.data, plan.config.augment, preprocess, seed=plan.config.seed, say=say)
    stored, prefix, behind, computed = features_after(output, plan, source or other, data)
    return other, Features(
        behind={output.cut: behind}, stored={output.cut: stored}, prefixes={output.cut: prefix}, source=source,
        computed={output.cut: computed},
    )  # fmt: skip


def _with_all_blocks(plan: Plan, network: Network) -> Network | None:
    """The network with head=stages and this network's trunk, if the plan caches its features for another head."""
    if plan.blocks is None or plan.blocks is plan.network:
        return None
    source = with_values(plan.blocks, plan.config.seed)
    take_trunk(source, network)
    return source


def features_after(
    output: StageOutput, plan: Plan, network: Network, data: DataModule
) -> tuple[dict[str, FeatureDataset], torch.nn.Module, torch.nn.Module, dict[str, str]]:
    """The features after one stage, by part; the network before and after the cut; and how the features were computed.

    Raises:
        InputError: the network cannot be cut there, or the features take more than cache.max_gb.
    """
    config, cut = plan.config, output.cut
    prefix, rest = split(network.module, network.stages, cut)
    once_for(network, lambda: prove(network.module, prefix, rest, example_of(network), cut), "its halves", cut)
    if device_type(config.trainer) == "cpu":
        keep_freed_memory()
    cache = FeatureCache(
        CacheFolder(config.cache.dir, max_gb=config.cache.max_gb, say=say),
        batch_size=config.data.images,
        num_workers=data.workers(len(plan.table.train)),
        # Of trials that run at once, most wait for the one that computes what all of them train on.
        threads=all_cores() if at_once() > 1 and not config.trainer.threads else None,
        progress=_progress(f"features after {cut}, {size(output.size)}"),
    )
    stored: dict[str, FeatureDataset] = {}
    ways: list[tuple[Rows, str]] = []
    for rows in rows_of(config.trainer, config.cache):
        parts = {
            name: data.images(name, augmented=name == TRAIN and config.cache.views > 0)
            for name in rows.parts
            if plan.table.part(name)
        }
        features, how = _features_of(parts, rows, output, plan, network, prefix, cache)
        stored |= features
        ways.append((rows, how))
    return stored, prefix, rest, by_purpose(ways)


def _features_of(
    parts: Mapping[str, PartImages],
    rows: Rows,
    output: StageOutput,
    plan: Plan,
    network: Network,
    prefix: torch.nn.Module,
    cache: FeatureCache,
) -> tuple[dict[str, FeatureDataset], str]:
    """The features of these parts' images, and how they were computed."""
    config, device = plan.config, device_type(plan.config.trainer)
    channels_last = config.trainer.channels_last
    kind = replace(config.cache, dtype=rows.dtype, views=config.cache.views if TRAIN in rows.parts else 0)
    ingredients = Ingredients.of(
        prefix, network, cut=output.cut, cache=kind, augment=config.augment, seed=config.seed, engine=rows.how
    )
    stored = cache.find(parts, ingredients, channels_last=channels_last)  # whoever computed them proved the engine
    if stored is None:
        running, how = _runner(prefix, parts, rows, device)
        ingredients = replace(ingredients, engine=how)
        with full_float32(device):
            stored = cache.build(running, parts, ingredients, device=device, channels_last=channels_last)
    return stored, ingredients.engine


def _runner(
    prefix: torch.nn.Module, parts: Mapping[str, PartImages], rows: Rows, device: str
) -> tuple[torch.nn.Module, str]:
    """The module that computes the features on the device, and its description in an entry's record. The prefix is not
    moved."""
    if rows.engine:
        images = next(iter(parts.values()))
        example = torch.stack([images[0, index]["image"] for index in range(min(EXAMPLES, len(images.identities)))])
        try:
            running = proven_engine(prefix, example, precision=rows.precision, device=device)
            return running, running.description
        except InputError as reason:
            say(f"cache     computed by the network as it is: {reason}")
    return copy.deepcopy(prefix).to(device), PLAIN


def example_of(network: Network) -> torch.Tensor:
    """Two noise images [2, C, S, S], always the same."""
    preprocess = network.preprocess
    shape = (2, len(preprocess.mean), preprocess.image_size, preprocess.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _progress(what: str):
    """A progress line, if the output is a terminal."""

    def show(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{what}: {done:,} of {of:,} images", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return show
