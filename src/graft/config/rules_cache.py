"""Which caches a config can have: checks that need no model, so that they are answered at once."""

from __future__ import annotations

from dataclasses import fields

from graft.config.choices import CacheKind
from graft.config.faults import Fault
from graft.config.schema_images import AugmentConfig, CacheConfig


def is_random(augment: AugmentConfig) -> bool:
    """Whether any augmentation is on."""
    off = AugmentConfig(name=augment.name)
    return any(getattr(augment, field.name) != getattr(off, field.name) for field in fields(augment))


def is_mixed(augment: AugmentConfig) -> bool:
    """Whether training images are mixed with each other."""
    return bool(augment.mixup or augment.cutmix)


def cache_faults(cache: CacheConfig, augment: AugmentConfig) -> list[Fault]:
    """What is wrong with the cache's options, each with what to type instead."""
    faults: list[Fault] = []
    if cache.max_gb <= 0:
        faults.append(_fault("cache.max_gb", "more than 0", f"{cache.max_gb:g}", "cache.max_gb=20, or cache=none"))
    if cache.views < 0:
        faults.append(_fault("cache.views", "0 or more", str(cache.views), "cache.views=8"))
    if cache.kind is not CacheKind.features:
        if cache.views and cache.kind is not CacheKind.auto:
            faults.append(_fault("cache.views", "0 unless cache=features", str(cache.views), "cache=features"))
    elif is_mixed(augment):
        expected = "no mixing of images before the cut, where each image has stored features of its own"
        remedy = "augment.mixup=0 augment.cutmix=0, or cache=none"
        faults.append(_fault("cache", expected, f"mixup {augment.mixup:g}, cutmix {augment.cutmix:g}", remedy))
    elif is_random(augment) and cache.views == 0:
        expected = "no random augmentation before the cut, where each image has one stored feature"
        remedy = "augment=none, cache.views=8 (so many augmented views of each image are stored), or cache=none"
        faults.append(_fault("cache", expected, f"augment={augment.name}", remedy))
    elif cache.views > 0 and not is_random(augment):
        expected = "0 where nothing is random: every view would be the same"
        faults.append(_fault("cache.views", expected, f"{cache.views} with augment={augment.name}", "cache.views=0"))
    return faults


def _fault(key: str, expected: str, received: str, remedy: str) -> Fault:
    return Fault(key=key, expected=expected, received=received, remedy=remedy)
