"""Where the training's time goes: shares of the wall clock, read off the hooks that Lightning times anyway."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from lightning.pytorch.profilers import Profiler
from typing_extensions import override

# Parts of Lightning's names for what it does, and the share it counts to; the first that fits.
SHARES = (
    ("train_dataloader_next", "data"),
    ("batch_to_device", "data"),
    ("val_next", "evaluation"),
    ("validation", "evaluation"),
    ("checkpoint", "checkpoint"),
    ("training_step", "forward"),
    ("backward", "backward"),
    ("optimizer", "optimizer"),
    ("run_training_epoch", "rest"),
    ("on_train_epoch_end", "rest"),
)


_UNTIMED = nullcontext()


class _Action:
    """An action that is timed. Lightning's own is a generator, which costs more than many a hook that it times."""

    __slots__ = ("name", "shares")

    def __init__(self, shares: Shares, name: str) -> None:
        self.shares, self.name = shares, name

    def __enter__(self) -> str:
        self.shares.start(self.name)
        return self.name

    def __exit__(self, *_: object) -> None:
        self.shares.stop(self.name)


class Shares(Profiler):
    """Seconds of training and evaluating by share. An action's time is its own: what it calls counts elsewhere.

    On a GPU a share is the time in which the processor waits or gives orders, as no step waits for the device.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self._now = now
        self._open: list[tuple[str, str | None]] = []
        self._since = 0.0
        self._share_of: dict[str, str | None] = {}  # by action

    @override
    def profile(self, action_name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - a generator there
        # Of the thirty actions of a step, most count to what calls them.
        return _UNTIMED if self._share(action_name) is None else _Action(self, action_name)

    def _share(self, action_name: str) -> str | None:
        if action_name not in self._share_of:
            self._share_of[action_name] = next((share for part, share in SHARES if part in action_name), None)
        return self._share_of[action_name]

    @override
    def start(self, action_name: str) -> None:
        self._account()
        around = self._open[-1][1] if self._open else None
        self._open.append((action_name, self._share(action_name) or around))

    @override
    def stop(self, action_name: str) -> None:
        """Also ends what an exception left open inside it."""
        self._account()
        while self._open and self._open.pop()[0] != action_name:
            pass

    def _account(self) -> None:
        now = self._now()
        share = self._open[-1][1] if self._open else None
        if share is not None and now > self._since:
            self.seconds[share] = self.seconds.get(share, 0.0) + now - self._since
        self._since = now

    def shares(self) -> dict[str, float]:
        """Each share of the whole, which is 1; largest first."""
        whole = sum(self.seconds.values())
        return {name: seconds / whole for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1])}
