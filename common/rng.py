"""Random generators as pure functions of (seed, epoch, rank, worker, draw, ...).

A generator is built from the hash of its keys, so nothing about randomness has to be stored to
resume a run, two keys that differ anywhere give unrelated streams, and no code draws from the
global generator.  The order of keys is the caller's to choose and must then be kept:

    generator = generator_for(seed, epoch, index)

Hash: BLAKE2b (RFC 7693) of the decimal keys joined by commas.  PyTorch's CPU generator (mt19937)
uses the low 32 bits of its seed only: among m streams, m² / 2³³ pairs are expected to coincide.
NumPy's PCG64 is seeded with all 128 bits.

Where every item of a batch needs noise of its own, whatever its neighbours and its device,
``counter_normal`` computes it from the item's key without any generator: SplitMix64 (Steele, Lea
and Flood 2014) of key and counter, then Box and Muller (1958).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

# SplitMix64's increment and multipliers as signed 64-bit numbers; products wrap as they should.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


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


def counter_normal(keys: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers that depend on each key and their position, and nothing else.

    Row b of the result is a function of ``keys[b]``; a larger ``count`` begins with the same
    numbers.  Computed in float64 and rounded, so devices agree to rounding.

    Args:
        keys: (B,) int64, see :func:`combined_key`.
        count: numbers per key.
        dtype: of the result.

    Returns:
        (B, count).
    """
    pairs = (count + 1) // 2
    counter = torch.arange(2 * pairs, device=keys.device)
    bits = _mix(_mix(keys)[:, None] + _GAMMA * (counter + 1))  # (B, 2 pairs)
    # 53 bits, shifted so that 0 is never drawn: log(0) would be infinite.
    uniform = ((bits >> 11) & (2**53 - 1)).to(torch.float64).add(0.5) * 2.0**-53
    first, second = uniform[:, 0::2], uniform[:, 1::2]
    radius, angle = (-2 * first.log()).sqrt(), 2 * math.pi * second
    normal = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2).flatten(1)
    return normal[:, :count].to(dtype)


def combined_key(first: Tensor | int, *others: Tensor | int) -> Tensor:
    """One int64 key out of several: integers and (B,) int64 tensors, which broadcast.

    It is on the device of the tensors, which have to share one, or on the CPU without any.
    """
    parts = (first, *others)
    device = next((part.device for part in parts if isinstance(part, Tensor)), None)
    key = _mix(torch.as_tensor(first, device=device))
    for other in others:
        key = _mix(key + _GAMMA + torch.as_tensor(other, device=device))
    return key


def key_of_numbers(numbers: Tensor, stream: int) -> Tensor:
    """(B,) int64 keys of their own from the bits of (B,) random numbers, rounded to float32."""
    bits = numbers.float().contiguous().view(torch.int32).long()
    return combined_key(stream, bits)


def uniform_of_normal(normal: Tensor) -> Tensor:
    """(...) uniform numbers in [0, 1] of standard normal ones, by their distribution function."""
    return 0.5 * (1 + (normal / math.sqrt(2)).erf())


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; ``>>`` keeps the sign, so the copies of it are cleared."""
    bits = (bits ^ ((bits >> 30) & (2**34 - 1))) * _MIX_1
    bits = (bits ^ ((bits >> 27) & (2**37 - 1))) * _MIX_2
    return bits ^ ((bits >> 31) & (2**33 - 1))
