"""Child processes that never outlive this one; standard library only.

A child runs in a session of its own.  Compilers and loader processes make process groups of their
own, which a signal to one group does not reach, but they stay in the session: stopping means every
process of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

GRACE_SECONDS = 10.0
POLL_SECONDS = 0.05
# What ends a process from outside, by default without any clean-up.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; as for Ctrl-C, only ``finally`` should run.

    Attributes:
        status: exit status a shell gives such a process, 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP raise :class:`Stopped`.

    Signals that somebody handles or ignores are left alone, and so are threads other than the main
    one, where handlers cannot be set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    taken = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def start(
    command: Sequence[str],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    log: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own.

    Args:
        command: argument vector.
        cwd: its working directory; None for this process's own.
        environment: all its variables; None for this process's own.
        log: gets both of its outputs, and its input is empty; None to share all three.

    A signal that arrives while the child is being made raises when it can be stopped.
    """
    with _held_signals() as held:
        child = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=environment,
            stdin=None if log is None else subprocess.DEVNULL,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            start_new_session=True,
        )
    if held:
        stop(child)
        signal.raise_signal(held[0])
    return child


@contextlib.contextmanager
def _held_signals() -> Iterator[list[int]]:
    """Within this context signals that have a handler in Python are put down instead: one that
    raises in the middle of ``Popen`` leaves a child that nobody knows."""
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, *_ENDING)}
    taken = {n: handler for n, handler in handlers.items() if callable(handler)}
    for number in taken:
        signal.signal(number, lambda number, frame: held.append(number))
    try:
        yield held
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End the child and every process of its session: asked first, killed after some seconds."""
    deadline = time.monotonic() + GRACE_SECONDS
    _signal(child, signal.SIGTERM)
    while child.poll() is None or _session(child.pid):
        if time.monotonic() > deadline:
            _signal(child, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def run(
    command: Sequence[str],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a child to its end; its exit status.

    Ctrl-C, SIGTERM and SIGHUP, and any exception on the way, end it and all that it started.
    """
    with stop_on_signals():
        child = start(command, cwd, environment)
        try:
            return child.wait()
        finally:
            stop(child)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if child.poll() is None:
        child.send_signal(number)
    for pid in _session(child.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _session(leader: int) -> list[int]:
    """Living processes of a session, without its leader and zombies; none without /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            # pid (name) state parent group session ...: a name may hold spaces and brackets.
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX" and int(folder.name) != leader:
                found.append(int(folder.name))
    return found
