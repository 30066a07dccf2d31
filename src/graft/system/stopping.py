"""Signals that end a run: recorded at once, and acted on when no step is unfinished.

The handler only sets a flag, or raises an exception if no other process can be waiting. A collective inside a handler
hangs if another rank is already waiting in one.
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
    """A signal ended the run in an orderly way. It is not an Exception, so that it is never mistaken for an error.

    Args:
        where: progress of the run, as text.
    """

    def __init__(self, number: int, where: str = "") -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}{where and ' '}{where}")

    @property
    def exit_code(self) -> int:
        """The exit code that a shell reports for a process killed by the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class StopSignals:
    """Within this context, the first of SIGNALS raises Stopped. Within `deferred`, it is only recorded.

    A SIGINT after the first signal ends the process at once. Other signals are ignored from then on, also after Stopped
    has left this context: SLURM signals a run and its parent, which passes the signal on, and the second one must not
    end the process before it has reported its progress. Processes forked within the context (loader workers) ignore the
    first signal, which a terminal or a cluster sends to all processes while this one still needs their batches.
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
        """Installs the handlers, again if something has replaced them (Lightning's run collectives)."""
        if threading.current_thread() is threading.main_thread() and self.before:
            for number in SIGNALS:
                signal.signal(number, self._note)

    @contextmanager
    def deferred(self) -> Generator[None]:
        """Within this context, a signal is recorded in `received`. Leaving it without an error raises Stopped."""
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
    """A `worker_init_fn` for loaders: the worker ends with its parent, or by its request, but not by a signal to the
    group.

    SLURM signals all processes of a job, SIGTERM twice, while the parent still needs its workers' batches. Torch's own
    handler, which each worker starts with, would obey them.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_heed_parent, args=(os.getppid(),), daemon=True).start()


def _heed_parent(parent: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != parent:
        pass
    os._exit(0)
