"""Noisy ensembles of five sizes, split and prepared."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.prepared import (
    PreparedEnsemble,
)
from protein_cvae.data.splits import EnsembleSplit
from protein_cvae.ensemble import Ensemble

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def make_ensemble(name: str, length: int, models: int, seed: int) -> Ensemble:
    """Noise about a random walk; every sequence of its own; some residues missing."""
    rng = np.random.default_rng(seed)
    walk = 3.8 * rng.normal(size=(length, 1, 3)).cumsum(0) + rng.normal(size=(length, 3, 3))
    noise = 0.05 * rng.normal(size=(models, length, 3, 3))
    xyz = torch.tensor(walk + noise, dtype=torch.float32)
    mask = torch.tensor(rng.random((models, length)) < 0.99)
    bonded = torch.ones(length, dtype=torch.bool)
    bonded[-1] = False
    return Ensemble(
        name=name,
        coordinates=torch.where(mask[..., None, None], xyz, 0.0),
        mask=mask,
        sequence="".join(rng.choice(list(LETTERS), length)),
        chain_index=torch.zeros(length, dtype=torch.int64),
        chain_ids=("A",),
        residue_numbers=torch.arange(length),
        insertion_codes=("",) * length,
        bonded=bonded,
        source=name,
        model_numbers=tuple(range(models)),
    )


SIZES = {"a": (30, 5), "b": (50, 12), "c": (41, 20), "d": (75, 7), "unseen": (45, 6)}
ENSEMBLES = [make_ensemble(n, length, m, i) for i, (n, (length, m)) in enumerate(SIZES.items())]
SPLIT = EnsembleSplit.declare(ENSEMBLES, ["unseen"])
PREPARED = [
    PreparedEnsemble.build(i, ensemble, entry.train, entry.heldout)
    for i, (ensemble, entry) in enumerate(zip(ENSEMBLES, SPLIT.entries, strict=True))
]
KNOWN, UNSEEN = PREPARED[:4], PREPARED[4:]
TENSORS = [f.name for f in fields(ProteinBatch) if f.name != "names"]
