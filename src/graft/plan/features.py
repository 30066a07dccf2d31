"""Which stages' outputs are cached, for which epochs, and how much disk space that takes.

A phase trains from the last stage that it and all phases before it freeze. Until then, that stage's output is the same
as right after the transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any

import torch

from graft.config.choices import CacheKind
from graft.config.faults import InputError
from graft.config.rules_cache import is_mixed, is_random
from graft.config.schema import CacheConfig, FeaturesConfig, FreezeBatchNorm, MethodConfig, TrainerConfig
from graft.data.table import PARTS, Table
from graft.features.cache import check_cut, estimate, feature_shape, row_count
from graft.features.engine import description, frozen_prefix, training_dtype
from graft.features.ingredients import PLAIN
from graft.finetune.freeze import Frozen, unmoving
from graft.finetune.hardware import device_type, training_precision
from graft.finetune.route import EVALUATION, TRAIN
from graft.finetune.unfreeze import Phase
from graft.models.cut import split
from graft.models.memo import once_for
from graft.models.network import Network
from graft.models.stages import tensor_names


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutput:
    """A stage whose output is cached for every image."""

    cut: str
    epochs: tuple[int, int] | None
    """The first epoch that trains on it and the one after the last, counted from 0. None: not known in advance."""
    size: int
    """Size in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How the cached features of some parts are computed and stored."""

    parts: tuple[str, ...]
    precision: torch.dtype
    """The precision in which they are computed."""
    dtype: str
    """The type in which they are stored."""
    engine: bool
    """Whether an engine computes them, which is faster. If it cannot be verified, the original network replaces it."""

    @property
    def how(self) -> str:
        """The description in an entry's record."""
        return description(self.precision) if self.engine else PLAIN

    def in_words(self, how: str) -> str:
        """A description that includes the way in which they were finally computed."""
        return how + ("" if self.dtype == "float32" else f", stored in {self.dtype}")


def rows_of(trainer: TrainerConfig, cache: CacheConfig) -> tuple[Rows, ...]:
    """One item for all parts if their features are computed in the same way; otherwise the training part has its own.

    Metrics, and therefore the choice of the epoch, refer to the exported network, which computes in float32. A head
    trains on float32 features too, unless trainer.precision or cache.dtype asks for a shorter type.
    """
    engine = trainer.engine
    precision = training_dtype(trainer.precision, device_type(trainer)) if engine else torch.float32
    if precision is torch.float32 and cache.dtype == "float32":
        return (Rows(parts=PARTS, precision=torch.float32, dtype="float32", engine=engine),)
    judged = tuple(part for part in PARTS if part != TRAIN)
    return (
        Rows(parts=(TRAIN,), precision=precision, dtype=cache.dtype, engine=engine),
        Rows(parts=judged, precision=torch.float32, dtype="float32", engine=engine),
    )


