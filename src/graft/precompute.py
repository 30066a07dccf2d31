"""What is computed once, before training: the frozen prefix's output of every image."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import torch

from graft.config.choices import CacheKind
from graft.config.faults import InputError
from graft.config.schema import TrainerConfig
from graft.data.cache import FeatureCache
from graft.data.cache_folder import CacheFolder
from graft.data.datamodule import DataModule
from graft.data.features import FeatureDataset
from graft.data.ingredients import PLAIN, Ingredients
from graft.data.loader import as_batched
from graft.data.table import PARTS
from graft.machine import keep_freed_memory
from graft.models.cut import prove, split
from graft.models.inference import description, fast_precision, proven_engine
from graft.models.known import known
from graft.models.network import Network
from graft.plan import Plan
from graft.plan_cache import Kept
from graft.plan_text import size
from graft.processes import all_cores, at_once, say


def compute_features(plan: Plan, network: Network, data: DataModule) -> dict[str, torch.nn.Module]:
    """For each stage whose output the plan keeps: computes it for every image; the part of the network behind it.

    The data serves the first phase's features until it is told otherwise (`DataModule.serve`).
    """
    stored: dict[str, dict[str, FeatureDataset]] = {}
    behind: dict[str, torch.nn.Module] = {}
    for kept in plan.cache.kept:
        try:
            stored[kept.cut], behind[kept.cut] = _features_after(kept, plan, network, data)
        except InputError as reason:
            if plan.config.cache.kind is not CacheKind.auto:
                raise
            say(f"cache     not of {kept.cut} after all: {reason}")
    data.use_stored(stored, as_batched)
    return behind


def _features_after(
    kept: Kept, plan: Plan, network: Network, data: DataModule
) -> tuple[dict[str, FeatureDataset], torch.nn.Module]:
    config, cut = plan.config, kept.cut
    example = example_of(network)
    prefix, rest = split(network.module, network.stages, cut)
    known(network, lambda: prove(network.module, prefix, rest, example, cut), "its halves", cut)
    device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()
    parts = {
        name: data.images(name, augmented=name == "train" and config.cache.views > 0)
        for name in PARTS
        if plan.table.part(name)
    }
    cache = FeatureCache(
        CacheFolder(config.cache.dir, max_gb=config.cache.max_gb, say=say),
        batch_size=config.data.batch_size,
        num_workers=data.workers(len(plan.table.train)),
        # Of trials that run at once, most wait for the one that computes what all of them train on.
        threads=all_cores() if at_once() > 1 and not config.trainer.threads else None,
        progress=_progress(f"features after {cut}, {size(kept.size)}"),
    )
    precision, channels_last = fast_precision(device, config.trainer.precision), config.trainer.channels_last
    ingredients = Ingredients.of(
        prefix, network, cut=cut, cache=config.cache, augment=config.augment, seed=config.seed,
        engine=description(precision) if config.trainer.engine else PLAIN,
    )  # fmt: skip
    stored = cache.find(parts, ingredients, channels_last=channels_last)  # whoever computed them proved the engine
    if stored is None:
        running, how = _runner(prefix, example, config.trainer, device)
        ingredients = replace(ingredients, engine=how)
        stored = cache.build(running, parts, ingredients, device=device, channels_last=channels_last)
    return stored, rest


def _runner(
    prefix: torch.nn.Module, example: torch.Tensor, trainer: TrainerConfig, device: str
) -> tuple[torch.nn.Module, str]:
    """What computes the features on that device, and how an entry's record calls it. The prefix stays where it is."""
    if trainer.engine:
        try:
            running = proven_engine(prefix, example, precision=trainer.precision, device=device)
            return running, running.description
        except InputError as reason:
            say(f"cache     computed by the network as it is: {reason}")
    return copy.deepcopy(prefix).to(device), PLAIN


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
