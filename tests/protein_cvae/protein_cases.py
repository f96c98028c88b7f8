"""Proteins to judge a network on, an untrained network, and RMSDs by NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.data.cases import EvaluationCase, EvaluationCases
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.data.splits import EnsembleSplit
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.settings import EvaluationSettings
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.residues import ALPHABET

SETTINGS = EvaluationSettings(count=5, chunk=3, figures=1)


def make_ensemble(name: str, length: int = 26, models: int = 8) -> Ensemble:
    """Two helices that move on a hinge, with a loose tail."""
    rng = np.random.default_rng(list(name.encode()))
    angles = np.tile(np.array([-1.1, -0.75, np.pi])[:, None, None], (1, models, length))
    angles[:2] += 0.02 * rng.normal(size=(2, models, length))
    angles[1, :, length // 2] += 1.5 + 0.3 * rng.normal(size=models)
    angles[:2, :, -5:] += rng.normal(size=(2, models, 5))
    bonded = torch.arange(length) < length - 1
    xyz = build_backbone(Torsions(*torch.tensor(angles)), bonded.expand(models, -1))
    turns = torch.tensor(Rotation.random(models, random_state=3).as_matrix())
    xyz = torch.einsum("mxy,mlay->mlax", turns, xyz)
    return Ensemble(
        name=name,
        coordinates=xyz.float(),
        mask=torch.ones(models, length, dtype=torch.bool),
        sequence="".join(rng.choice(list(ALPHABET), length)),
        chain_index=torch.zeros(length, dtype=torch.int64),
        chain_ids=("A",),
        residue_numbers=torch.arange(1, length + 1),
        insertion_codes=("",) * length,
        bonded=bonded,
        source="test",
        model_numbers=tuple(range(1, models + 1)),
    )


def make_cases(
    *ensembles: Ensemble, unseen: tuple[str, ...] = (), **options: Any
) -> EvaluationCases:
    split = EnsembleSplit.declare(ensembles, unseen, held_out_fraction=0.25)
    prepared = [
        PreparedEnsemble.build(i, ensemble, entry.train, entry.heldout)
        for i, (ensemble, entry) in enumerate(zip(ensembles, split.entries, strict=True))
    ]
    return EvaluationCases(
        [p for p in prepared if not p.unseen], [p for p in prepared if p.unseen], 0.25, **options
    )


def gappy(ensemble: Ensemble, model: int, residue: int) -> Ensemble:
    """Without one residue of one model."""
    mask = ensemble.mask.clone()
    mask[model, residue] = False
    coordinates = ensemble.coordinates * mask[..., None, None]
    return dataclasses.replace(ensemble, mask=mask, coordinates=coordinates)


def means(network: ProteinCVAE, batch: ProteinBatch) -> Latents:
    condition = network.condition(batch)
    return network.posterior_mean(condition, network.encode(batch, condition))


def make_network(**options: object) -> ProteinCVAE:
    torch.manual_seed(0)
    settings = {
        "width": 16, "layers": 1, "condition_layers": 1, "heads": 2, "feed_forward": 16,
        "dropout": 0.2, "d_global": 4, "hidden": 8, "decoder_layers": 1,
        "chain_neighbors": 2, "spatial_neighbors": 4,
    }  # fmt: skip
    return ProteinCVAE(NetworkSettings(**(settings | options)))


def noisy(case: EvaluationCase, size: float, count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = case.coordinates[torch.arange(count) % case.prepared.ensemble.num_models]
    return x + size * torch.randn(x.shape, generator=generator)


def kabsch_rmsd(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(0), b - b.mean(0)
    _, rssd = Rotation.align_vectors(b, a)
    return float(rssd / np.sqrt(len(a)))


def matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.array([[kabsch_rmsd(a, b) for b in second] for a in first])


def mean_profile(models: np.ndarray) -> np.ndarray:
    """RMSF about the mean after repeated superposition on it."""
    mean_model = models[0] - models[0].mean(0)
    for _ in range(30):
        moved = []
        for x in models:
            x = x - x.mean(0)
            moved.append(Rotation.align_vectors(mean_model, x)[0].apply(x))
        mean_model = np.mean(moved, 0)
    return np.sqrt(((np.array(moved) - mean_model) ** 2).sum(-1).mean(0))


def head(protein: str, group: str = "known") -> dict[str, object]:
    return {
        "protein": protein, "group": group, "residues": 30, "core": 20, "given": 8, "judged": 2,
    }  # fmt: skip
