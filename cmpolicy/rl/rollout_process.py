"""Episodes in a process of their own: a simulator that hangs or exits ends no training."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.envs.registration import EnvSpec, registry

from cmpolicy.errors import InputError
from cmpolicy.policy.action_chunks import Window
from cmpolicy.rl.environments import Environment
from cmpolicy.rl.rollout import PLAIN, Act, EnvironmentFailure, Episodes, roll_out_seeds

START_SECONDS = 120.0  # for the imports of a process that begins
READY, ACT, OVER, FAILED = "ready", "act", "over", "failed"  # kinds of messages

_running: list[RolloutProcess] = []  # at most one, for the next evaluation


def roll_out_apart(
    act: Act, env: Environment, episodes: int, seeds: Sequence[int], window: Window = PLAIN
) -> list[Episodes]:
    """`roll_out_seeds` with the environments in another process; `act` stays in this one.

    The process serves all evaluations in `env`, until one fails or this process ends.

    Raises:
        EnvironmentFailure: an environment raised an exception, ended its process, or took more
            than `env.timeout` seconds to be made, to be reset, or for a step.
    """
    if _running and _running[0].env != env:
        end_process()
    if not _running:
        _running.append(RolloutProcess(env))
    try:
        return _running[0].roll_out(act, episodes, seeds, window)
    except BaseException:
        end_process()
        raise


@atexit.register
def end_process() -> None:
    """End the process, if there is one, and all that it has started."""
    while _running:
        _running.pop().end()


class RolloutProcess:
    """A process that makes and steps environments."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads
        self.connection, theirs = context.Pipe()
        spec = registry.get(env.id)
        spec = spec if spec is not None and isinstance(spec.entry_point, str) else None
        self.process = context.Process(target=serve, args=(theirs, env, spec))
        self.process.start()
        theirs.close()
        try:
            self.receive(START_SECONDS, "before it was made")
        except BaseException:
            self.end()
            raise

    def roll_out(
        self, act: Act, episodes: int, seeds: Sequence[int], window: Window
    ) -> list[Episodes]:
        """See `roll_out_apart`."""
        assert self.env.timeout is not None
        self.connection.send((episodes, list(seeds), window))
        steps, where = 0, "while it was made and reset"
        while True:
            kind, content = self.receive(self.env.timeout, where)
            if kind == OVER:
                played: list[Episodes] = content
                return played
            self.connection.send(act(content))
            steps += 1
            where = f"in step {steps} of the evaluation"

    def receive(self, seconds: float, where: str) -> tuple[str, Any]:
        """Wait for a message of the process, other than that it failed.

        Raises:
            EnvironmentFailure: if it failed, or sends nothing.
        """
        if not self.connection.poll(seconds):
            raise EnvironmentFailure(
                f"environment {self.env.id} gave no answer for {seconds:g} s {where} (eval.timeout)"
            )
        try:
            kind, content = self.connection.recv()
        except (EOFError, ConnectionError):
            self.kill_group()
            self.process.join()
            raise EnvironmentFailure(
                f"environment {self.env.id} ended its process {where}, exit code "
                f"{self.process.exitcode}"
            ) from None
        if kind == FAILED:
            raise EnvironmentFailure(content)
        return kind, content

    def kill_group(self) -> None:
        """Kill what the process has started, and itself."""
        if os.name == "posix" and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group of its own

    def end(self) -> None:
        """End the process, whatever it does."""
        if self.process.exitcode is None:
            self.kill_group()
            self.process.kill()
            self.process.join()
        self.connection.close()


def serve(connection: Connection, env: Environment, spec: EnvSpec | None) -> None:
    """Roll out in this process, as often as another one asks, which acts.

    Args:
        spec: how `env.id` is registered in that process, if it is.
    """
    if os.name == "posix":
        os.setsid()  # the terminal's Ctrl-C is for the other process, which ends this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    if spec is not None:
        registry.setdefault(env.id, spec)

    def act(observations: Any) -> Any:
        connection.send((ACT, observations))
        return connection.recv()

    with contextlib.suppress(EOFError, OSError):  # the other process has gone
        connection.send((READY, None))
        while True:
            episodes, seeds, window = connection.recv()
            try:
                played = roll_out_seeds(act, env.make, episodes, seeds, env.parallel, window)
                connection.send((OVER, played))
            except (EnvironmentFailure, InputError) as error:
                connection.send((FAILED, str(error)))


def end_with_parent() -> None:
    """Wait for the end of the other process, were it killed; then end this one at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
