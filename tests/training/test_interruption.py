"""Signals ask once, and act the second time."""

from __future__ import annotations

import os
import signal

import pytest

from cmpolicy.training.interruption import Interrupted, InterruptionGuard

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_noted(signum: signal.Signals) -> None:
    with InterruptionGuard() as guard:
        assert guard.signum == 0
        os.kill(os.getpid(), signum)
        assert guard.signum == signum


def test_the_second_signal_acts_as_usual() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    try:
        with InterruptionGuard() as guard:
            os.kill(os.getpid(), signal.SIGINT)
            assert guard.signum == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_handlers_before_come_back() -> None:
    def mine(*args: object) -> None:
        raise AssertionError

    before = [signal.signal(s, mine) for s in SIGNALS]
    try:
        with InterruptionGuard():
            assert all(signal.getsignal(s) is not mine for s in SIGNALS)
            os.kill(os.getpid(), signal.SIGTERM)
        assert all(signal.getsignal(s) is mine for s in SIGNALS)
        with pytest.raises(ValueError, match="from within"), InterruptionGuard():
            raise ValueError("from within")
        assert all(signal.getsignal(s) is mine for s in SIGNALS)
    finally:
        for signum, handler in zip(SIGNALS, before, strict=True):
            signal.signal(signum, handler)


def test_an_interruption_carries_its_signal_and_message() -> None:
    error = Interrupted(15, "stopped at step 3")
    assert (error.signum, str(error)) == (15, "stopped at step 3")
