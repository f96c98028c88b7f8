"""Seconds and memory of the named stages of a long job."""

from __future__ import annotations

import functools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Adds up the time of stages, and notes how far memory had grown when each ended.

    A stage that starts inside another one counts there.

    Args:
        clock: seconds; wall time, unless processor time is asked for.

    Attributes:
        seconds: per stage, in the order of their first start.
        peak_gb: largest resident size of the process (1e9 bytes) up to the end of each stage.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self.peak_gb: dict[str, float] = {}
        self._inside = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body; a name given again adds to its stage."""
        if self._inside:
            yield
            return
        self._inside, start = True, self.clock()
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self.seconds[name] += self.clock() - start
            self.peak_gb[name] = peak_memory_bytes() / 1e9
            self._inside = False

    def timed(self, name: str, call: Callable[P, R]) -> Callable[P, R]:
        """``call``, with its time added to a stage."""

        @functools.wraps(call)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.stage(name):
                return call(*args, **kwargs)

        return run

    def table(self) -> str:
        """One line per stage: seconds, share of the total, peak memory so far."""
        total = sum(self.seconds.values())
        lines = [
            f"{name:24} {seconds:9.1f} s {100 * seconds / max(total, 1e-12):5.1f} %   "
            f"peak {self.peak_gb[name]:.2f} GB"
            for name, seconds in self.seconds.items()
        ]
        return "\n".join([*lines, f"{'total':24} {total:9.1f} s"])


def peak_memory_bytes() -> int:
    """Largest resident size that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # KiB on Linux


def resident_memory_bytes() -> int:
    """Resident size of this process now (Linux).

    Raises:
        OSError: where there is no ``/proc``.
    """
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
