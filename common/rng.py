"""Random generators as pure functions of (seed, epoch, rank, worker, draw, ...).

A generator is built from the hash of its keys, so nothing about randomness has to be stored to
resume a run, two keys that differ anywhere give unrelated streams, and no code draws from the
global generator.  The order of keys is the caller's to choose and must then be kept:

    generator = generator_for(seed, epoch, index)

Hash: BLAKE2b (RFC 7693) of the decimal keys joined by commas.  PyTorch's CPU generator (mt19937)
uses the low 32 bits of its seed only: among m streams, m² / 2³³ pairs are expected to coincide.
NumPy's PCG64 is seeded with all 128 bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator_for(seed: int, *keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh PyTorch generator that depends on ``(seed, *keys)`` and nothing else.

    Raises:
        TypeError: if a key is not an integer (a float or bool would hash unlike its integer).
    """
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(_digest(seed, *keys)[:8], "little"))
    return generator


def numpy_generator_for(seed: int, *keys: int) -> np.random.Generator:
    """The NumPy twin of :func:`generator_for`: same keys, same independence, another stream."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(seed, *keys), "little")))


def _digest(*keys: int) -> bytes:
    """16 bytes; injective text first, so that (1, 23) and (12, 3) differ."""
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            raise TypeError(f"random keys must be integers, got {key!r} ({type(key).__name__})")
    return hashlib.blake2b(
        ",".join(str(int(key)) for key in keys).encode(), digest_size=16
    ).digest()
