"""Figures of ensembles; each returns a matplotlib ``Figure`` that a notebook shows.

new = model.generate("2sdf.pdb", 100)
protein_cvae.pl.traces({"NMR": protein_cvae.read("2sdf.pdb"), "generated": new})
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.errors import UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.plots.traces import Residues, rmsf_figure, traces_figure
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.superposition import core_mask

__all__ = ["flexibility", "traces"]

Shown = Ensemble | Mapping[str, Ensemble]
"""One ensemble, or several of one protein by title, the real one first."""


def traces(ensembles: Shown, views: int = 1, flexibility: bool = False) -> Figure:
    """CA traces, superposed on the ordered core of the first ensemble and coloured from N to C.

    At most 20 models of each are drawn, evenly spaced; all panels have one scale and one view,
    along the shortest principal axis of the first ensemble's mean.

    Args:
        ensembles: one, or several of one protein by title, the real one first.
        views: 2 adds a second row, seen from above.
        flexibility: adds the RMSF of each residue at the right.

    Raises:
        ValueError: if the sequences differ, or fewer than three residues are complete.

    Example:
        >>> import protein_cvae
        >>> real = protein_cvae.read(folder / "simulated_0_0.pdb")
        >>> figure = protein_cvae.pl.traces({"real": real, "generated": model.generate(real, 3)})
        >>> [axis.get_title() for axis in figure.axes[:2]]
        ['real\\n6 models', 'generated\\n3 models']
    """
    if views not in (1, 2):
        raise UserError(f"views must be 1 or 2, got {views}")
    name, coordinates, residues = _prepared(ensembles)
    return traces_figure(name, coordinates, residues, views, flexibility)


def flexibility(ensembles: Shown) -> Figure:
    """RMSF of each residue in Å, models superposed on the ordered core of the first ensemble.

    Args:
        ensembles: one, or several of one protein by title, the real one first.

    Raises:
        ValueError: as :func:`traces`.

    Example:
        >>> import protein_cvae
        >>> figure = protein_cvae.pl.flexibility(protein_cvae.read(folder / "simulated_0_0.pdb"))
        >>> figure.axes[0].get_ylabel()
        'RMSF of CA, Å'
    """
    return rmsf_figure(*_prepared(ensembles))


def _prepared(ensembles: Shown) -> tuple[str, dict[str, Tensor], Residues]:
    """Name, CA (M, L, 3) by title and residues: those complete in every model of all ensembles."""
    given = {ensembles.name: ensembles} if isinstance(ensembles, Ensemble) else dict(ensembles)
    if not given:
        raise UserError("ensembles is empty: give at least one")
    first = next(iter(given.values()))
    for title, other in given.items():
        if other.sequence != first.sequence:
            raise UserError(
                f"{title!r} has another sequence than {first.name!r}: only ensembles of one "
                "protein can be superposed residue by residue"
            )
    keep = torch.stack([other.mask.all(0) for other in given.values()]).all(0)
    if int(keep.sum()) < 3:
        raise UserError(f"{first.name}: {int(keep.sum())} residues are complete in every model")
    kept = {title: other.select_residues(keep) for title, other in given.items()}
    base = next(iter(kept.values()))
    core = core_mask(base.coordinates, base.bonded, base.mask)
    residues = Residues.of(base.residue_numbers, base.bonded, core)
    return first.name, {t: e.coordinates[:, :, CA] for t, e in kept.items()}, residues
