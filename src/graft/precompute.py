"""What is computed once, before training: the frozen prefix's output of every image."""

from __future__ import annotations

import sys

import torch

from graft.config.choices import CacheKind
from graft.config.faults import InputError
from graft.data.cache import FeatureCache
from graft.data.cache_folder import CacheFolder
from graft.data.datamodule import DataModule
from graft.data.features import FeatureDataset, as_batched
from graft.data.ingredients import Ingredients
from graft.data.table import PARTS
from graft.models.cut import split
from graft.models.inference import engine
from graft.models.network import Network
from graft.plan import Plan
from graft.plan_text import size
from graft.processes import say


def compute_features(plan: Plan, network: Network, data: DataModule) -> torch.nn.Module | None:
    """Where the plan has a cut: the frozen prefix's output of every image, and the part of the network behind it."""
    config, cut = plan.config, plan.cache.cut
    if cut is None:
        return None
    try:
        features, rest = _features_after(cut, plan, network, data)
    except InputError as reason:
        if config.cache.kind is not CacheKind.auto:
            raise
        say(f"cache     none after all: {reason}")
        return None
    data.use_stored(features, as_batched)
    return rest


def _features_after(
    cut: str, plan: Plan, network: Network, data: DataModule
) -> tuple[dict[str, FeatureDataset], torch.nn.Module]:
    config = plan.config
    prefix, rest = split(network.module, network.stages, cut, example=example_of(network))  # proves the cut on it
    device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    fast = engine(prefix, device=device)
    parts = {
        name: data.images(name, augmented=name == "train" and config.cache.views > 0)
        for name in PARTS
        if plan.table.part(name)
    }
    ingredients = Ingredients.of(
        prefix, network, cut=cut, cache=config.cache, augment=config.augment, seed=config.seed, engine=fast.description
    )
    cache = FeatureCache(
        CacheFolder(config.cache.dir, max_gb=config.cache.max_gb, say=say),
        batch_size=config.data.batch_size,
        num_workers=data.workers(len(plan.table.train)),
        progress=_progress(f"features after {cut}, {size(plan.cache.size)}"),
    )
    return cache.build(fast, parts, ingredients, device=device, channels_last=config.trainer.channels_last), rest


def example_of(network: Network) -> torch.Tensor:
    """Two images of noise [2, C, S, S], always the same."""
    preprocess = network.preprocess
    shape = (2, len(preprocess.mean), preprocess.image_size, preprocess.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _progress(what: str):
    """A line that counts up, where somebody watches."""

    def told(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{what}: {done:,} of {of:,} images", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return told
