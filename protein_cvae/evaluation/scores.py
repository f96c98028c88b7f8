"""Scores of one protein and how conformers of any origin get them; no model is needed here.

RMSDs in Å, each after superposition over the residues that are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.align import aligned_rmsd
from protein_cvae.data.cases import EvaluationCase
from protein_cvae.evaluation.metrics import EnsembleScores, active_dimensions, compare
from protein_cvae.evaluation.panel import PanelScores, panel
from protein_cvae.evaluation.physicality import Counts, physicality
from protein_cvae.evaluation.rates import RatePoint
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.validity import validity


@dataclass(frozen=True)
class Reconstruction:
    """RMSD in Å of each judged model: CA or N, CA, C; core (NaN if too small) or all residues."""

    ca_core: tuple[float, ...]
    ca_all: tuple[float, ...]
    backbone_core: tuple[float, ...]
    backbone_all: tuple[float, ...]


@dataclass(frozen=True)
class ConformerScores:
    """Conformers of one protein made by one method.

    Attributes:
        count: number of conformers.
        core, all: against the judged models; None where the core is too small.
        panel: over all residues, posed on the central given model; see
            :mod:`protein_cvae.evaluation.panel`.
        validity: see :meth:`protein_cvae.geometry.validity.Validity.summary`.
        physicality: see :mod:`protein_cvae.evaluation.physicality`.
        seconds: per conformer, drawing, decoding and finishing; NaN where nothing was timed.
    """

    count: int
    core: EnsembleScores | None
    all: EnsembleScores
    panel: PanelScores
    validity: dict[str, float]
    physicality: Counts
    seconds: float


@dataclass(frozen=True)
class SequenceScores:
    """Shares of residues named right; see the module's text."""

    with_sequence: float
    without_sequence: float
    commonest: float


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over n vectors (D,) in float64, from which variances of unions follow."""

    count: int
    total: Tensor
    square: Tensor

    @staticmethod
    def of(rows: Tensor) -> Moments:
        """Of the rows of (n, D)."""
        rows = rows.double().cpu()
        return Moments(len(rows), rows.sum(0), rows.square().sum(0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.total + other.total, self.square + other.square
        )

    def active(self) -> int:
        """Dimensions of variance above 0.01 (Burda et al. 2016)."""
        return int(active_dimensions(self.count, self.total, self.square).sum())


@dataclass(frozen=True, eq=False)
class LatentScores:
    """Use of the latents; KL in nats per residue.

    Attributes:
        kl: by latent, over the judged models.
        active_global, active_local: dimensions that differ between models of this protein.
        d_global, d_local: dimensions there are.
        global_moments, local_moments: of the posterior means, to pool over proteins.
        map: (M, ...) a point per model: z_global, then z_local averaged over residues.
    """

    kl: dict[str, float]
    active_global: int
    active_local: int
    d_global: int
    d_local: int
    global_moments: Moments
    local_moments: Moments
    map: Tensor


@dataclass(frozen=True, eq=False)
class CaseResult:
    """All scores of one protein; ``conformers`` by method, ``head`` that of the case."""

    name: str
    group: str
    head: dict[str, Any]
    reconstruction: Reconstruction
    reconstruction_free: Reconstruction
    conformers: dict[str, ConformerScores]
    sequence: SequenceScores
    latents: LatentScores
    rates: tuple[RatePoint, ...]


def score_conformers(
    conformers: Tensor, case: EvaluationCase, threshold: float = 1.0, seconds: float = math.nan
) -> ConformerScores:
    """Conformers (K, L, 3, 3) Å of any origin against the real models of a case; K >= 2."""
    ensemble = case.prepared.ensemble
    real = case.coordinates[:, :, CA]
    judged, ca = real[list(case.judged)], conformers[:, :, CA]
    core = None
    if case.core is not None:
        core = compare(ca, judged, case.core, reference=real, threshold=threshold)
    found = validity(
        conformers,
        torch.ones(conformers.shape[:2], dtype=torch.bool),
        ensemble.bonded,
        ensemble.aatype,
        chain=ensemble.chain_index,
        number=ensemble.residue_numbers,
    )
    return ConformerScores(
        count=len(conformers),
        core=core,
        all=compare(ca, judged, reference=real, threshold=threshold),
        panel=panel(ca, judged, real[case.prepared.central], real),
        validity=found.summary(),
        physicality=physicality(conformers, found),
        seconds=seconds,
    )


def reconstruction(found: Tensor, case: EvaluationCase) -> Reconstruction:
    """RMSDs of (J, L, 3, 3) to the judged models, in their order."""
    wanted = case.coordinates[list(case.judged)]
    core = case.core

    def backbone(residues: Tensor | slice) -> tuple[float, ...]:
        pair = (x[:, residues].flatten(1, 2) for x in (found, wanted))
        return tuple(aligned_rmsd(*pair).tolist())

    def ca(residues: Tensor | slice) -> tuple[float, ...]:
        pair = (x[:, residues, CA] for x in (found, wanted))
        return tuple(aligned_rmsd(*pair).tolist())

    everything, none = slice(None), (math.nan,) * len(wanted)
    return Reconstruction(
        ca_core=none if core is None else ca(core),
        ca_all=ca(everything),
        backbone_core=none if core is None else backbone(core),
        backbone_all=backbone(everything),
    )


def pooled_active_units(moments: Sequence[Moments]) -> int:
    """Active units of a latent over all models of all proteins."""
    return sum(moments[1:], moments[0]).active()
