"""Models of one ensemble divided into those to learn from and those to judge on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from common.rng import numpy_generator_for
from protein_cvae.data.settings import TimeBlocks

Division = tuple[tuple[int, ...], tuple[int, ...]]
# A model must be left to train on and another to be its template.
_MIN_TRAIN = 2


def divide(
    name: str, hashes: Sequence[str], fraction: float, seed: int, blocks: TimeBlocks = TimeBlocks()
) -> Division:
    """Training and held-out positions of one ensemble, both ascending.

    Args:
        name: of the ensemble; with the number of models, or of blocks, it decides the draw.  The
            same blocks in time are held out however many frames of a trajectory are taken.
        hashes: one for each model; copies of one model never stand on both sides.
        fraction: of the models, or blocks, to hold out.
        seed: of the draw.
        blocks: of models held out together; with gaps, which are in neither part.

    Raises:
        ValueError: if there are too few models.
    """
    if blocks.count:
        return _in_blocks(name, hashes, fraction, seed, blocks)
    return _single(name, hashes, fraction, seed)


def _single(name: str, hashes: Sequence[str], fraction: float, seed: int) -> Division:
    distinct = list(dict.fromkeys(hashes))  # copies of one model stay on one side
    wanted = max(1, int(fraction * len(distinct) + 0.5)) if fraction > 0 else 0
    if len(distinct) - wanted < _MIN_TRAIN:
        needed = _MIN_TRAIN + (fraction > 0)
        if len(distinct) < needed:
            raise UserError(
                f"{name} has {len(distinct)} distinct models; held_out_fraction {fraction} needs "
                f"at least {needed}: leave it out or raise min_models"
            )
        wanted = len(distinct) - _MIN_TRAIN
    order = numpy_generator_for(seed, _key(name), len(hashes)).permutation(len(distinct))
    chosen = {distinct[i] for i in order[:wanted].tolist()}
    train = tuple(i for i, value in enumerate(hashes) if value not in chosen)
    heldout = tuple(i for i, value in enumerate(hashes) if value in chosen)
    return train, heldout


def _in_blocks(
    name: str, hashes: Sequence[str], fraction: float, seed: int, blocks: TimeBlocks
) -> Division:
    """As :func:`divide`, in whole blocks; gaps and copies of held-out models are in neither."""
    total, count = len(hashes), blocks.count
    if total < 2 * count:
        raise UserError(
            f"{name} has {total} models, too few for {count} blocks of at least 2; lower "
            "split.blocks.count, take more frames (sources.max_frames), or leave it out"
        )
    wanted = min(max(1, int(fraction * count + 0.5)), count - 1) if fraction > 0 else 0
    order = numpy_generator_for(seed, _key(name), count).permutation(count)
    edges = [total * i // count for i in range(count + 1)]
    out = np.zeros(total, dtype=bool)
    near = np.zeros(total, dtype=bool)
    for block in sorted(order[:wanted].tolist()):
        first, last = edges[block], edges[block + 1]
        gap = math.ceil(blocks.gap * (last - first))
        out[first:last] = True
        near[max(0, first - gap) : last + gap] = True
    heldout = tuple(np.flatnonzero(out).tolist())
    copies = {hashes[i] for i in heldout}
    train = tuple(i for i in np.flatnonzero(~near).tolist() if hashes[i] not in copies)
    if len(train) < _MIN_TRAIN:
        raise UserError(
            f"{name}: {len(heldout)} of {total} models are held out in {wanted} of {count} blocks, "
            f"and gaps of {blocks.gap:g} blocks beside them leave {len(train)} to train on; lower "
            "held_out_fraction or split.blocks.gap"
        )
    return train, heldout


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
