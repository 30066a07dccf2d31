"""How a batch passes through the network: entirely through it, or through an engine for the frozen prefix and then the
rest.

Nothing here owns a tensor of the network. The part after a cut shares its tensors, and an engine is a copy that is
discarded when its prefix may have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from graft.config.faults import InputError
from graft.features.engine import Engine, description, frozen_prefix, proven_engine, training_dtype
from graft.models.cut import split
from graft.models.stages import Stages, tensor_names

WHOLE = "the network as it is"
TRAIN, EVALUATION = "train", "evaluation"
"""Purposes for which a prefix is computed."""


class Route:
    """Maps batches of images or of cached features to logits.

    An engine uses the precision in which the layers after it train. For evaluation, whose metrics refer to the exported
    network, it computes in float32.

    Args:
        behind: the parts after cached features, by the last stage of their prefix. A part shares the network's tensors
            and takes batches with "features" (and "cut", the name of that stage, if there are several).
        fast: whether the prefix that a phase freezes runs as an engine on images.
        precision: precision of the training in Lightning's names: 32-true, bf16-mixed or 16-mixed.
    """

    def __init__(
        self,
        network: nn.Module,
        stages: Stages,
        behind: Mapping[str, nn.Module] | None = None,
        *,
        fast: bool = False,
        precision: str = "32-true",
    ) -> None:
        self.network, self.stages, self.behind = network, stages, dict(behind or {})
        self._names = tensor_names(network)
        self.fast, self.precision = fast, precision
        self.channels_last = False
        self.ways: dict[str, dict[str, str]] = {}
        """Stage that ended a frozen prefix, and how that prefix was computed for training and for evaluation."""
        self._span: tuple[int, str | None] = (-1, None)
        self._halves: dict[torch.dtype, tuple[nn.Module, nn.Module]] = {}
        self._compiled: Callable[[nn.Module], nn.Module] = _as_it_is
        self._whole = network
        self._parts = self.behind

    def compile(self) -> None:
        """Uses torch.compile from now on."""
        self._compiled = lambda module: cast(nn.Module, torch.compile(module))
        self._whole = self._compiled(self.network)
        self._parts = {cut: self._compiled(part) for cut, part in self.behind.items()}
        self._halves = {}

    def to(self, device: torch.device) -> None:
        """Moves tensors that tracing added to the parts after cuts; all others belong to the network."""
        for part in self.behind.values():
            part.to(device)

    def train(self, mode: bool) -> None:
        """Sets the mode of the parts' own containers; their layers belong to the network."""
        for part in (*self.behind.values(), *(rest for _, rest in self._halves.values())):
            part.train(mode)

    def enter(self, start: int, unmoving: Callable[[], Collection[str]]) -> None:
        """Enters the phase that starts at this step.

        Args:
            unmoving: returns the tensors that keep every bit in the phase.
        """
        if not self.fast or start == self._span[0]:
            return
        cut = frozen_prefix(self.stages, self._names, unmoving())
        if cut != self._span[1]:
            self._halves = {}
        self._span = (start, cut)

    def kept_within(self, unmoving: Collection[str]) -> str | None:
        """The deepest stage with cached features whose prefix consists only of these tensors."""
        cut = frozen_prefix(self.stages, self._names, unmoving) if self.behind else None
        depth = -1 if cut is None else self.stages.index(cut)
        return max(
            (stage for stage in self.behind if self.stages.index(stage) <= depth), key=self.stages.index, default=None
        )

    @property
    def cut(self) -> str | None:
        """The last stage that the engine of this phase computes; None if there is no engine."""
        return self._span[1]

    def leave(self) -> None:
        """Discards everything derived from the network's values, because they change."""
        self._span, self._halves = (-1, None), {}

    def __call__(self, batch: Mapping[str, Any], *, purpose: str = TRAIN) -> Tensor:
        if "features" in batch:
            assert self._parts, "batches of features need the part of the network behind the cut"
            cut = batch["cut"] if "cut" in batch else next(iter(self._parts))
            return self._parts[cut](batch["features"])
        image = cast(Tensor, batch["image"])
        if self.channels_last and image.ndim == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        halves = self._engine_and_rest(image, purpose)
        if halves is None:
            return self._whole(image)
        running, rest = halves
        features = running(image)
        return rest(features if self.channels_last else features.contiguous())

    def _engine_and_rest(self, image: Tensor, purpose: str) -> tuple[nn.Module, nn.Module] | None:
        """The engine and the rest, created at the phase's first batch of images, on which they are verified."""
        cut = self._span[1]
        if cut is None:
            return None
        ways = self.ways.setdefault(cut, {})
        if ways.get(purpose, "").startswith(WHOLE):
            return None
        precision = training_dtype(self.precision, image.device) if purpose == TRAIN else torch.float32
        if precision not in self._halves:
            try:
                running, rest = halves_at(cut, self.network, self.stages, image[:2], precision)
            except InputError as reason:
                ways[purpose] = f"{WHOLE}: {reason}"
                return None
            running.folded = self._compiled(running.folded)
            self._halves[precision] = running, self._compiled(rest)
        ways[purpose] = description(precision)
        return self._halves[precision]


def halves_at(
    cut: str, network: nn.Module, stages: Stages, example: Tensor, precision: torch.dtype
) -> tuple[Engine, nn.Module]:
    """An engine for the prefix that ends with this stage, and the part after it.

    Args:
        example: images on which both are verified.
        precision: precision of the engine.

    Raises:
        InputError: the network cannot be cut there, or the engine computes something else.
    """
    prefix, rest = split(network, stages, cut, example=example)
    if rest.inputs != 1:
        raise InputError(f"cut: expected one tensor to cross the cut after {cut}, received {rest.inputs}")
    return proven_engine(prefix, example, precision=precision, device=example.device), rest


def _as_it_is(module: nn.Module) -> nn.Module:
    return module
