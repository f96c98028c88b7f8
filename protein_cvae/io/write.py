"""Ensembles to PDB and mmCIF files of many models, as Biopython and MDTraj read them back.

One MODEL for each model with N, CA, C and, where given, O of each residue, and the side chains that
the ensemble has.  PDB has columns of
fixed width and 0.001 Å; what does not fit is refused, never cut: mmCIF has no such limits and is
written with 0.00001 Å.  A residue that is masked in a model is left out of that model; MDTraj
reads only files whose models have the same atoms, so select complete residues first for it.  In
mmCIF it cannot tell residues apart that differ in the insertion code alone: write PDB for it.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.files.atomic import atomic_path
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.formats import rows
from protein_cvae.io.formats.table import structure_format


def write_ensemble(
    path: str | Path,
    ensemble: Ensemble,
    *,
    b_factor: Tensor | None = None,
    oxygen: Tensor | None = None,
    terminal: Tensor | None = None,
) -> Path:
    """Write all models; the file is complete or absent.

    Args:
        path: .pdb, .ent, .cif or .mmcif, with .gz to compress; the suffix decides the format.
        ensemble: what to write, with its chains, residue numbers, insertion codes and model
            numbers (1, 2, ... if a number repeats).
        b_factor: (L,), or (M, L) for one per model: the B-factor column of a residue's atoms,
            e.g. the spread in Å; 0 if None.
        oxygen: (M, L, 3) Å, carbonyl oxygens; none are written if None.
        terminal: (M, L, 3) Å, OXT, written of the last residue of each chain; none if None.

    Returns:
        ``path``.

    Raises:
        ValueError: if the shapes do not agree, something is not finite, a model has no complete
            residue, or a value does not fit the columns of PDB; names file, model and residue.
    """
    path = Path(path)
    kind = structure_format(path)
    b_factor = _checked_b_factor(b_factor, ensemble, path)
    _check_oxygen("oxygen", oxygen, ensemble, path)
    _check_oxygen("terminal", terminal, ensemble, path)
    further = rows.further_atoms(ensemble, oxygen, terminal)
    for m in (~ensemble.mask.any(1)).nonzero()[:, 0].tolist():
        raise UserError(
            f"{path}: model {ensemble.model_numbers[m]}: no residue from {ensemble.label(0)} on is "
            "complete, there is nothing to write; leave the model out"
        )
    if kind.check is not None:
        kind.check(ensemble, b_factor, further, path)
    data = ("\n".join(kind.lines(ensemble, b_factor, further)) + "\n").encode("ascii")
    if path.suffix.lower() == ".gz":
        data = gzip.compress(data, mtime=0)  # the same ensemble gives the same bytes
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def _checked_b_factor(b_factor: Tensor | None, ensemble: Ensemble, path: Path) -> Tensor:
    shape = ensemble.num_models, ensemble.length
    if b_factor is None:
        return torch.zeros(shape)
    if tuple(b_factor.shape) not in (shape, shape[1:]):
        raise UserError(
            f"{path}: b_factor must be {shape[1:]} or {shape}, got {tuple(b_factor.shape)}"
        )
    values = b_factor.detach().to("cpu", torch.float64).expand(shape)
    for m, i in (~torch.isfinite(values) & ensemble.mask).nonzero().tolist():
        raise UserError(f"{path}: b_factor is {values[m, i]} at {rows.where(ensemble, m, i)}")
    return values


def _check_oxygen(name: str, oxygen: Tensor | None, ensemble: Ensemble, path: Path) -> None:
    if oxygen is None:
        return
    shape = ensemble.num_models, ensemble.length, 3
    if tuple(oxygen.shape) != shape:
        raise UserError(f"{path}: {name} must be {shape}, got {tuple(oxygen.shape)}")
    for m, i in (~torch.isfinite(oxygen).all(-1) & ensemble.mask.to(oxygen.device)).nonzero():
        raise UserError(f"{path}: {name} is not finite at {rows.where(ensemble, int(m), int(i))}")
