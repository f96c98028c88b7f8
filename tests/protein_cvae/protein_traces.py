"""Small ensembles of CA traces."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

LENGTH = 12


def make_traces() -> dict[str, torch.Tensor]:
    """(M, L, 3) by title: a helix with noise, each model in a pose of its own."""
    return {"real": _models(6, 0), "ours": _models(30, 1), "prior": _models(4, 2)}


def _models(count: int, seed: int, size: float = 0.3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    at = np.arange(LENGTH)
    helix = np.stack([2.3 * np.cos(1.745 * at), 2.3 * np.sin(1.745 * at), 1.5 * at], 1)
    turns = Rotation.random(count, random_state=seed).as_matrix()
    moved = np.einsum("mxy,mly->mlx", turns, helix + size * rng.normal(size=(count, LENGTH, 3)))
    return torch.tensor(moved + 5 * rng.normal(size=(count, 1, 3)))
