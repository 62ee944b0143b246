"""SIGINT and SIGTERM stop a run: between two updates, or at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Training stopped by a signal, with its checkpoint written.

    Attributes:
        signum: the signal's number; the exit code is 128 + it.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignal(BaseException):
    """A signal, raised wherever the program stood; not an Exception, which others may catch."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise StopSignal, unless the process was told to ignore them."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise StopSignal(signum)

    heard = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
    previous = [signal.signal(s, stop) for s in heard]
    try:
        yield
    finally:
        for signum, handler in zip(heard, previous, strict=True):
            signal.signal(signum, handler)


class InterruptionGuard:
    """While entered, the first SIGINT or SIGTERM sets `signum`; a second one acts as usual."""

    def __init__(self) -> None:
        self.signum = 0
        self.raises = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may listen
            for signum in SIGNALS:
                self.previous[signum] = signal.signal(signum, self.handle)
        return self

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, self.previous[signum])
        if self.raises:
            raise StopSignal(signum)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, the first signal raises StopSignal; so does one that came before."""
        self.raises = True
        try:
            if self.signum:
                raise StopSignal(self.signum)
            yield
        finally:
            self.raises = False

    def __exit__(self, *error: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
