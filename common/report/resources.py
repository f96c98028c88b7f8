"""Seconds and memory of the named stages of a long job."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the wall time of stages, and notes how far memory had grown when each ended.

    Attributes:
        seconds: per stage, in the order of their first start.
        peak_gb: largest resident size of the process (1e9 bytes) up to the end of each stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_gb: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body; a name given again adds to its stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
            self.peak_gb[name] = peak_memory_gb()

    def table(self) -> str:
        """One line per stage: seconds, share of the total, peak memory so far."""
        total = sum(self.seconds.values())
        lines = [
            f"{name:24} {seconds:9.1f} s {100 * seconds / max(total, 1e-12):5.1f} %   "
            f"peak {self.peak_gb[name]:.2f} GB"
            for name, seconds in self.seconds.items()
        ]
        return "\n".join([*lines, f"{'total':24} {total:9.1f} s"])


def peak_memory_gb() -> float:
    """Largest resident size that this process has had, in 1e9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
