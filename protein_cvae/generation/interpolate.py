"""A path of conformers from one model to another of the same residues.

With z_a, z_b the posterior means of both ends against one template, a step at t in [0, 1] decodes
(1 − t) z_a + t z_b.  With ``templates = both`` this is done against either end as template, the
second result superposed on the first by CA, and the step is (1 − t) x_first + t x_second: each end
is then decoded from itself, and the path read backwards is the path between exchanged ends.  Cis
peptide bonds are those of the nearer end.  Every step is finished, so that its geometry is valid;
the path is neither a minimum-energy path nor a trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from common.align import align, aligned_rmsd
from common.errors import UserError
from protein_cvae.data.embeddings import SequenceEmbedder
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.finisher import geometry_finisher, template_cis
from protein_cvae.generation.inputs import (
    check_complete,
    check_embedder,
    check_length,
    prepare,
    same_residues,
)
from protein_cvae.generation.outputs import (
    bundle,
)
from protein_cvae.generation.side_chains import (
    Atoms,
    check_atoms,
    check_word,
    with_side_chains,
)
from protein_cvae.geometry.constants import CA
from protein_cvae.model import sampling
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.sampling import evaluating, posterior_means

Templates = Literal["both", "first"]
_CHUNK = 16


@dataclass(frozen=True)
class InterpolateOptions:
    """How to interpolate.

    Attributes:
        steps: conformers, both ends included.
        templates: ``both`` ends, or the ``first`` alone, which is twice as fast.
        finish: make the geometry valid; False gives the decoder's own output.
        atoms: ``heavy``: with side chains, those of the nearer end or packed; ``backbone``: N, CA,
            C and O; ``auto``: heavy where that can be had.

    Raises:
        ValueError: on fewer than two steps or another word.
    """

    steps: int = 20
    templates: Templates = "both"
    finish: bool = True
    atoms: Atoms = "auto"

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise UserError(f"steps must be at least 2, both ends, got {self.steps}")
        if self.templates not in ("both", "first"):
            raise UserError(f"templates must be 'both' or 'first', got {self.templates!r}")
        check_word(self.atoms)


def check_ends(first: Ensemble, second: Ensemble) -> Ensemble:
    """Both ends as an ensemble of two models.

    Args:
        first, second: one model each.

    Raises:
        ValueError: if they do not have the same residues, all of them complete; names file, model
            and residue.
    """
    joined = same_residues(first, second)
    check_length(joined)
    check_complete(first, [0])
    check_complete(second, [0])
    return joined


def interpolate(
    network: ProteinCVAE,
    first: Ensemble,
    second: Ensemble,
    options: InterpolateOptions | None = None,
    embedder: SequenceEmbedder | None = None,
) -> Ensemble:
    """The path from one model to another.

    Args:
        network: trained.
        first, second: one model each, of the same sequence.
        options: None for the defaults.
        embedder: as in training.

    Returns:
        ``steps`` conformers with the residues of ``first``, numbered from 1, superposed on their
        mean by the residues whose torsions agree at both ends.

    Raises:
        ValueError: see :func:`check_ends` and
        :func:`~protein_cvae.generation.inputs.check_embedder`.
    """
    options = options or InterpolateOptions()
    joined = check_ends(first, second)
    check_atoms(joined, joined, options.atoms)
    check_embedder(network, embedder)
    return interpolate_prepared(network, prepare(joined, embedder), options, second.source)


def interpolate_prepared(
    network: ProteinCVAE,
    prepared: PreparedEnsemble,
    options: InterpolateOptions,
    second_source: str,
) -> Ensemble:
    """:func:`interpolate` after all checks; ``prepared`` holds both ends."""
    base, steps = prepared.ensemble, options.steps
    with evaluating(network):
        x = _decoded(network, prepared, 0, steps)
        t = torch.linspace(0, 1, steps).to(x)
        if options.templates == "both":
            other = _decoded(network, prepared, 1, steps)
            fit = align(other[:, :, CA], x[:, :, CA])
            other = fit.apply(other.flatten(1, 2)).view(x.shape)
            weight = t[:, None, None, None]
            x = (1 - weight) * x + weight * other
        if options.finish:
            x = _finished(prepared, x, t)
    source = f"path from {base.source} to {second_source}"
    onto = base.coordinates[0]
    made = bundle(base, x, prepared.core, onto, f"{base.name}_path", source)
    return with_side_chains(made, base, options.atoms)


def _decoded(network: ProteinCVAE, prepared: PreparedEnsemble, template: int, steps: int) -> Tensor:
    """(steps, L, 3, 3): the straight path between the latents of both ends."""
    first, second = (posterior_means(network, prepared, [end], template) for end in (0, 1))
    batch = prepared.item(template, template).to(network.device)
    path = sampling.interpolate(first, second, steps)
    return sampling.decode(network, batch, path, None, _CHUNK)


def _finished(prepared: PreparedEnsemble, x: Tensor, t: Tensor) -> Tensor:
    ends = [prepared.item(i, i).to(x.device) for i in (0, 1)]
    cis = torch.where(t[:, None] < 0.5, template_cis(ends[0]), template_cis(ends[1]))
    parts = []
    for part, bonds in zip(x.split(_CHUNK), cis.split(_CHUNK), strict=True):
        items = sampling.repeat_item(ends[0], len(part))
        parts.append(geometry_finisher(bonds)(part, items, items.mask))
    return torch.cat(parts)


def path_report(path: Ensemble, ends: Ensemble) -> dict[str, Any]:
    """CA-RMSDs in Å, all residues: of the path's ends to the models, of each step, and direct."""
    x, given = path.coordinates[:, :, CA].double(), ends.coordinates[:, :, CA].double()
    steps = aligned_rmsd(x[1:], x[:-1])
    return {
        "ends_to_models_ca_rmsd": aligned_rmsd(x[[0, -1]], given).tolist(),
        "step_ca_rmsd": steps.tolist(),
        "length_ca_rmsd": float(steps.sum()),
        "direct_ca_rmsd": float(aligned_rmsd(given[0], given[1])),
    }
