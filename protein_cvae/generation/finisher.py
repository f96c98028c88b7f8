"""The geometry finisher as sampling uses it: valid bonds, angles, ω, torsions, no clashes.

A decoder does not say which peptide bonds are cis; the template does: those with |ω| < 90°.
Without a template all are trans.
"""

from __future__ import annotations

import torch
from torch import Tensor

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.dihedrals import backbone_dihedrals
from protein_cvae.geometry.projection import nearer_cis
from protein_cvae.geometry.refine import FinishOptions, finish
from protein_cvae.model.sampling import Finisher


def template_cis(batch: ProteinBatch) -> Tensor:
    """(B, L) bool: the peptide bond after residue i is cis in the template of the item."""
    angles, defined = backbone_dihedrals(batch.template, batch.bonded, batch.template_mask)
    return nearer_cis(angles.omega) & defined.omega


def geometry_finisher(cis: Tensor | None = None, options: FinishOptions | None = None) -> Finisher:
    """A finisher for :mod:`protein_cvae.model.sampling`.

    Args:
        cis: (B, L) bool, the peptide bonds after these residues are cis; None takes them from the
            template of each batch.
        options: of :func:`~protein_cvae.geometry.refine.finish`; None for the defaults.
    """

    def apply(coordinates: Tensor, batch: ProteinBatch, mask: Tensor) -> Tensor:
        # The energies need gradients, which inference mode forbids even where they are asked for;
        # copies made outside of it may have them.
        with torch.inference_mode(False):
            wanted = template_cis(batch) if cis is None else cis
            return finish(
                coordinates.clone(),
                batch.bonded.clone(),
                mask.clone(),
                batch.aatype.clone(),
                wanted.clone(),
                options,
            )

    return apply