def by_purpose(ways: Sequence[tuple[Rows, str]]) -> dict[str, str]:
    """How features were computed for training and for evaluation, from rows and the way in which each was computed."""
    return {
        purpose: rows.in_words(how)
        for purpose, part in ((TRAIN, TRAIN), (EVALUATION, "val"))
        for rows, how in ways
        if part in rows.parts
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """What is cached and how much disk space it takes, and how a frozen prefix runs where nothing is cached."""

    kind: CacheKind
    reason: str
    outputs: tuple[StageOutput, ...] = ()
    """The cached stages, the deepest first."""
    computed: dict[str, str] = field(default_factory=dict[str, str])
    """How cached features are computed and stored, for training and for evaluation."""
    prefix: str = ""
    """How a frozen prefix runs on images; empty if no phase has one."""

    @property
    def cut(self) -> str | None:
        """The deepest stage whose output is cached."""
        return self.outputs[0].cut if self.outputs else None

    @property
    def size(self) -> int:
        """Size on disk in bytes."""
        return sum(each.size for each in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind.value,
            "reason": self.reason,
            "kept": [asdict(output) for output in self.outputs],
            "computed": self.computed,
            "prefix": self.prefix,
            "cut": self.cut,
            "size": self.size,
        }


@dataclass(frozen=True, slots=True)
class _Span:
    """A span of the training, and the last stage that no step up to its end changes."""

    cut: str | None
    epochs: tuple[int, int] | None

    @property
    def length(self) -> float:
        """Number of whole epochs; infinite if it depends on the training."""
        return float("inf") if self.epochs is None else self.epochs[1] - self.epochs[0]


def plan_cache(
    config: FeaturesConfig,
    table: Table,
    network: Network,
    phases: Sequence[Phase],
    decided: Sequence[Frozen],
    *,
    steps_per_epoch: int,
) -> CachePlan:
    """The cache plan. cache=features gives its size or an error; cache=auto caches if possible, and gives the reason if
    not.

    Args:
        decided: the freeze states that the training may reach after the phases.
    """
    spans = _spans(config.freeze_bn, network, phases, decided, steps_per_epoch)
    prefix = prefix_in_words(config.trainer, config.method) if any(span.cut for span in spans) else ""
    if config.cache.kind not in (CacheKind.features, CacheKind.auto):
        return CachePlan(kind=config.cache.kind, reason="as configured", prefix=prefix)
    try:
        outputs, left_out = _plan_features(config, table, network, spans)
    except InputError as reason:
        if config.cache.kind is CacheKind.features:
            raise
        words = str(reason).split("; try")[0].removeprefix("cache=features: ")
        return CachePlan(kind=CacheKind.none, reason=words, prefix=prefix)
    names = ", ".join(f"{each.cut}{_epochs(each.epochs, config.trainer.epochs)}" for each in outputs)
    reason = f"output of {names}, computed once per image{left_out}"
    computed = by_purpose([(rows, rows.how) for rows in rows_of(config.trainer, config.cache)])
    return CachePlan(kind=CacheKind.features, reason=reason, outputs=outputs, computed=computed, prefix=prefix)


def _spans(
    freeze_bn: FreezeBatchNorm,
    network: Network,
    phases: Sequence[Phase],
    decided: Sequence[Frozen],
    steps_per_epoch: int,
) -> list[_Span]:
    """One span per phase, and those after the phases that depend on the training."""
    unmoving_names = frozenset(tensor_names(network.module))
    spans: list[_Span] = []
    for phase in phases:
        unmoving_names &= unmoving(network.module, phase.frozen, freeze_bn, heads=network.stages.heads)
        epochs = ceil(phase.start_step / steps_per_epoch), phase.stop_step // steps_per_epoch
        cut = frozen_prefix(network.stages, tensor_names(network.module), unmoving_names)
        spans.append(_Span(cut, None if decided else epochs))
    for state in decided[-1:]:
        unmoving_names &= unmoving(network.module, state, freeze_bn, heads=network.stages.heads)
        spans.append(_Span(frozen_prefix(network.stages, tensor_names(network.module), unmoving_names), None))
    return spans


def _plan_features(
    config: FeaturesConfig, table: Table, network: Network, spans: Sequence[_Span]
) -> tuple[tuple[StageOutput, ...], str]:
    """What is kept, and a word on what would not fit beside it."""
    cuts = _worth_keeping(config.cache, spans)
    if config.method.distill:
        raise InputError("the donor must see the images for method.distill")
    if is_mixed(config.augment):
        raise InputError("training images are mixed with each other before the cut")
    if config.cache.kind is CacheKind.auto and is_random(config.augment) and not config.cache.views:
        raise InputError("training images are augmented at random before the cut")
    outputs: list[StageOutput] = []
    for cut, epochs in cuts.items():
        need = _need(config, table, network, cut)
        if need + sum(each.size for each in outputs) <= config.cache.max_gb * 1e9:
            outputs.append(StageOutput(cut=cut, epochs=epochs, size=need))
        elif not outputs and cut == [*cuts][-1]:
            raise InputError(
                f"cache: expected at most cache.max_gb={config.cache.max_gb:g}, received a need of {need / 1e9:.1f} GB"
                f" for the output of {cut}; try cache.max_gb={ceil(need / 1e9)}, cache.dtype=float16 or cache=none"
            )
    missing = [cut for cut in cuts if cut not in {each.cut for each in outputs}]
    return tuple(outputs), f" (no room within cache.max_gb for that of {', '.join(missing)})" if missing else ""


def _worth_keeping(cache: CacheConfig, spans: Sequence[_Span]) -> dict[str, tuple[int, int] | None]:
    """The cuts, and the epochs that each serves. A cut that lasts to the end always pays off. Any other does if it
    serves more epochs than computing it takes.

    Raises:
        InputError: no cut pays off.
    """
    last = spans[-1].cut
    least = max(cache.views, 1) if cache.kind is CacheKind.auto else 0
    lengths = {cut: sum(span.length for span in spans if span.cut == cut) for span in spans if (cut := span.cut)}
    cuts: dict[str, tuple[int, int] | None] = {}
    for span in spans:
        if span.cut and (span.cut == last or lengths[span.cut] > least):
            before = cuts.get(span.cut)
            cuts[span.cut] = (before[0], span.epochs[1]) if before and span.epochs else span.epochs
    if lengths and not cuts:
        longest = max(lengths, key=lambda cut: lengths[cut])
        raise InputError(
            f"cache=features: expected frozen stages for longer than computing their output takes, received"
            f" {longest} frozen for {lengths[longest]:g} whole epochs; try a longer first phase, or cache=none"
        )
    return cuts or {check_cut(None): None}


def _need(config: FeaturesConfig, table: Table, network: Network, cut: str) -> int:
    """Size on disk, in bytes, of one stage's output for every image."""
    images = {part: len(table.part(part)) for part in PARTS}
    side = network.preprocess.image_size
    image_shape = (config.channels, side, side)
    shape = once_for(
        network, lambda: _shape_after(network, cut, image_shape), "output", cut, image_shape, network.stages
    )
    need = 0
    for rows in rows_of(config.trainer, config.cache):
        others = sum(images[part] for part in rows.parts if part != TRAIN)
        train = images[TRAIN] if TRAIN in rows.parts else 0
        count = row_count(train=train, others=others, views=config.cache.views)
        need += estimate(shape, rows=count, dtype=rows.dtype)
    return need


MEASURED = 1e8
"""The number of training features up to which other heads than the run's own are measured: 800 MB as float64."""


def keep_all_blocks(cache: CachePlan, config: FeaturesConfig, table: Table, blocks: Network) -> CachePlan | None:
    """The cache plan extended by the pooled outputs of all blocks, beside the last layer's input, as features of
    another network. None if that would take much more space than the run's own head needs."""
    (output,) = cache.outputs
    size = _need(config, table, blocks, output.cut)
    views = max(config.cache.views, 1)
    if size > config.cache.max_gb * 1e9 or len(table.train) * views * blocks.head["width"] > MEASURED:
        return None
    return replace(cache, outputs=(replace(output, size=size),), reason=f"{cache.reason}, with every block's, pooled")


def _shape_after(network: Network, cut: str, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Shape of the cached features of one image."""
    prefix, rest = split(network.module, network.stages, cut)
    if rest.inputs != 1:
        raise InputError(f"cache: expected one tensor to keep after {cut}, received {rest.inputs}; try cache=none")
    return feature_shape(prefix, image_shape)


def _epochs(epochs: tuple[int, int] | None, of: int) -> str:
    """Epochs counted from 1, for people; "" for all of them."""
    if epochs is None:
        return " (until it thaws)"
    return "" if epochs == (0, of) else f" (epochs {epochs[0] + 1} to {epochs[1]})"


def runs_engine(trainer: TrainerConfig, method: MethodConfig) -> bool:
    """Whether a frozen prefix runs as an inference engine on images."""
    return trainer.engine and not trainer.recompute and not method.distill


def prefix_in_words(trainer: TrainerConfig, method: MethodConfig) -> str:
    """How a frozen prefix runs on images."""
    if runs_engine(trainer, method):
        precision = training_dtype(training_precision(trainer), device_type(trainer))
        digits = "in bfloat16 for training and float32 for evaluation" if precision is torch.bfloat16 else "in float32"
        return f"without autograd, batch-norm folded, channels-last, {digits}"
    if method.distill:
        return "as the network is, which method.distill listens to"
    return "as the network is, with trainer." + ("recompute" if trainer.recompute else "engine=false")
