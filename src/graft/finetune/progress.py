"""The progress of a training: its time, and the verification that frozen tensors have not changed."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from graft.config.faults import InputError
from graft.config.schema import FreezeBatchNorm
from graft.finetune.freeze import Frozen, statistics, unmoving
from graft.finetune.unfreeze import Phase
from graft.models.fingerprint import digests


class TrainingClock:
    """Seconds spent in training and in evaluation, and the number of images trained on, across interruptions."""

    def __init__(self) -> None:
        self.seconds = {"training": 0.0, "evaluation": 0.0}
        self.images = 0
        self.first_step: float | None = None
        """When this process began its first step, by `time.perf_counter`."""
        self._lap = (0.0, 0)
        self._now: tuple[str, float] | None = None

    def go(self, activity: str | None) -> None:
        """Counts the time from now on as this activity (None: as none)."""
        now = time.perf_counter()
        if self._now is not None:
            self.seconds[self._now[0]] += now - self._now[1]
        self._now = (activity, now) if activity else None

    def step(self) -> None:
        """Marks the start of a step."""
        self.first_step = time.perf_counter() if self.first_step is None else self.first_step

    def lap(self) -> tuple[float, int]:
        """Seconds of training and number of images since the last lap."""
        seconds, images = self.seconds["training"] - self._lap[0], self.images - self._lap[1]
        self._lap = (self.seconds["training"], self.images)
        return seconds, images

    def state(self) -> dict[str, Any]:
        self.go(self._now[0] if self._now else None)
        return {"seconds": dict(self.seconds), "images": self.images, "lap": list(self._lap)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seconds, self.images = dict(state["seconds"]), state["images"]
        self._lap = (state["lap"][0], state["lap"][1])


class Watch:
    """Verifies, at the end of each phase, that the tensors frozen in it are the same as at its start.

    Tensors that no phase trains are compared with their values when the watch began, that is, right after the transfer.

    Args:
        states: every freeze state that the training can reach; `phases` contains those decided so far.
    """

    def __init__(
        self, network: nn.Module, states: Sequence[Frozen], freeze_bn: FreezeBatchNorm, *, heads: Sequence[str]
    ) -> None:
        self.network = network
        self.phases: list[Phase] = []
        self.freeze_bn = freeze_bn
        self.heads = heads
        self.moved: set[str] = set()
        unmoving = [self._unmoving(state) for state in states]
        self.injected = digests(network, frozenset.intersection(*unmoving))
        always = frozenset.intersection(*(state.names for state in states))
        self._statistics = digests(network, (always - frozenset(self.injected)) & statistics(network))
        self._holds = any(unmoving)
        self.phase: Phase | None = None
        self._digests: dict[str, str] = {}
        self._applied = False

    def phase_at(self, step: int) -> Phase:
        starts = [phase.start_step for phase in self.phases]
        return self.phases[max(bisect_right(starts, step) - 1, 0)]

    def enter(self, phase: Phase) -> bool:
        """Enters a phase. Returns whether its freeze state must be applied to the network."""
        if self.phase is None or phase.start_step != self.phase.start_step:
            self.look()
            self.phase = phase
            unmoving = self._unmoving(phase.frozen)
            self._digests = {**self.injected, **digests(self.network, unmoving - self.injected.keys())}
            self._applied = False
        must_apply, self._applied = not self._applied, True
        return must_apply

    def look(self) -> None:
        """Records frozen tensors that have changed since the current phase began."""
        self.moved |= self._differing(self._digests)

    def verified(self) -> bool | None:
        """Whether no frozen tensor has changed, except those that freeze_bn allows to; None if nothing was frozen."""
        if not self._holds:
            return None
        self.moved |= self._differing(self.injected)
        return not self.moved

    def moved_statistics(self) -> set[str]:
        """With freeze_bn=none, the batch-norm statistics that have changed although every phase freezes their stage."""
        return self._differing(self._statistics)

    def _unmoving(self, frozen: Frozen) -> frozenset[str]:
        return unmoving(self.network, frozen, self.freeze_bn, heads=self.heads)

    def _differing(self, before: Mapping[str, str]) -> set[str]:
        now = digests(self.network, before)
        return {name for name in before if before[name] != now[name]}

    def state(self) -> dict[str, Any]:
        start = -1 if self.phase is None else self.phase.start_step
        return {"start_step": start, "digests": dict(self._digests), "moved": sorted(self.moved)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint's state.

        Raises:
            InputError: the never-trained tensors came from another donor when the checkpoint was written.
        """
        saved: Mapping[str, str] = state["digests"]
        other = sorted(name for name in self.injected if name in saved and saved[name] != self.injected[name])
        if other:
            raise InputError(
                f"resume: expected the donor that the checkpoint's run started from, received another ({len(other)}"
                f" frozen tensors differ, {other[0]} first); try that donor, or resume=never"
            )
        self.phase = next((phase for phase in self.phases if phase.start_step == state["start_step"]), None)
        self._digests, self.moved, self._applied = dict(saved), set(state["moved"]), False
