"""Signals that end a run: noted at once, obeyed where nothing is half done.

The handler does nothing but raise a flag, or an exception where no other process can be waiting: a collective in a
handler hangs when another rank waits in one already.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(BaseException):
    """A signal ended the run in good order. Not an Exception, so that nothing takes it for an error.

    Args:
        where: how far the run had come, in words.
    """

    def __init__(self, number: int, where: str = "") -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}{where and ' '}{where}")

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that the signal killed: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class StopSignals:
    """Within it, the first of SIGNALS raises Stopped, or within `deferred` is only noted, to be asked for.

    A SIGINT that comes after the first signal ends the process at once. Others are passed over from then on, also once
    Stopped has left this: SLURM signals a run and its parent, which passes the signal on, and the second must not end
    the process before it has said where it stands. Processes forked within (loader workers) pass over the first
    signal, which a terminal or a cluster sends to all of them while this one still needs their batches.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The first signal that came."""
        self.before: dict[int, Any] = {}
        """The handlers that stood before."""
        self._deferred = False
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread() and not isinstance(error, Stopped):
            for number, handler in self.before.items():
                signal.signal(number, handler)
        self.before = {}

    def install(self) -> None:
        """Puts the handlers in place, again where another has replaced them (Lightning's run collectives)."""
        if threading.current_thread() is threading.main_thread() and self.before:
            for number in SIGNALS:
                signal.signal(number, self._note)

    @contextmanager
    def deferred(self) -> Generator[None]:
        """Within it, a signal is noted in `received`; on leaving it without an error, Stopped is raised."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received is not None:
            raise Stopped(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            signal.signal(number, signal.SIG_DFL)
        elif self.received is None:
            self.received = number
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # also while this thread waits in foreign code
            if not self._deferred:
                raise Stopped(number)
        elif number == signal.SIGINT:  # something put this handler back
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)


def outlive_signals(worker: int) -> None:
    """A loader's `worker_init_fn`: the worker ends with its parent, or by its word, and not by anybody else's signal.

    SLURM signals all processes of a job, SIGTERM twice, while the parent still needs its workers' batches. Torch's own
    handler, which each worker begins with, heeds them.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_heed_parent, args=(os.getppid(),), daemon=True).start()


def _heed_parent(parent: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != parent:
        pass
    os._exit(0)
