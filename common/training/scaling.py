"""What changes with the number of processes: the batch of each, or the learning rate.

With B the batch size of the configuration, W processes and the learning rate lr of one process:

    =========  ==============  ================  ================
    rule       each process    step of all       learning rate
    =========  ==============  ================  ================
    none       B               B · W             lr
    batch      B / W           B                 lr
    sqrt       B               B · W             lr · √W
    linear     B               B · W             lr · W
    =========  ==============  ================  ================

``batch`` gives the steps and the draws of one process, and its weights up to rounding where the
loss is a mean over the batch.  The other rules take a W-th of the steps in an epoch.  ``sqrt`` is
the rule for adaptive optimizers such as AdamW (Malladi et al. 2022, On the SDEs and Scaling Rules
for Adaptive Gradient Algorithms), ``linear`` that for SGD (Goyal et al. 2017, Accurate, Large
Minibatch SGD).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from common.errors import UserError

Scaling = Literal["none", "batch", "sqrt", "linear"]


def check_scaling(scaling: str) -> None:
    """Raise UserError unless it is one of the rules."""
    if scaling not in get_args(Scaling):
        choices = ", ".join(get_args(Scaling))
        raise UserError(f"scaling must be one of {choices}, got {scaling!r}")


def batch_of_process(batch_size: int, scaling: Scaling, world: int, name: str) -> int:
    """Batch size of each of ``world`` processes.

    Args:
        batch_size: of the configuration.
        scaling: the rule.
        world: number of processes.
        name: of the setting of the batch size, for the message.

    Raises:
        UserError: with ``batch``, if the processes cannot share the batch equally.
    """
    if scaling != "batch":
        return batch_size
    if batch_size % world:
        nearest = -(-batch_size // world) * world
        raise UserError(
            f"scaling=batch shares the {batch_size} draws of a step ({name}) among {world} "
            f"processes, which does not come out even: set {name} to a multiple such as {nearest}, "
            "or scaling to sqrt, with which each process takes them all"
        )
    return batch_size // world


def rate_factor(scaling: Scaling, world: int) -> float:
    """Factor of the learning rate with ``world`` processes."""
    return {"sqrt": math.sqrt(world), "linear": float(world)}.get(scaling, 1.0)
