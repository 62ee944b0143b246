"""Signals ask once, and act the second time."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from cmpolicy.training.interruption import (
    Interrupted,
    InterruptionGuard,
    StopSignal,
    stopped_at_once,
)

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


@pytest.mark.parametrize("before", [False, True], ids=["within", "before"])
def test_at_once_the_first_signal_raises(before: bool) -> None:
    with InterruptionGuard() as guard:
        if before:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopSignal, match="stopped by SIGTERM"), guard.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert guard.signum == signal.SIGTERM
        assert not issubclass(StopSignal, Exception)


def test_signals_of_a_command_raise_unless_ignored() -> None:
    before = [signal.signal(s, h) for s, h in zip(SIGNALS, (signal.SIG_IGN, nothing), strict=True)]
    try:
        with pytest.raises(StopSignal) as stop, stopped_at_once():
            kill_with_both()
        assert stop.value.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is nothing
    finally:
        for signum, handler in zip(SIGNALS, before, strict=True):
            signal.signal(signum, handler)


def kill_with_both() -> None:
    for signum in SIGNALS:
        os.kill(os.getpid(), signum)


def nothing(*args: object) -> None:
    raise AssertionError


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


def test_a_run_in_a_thread_listens_to_no_signals() -> None:
    """Only the main thread may; a program may train in another one."""
    before = signal.getsignal(signal.SIGINT)

    def train() -> int:
        with InterruptionGuard() as guard, guard.at_once():
            return guard.signum

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train).result() == 0
    assert signal.getsignal(signal.SIGINT) is before
