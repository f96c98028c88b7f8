"""Compute threads of this process.

A training of laptop size is thousands of small operators a step.  Shared out to several threads
they gain little, and where another program takes one of the cores every operator waits for the
thread that has lost it; so one thread and a loader process beside it are the default there.
``benchmarks/kernels/threads.py`` measures both cases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def compute_threads(count: int | None) -> Iterator[None]:
    """Compute with ``count`` threads, then with as many as before; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
