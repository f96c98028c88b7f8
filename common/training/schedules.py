"""Scalar schedules as pure functions of the epoch or step.

With t the epoch or step:

    linear_ramp    cap · clamp((t − start) / length, 0, 1)
    cosine_decay   final + (initial − final) · (1 + cos(π · min(t, total) / total)) / 2
                   (Loshchilov & Hutter 2017, eq. 5, one cycle)
    cyclical       cap · min(τ / ramp, 1),  τ = (t mod ⌈total / cycles⌉) / (total / cycles)
                   (Fu et al. 2019, eqs. 6-7, linear f; t counts from 0)
"""

from __future__ import annotations

import math

from common.errors import UserError


def linear_ramp(epoch: int, start: int, length: int, cap: float) -> float:
    """0 up to and including epoch ``start``, then linear, ``cap`` from ``start + length`` on.

    ``length`` 0 is a step: 0 up to ``start``, ``cap`` after it.
    """
    if length < 0:
        raise UserError(f"length must not be negative, got {length}")
    if epoch <= start:
        return 0.0
    if epoch >= start + length:
        return cap
    return cap * (epoch - start) / length


def ramp_reached(epoch: int, start: int, length: int) -> bool:
    """True where :func:`linear_ramp` has reached its cap."""
    return epoch > start and epoch >= start + length


def cosine_decay(step: int, total: int, initial: float, final: float) -> float:
    """``initial`` at step 0, ``final`` from step ``total`` on, half a cosine between."""
    if total < 1:
        raise UserError(f"total must be at least 1, got {total}")
    if step < 0:
        raise UserError(f"step must not be negative, got {step}")
    if step >= total:
        return final
    return final + 0.5 * (initial - final) * (1.0 + math.cos(math.pi * step / total))


def cyclical(step: int, total: int, cycles: int = 4, ramp: float = 0.5, cap: float = 1.0) -> float:
    """Rises from 0 to ``cap`` over the first fraction ``ramp`` of each cycle, then stays.

    Args:
        step: from 0; from ``total`` on the value stays at ``cap``.
        total: T, steps that the cycles fill together.
        cycles: M, number of cycles.
        ramp: R in (0, 1], fraction of a cycle spent rising.
        cap: the largest value.
    """
    if total < 1 or not 1 <= cycles <= total:
        raise UserError(f"need 1 <= cycles <= total, got cycles {cycles} and total {total}")
    if not 0.0 < ramp <= 1.0:
        raise UserError(f"ramp must lie in (0, 1], got {ramp}")
    if step < 0:
        raise UserError(f"step must not be negative, got {step}")
    if step >= total:
        return cap
    position = (step % math.ceil(total / cycles)) / (total / cycles)
    return cap * min(position / ramp, 1.0)
