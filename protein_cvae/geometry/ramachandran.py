"""Backbone torsion energies and the favoured and outlier regions of the Ramachandran plot.

The energy of residue class c is E_c(φ, ψ) = −log p_c(φ, ψ), p_c the density per rad² of residues
in high-quality crystal structures (Top8000; Williams et al. 2018, Protein Sci. 27, 293; after
Lovell et al. 2003, Proteins 50, 437).  It is a truncated Fourier series, hence periodic and smooth
everywhere:

    E_c(φ, ψ) = Σ_jk C_c[j, k] b_j(φ) b_k(ψ),   b = (1, cos x, …, cos Kx, sin x, …, sin Kx),

in nats.  Beyond the outlier contour, where the reference is a few scattered residues, E rises with
the angular distance from the contour instead, by up to 12 nats: it has no minimum out there, and
its gradient leads back.  A residue is *favoured* inside the contour that leaves out 2 % of the
reference residues and an *outlier* outside the one that leaves out 0.05 % (general), 0.2 %
(cis-Pro) or 0.1 % (other classes), the limits of MolProbity; the stored energies of the two are
those that separate the cells of the reference grid best.

The coefficients are ours, fitted by ``benchmarks/protein/fit_ramachandran.py`` to the contour grids
of the repository rlabduke/reference_data (CC BY 4.0), and stand in
``ramachandran_parameters.json``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.residues import ALPHABET

GENERAL, GLYCINE, CIS_PROLINE, TRANS_PROLINE, PRE_PROLINE, ILE_VAL = range(6)
CLASS_NAMES = ("general", "glycine", "cis-proline", "trans-proline", "pre-proline", "ile-val")

_GLY, _ILE, _PRO, _VAL = (ALPHABET.index(letter) for letter in "GIPV")


@dataclass(frozen=True, eq=False)
class _Parameters:
    """Coefficients (2K+1, 6·(2K+1)), classes side by side; limits (6,) in nats."""

    coefficients: Tensor
    favoured: Tensor
    outlier: Tensor


def ramachandran_class(aatype: Tensor, omega: Tensor, bonded: Tensor | None = None) -> Tensor:
    """Which of the six densities a residue belongs to; glycine and proline go before pre-proline.

    Args:
        aatype: (..., L) int64, index in ``protein_cvae.residues.ALPHABET``; unknown is general.
        omega: (..., L) radians, entry i the torsion of the peptide bond from residue i to i + 1
            (as from ``backbone_dihedrals``); a proline is cis where the |ω| before it is below
            π/2, the nearer of the two planar states.
        bonded: (..., L) bool, residue i is bonded to i + 1; all but the last if omitted.  Across a
            break nothing is pre-proline and no proline is cis.

    Returns:
        (..., L) int64, one of GENERAL … ILE_VAL, on the device of ``aatype``.

    Raises:
        ValueError: if the shapes cannot be broadcast together, or ``aatype`` is floating point.
    """
    if aatype.is_floating_point():
        raise UserError(f"aatype must hold integers 0..20, got {aatype.dtype}")
    if bonded is None:
        bonded = torch.ones_like(aatype, dtype=torch.bool)
    try:
        aatype, omega, bonded = torch.broadcast_tensors(aatype, omega, bonded)
    except RuntimeError as error:
        raise UserError(
            "aatype, omega and bonded must broadcast to one shape (..., L), got "
            f"{tuple(aatype.shape)}, {tuple(omega.shape)} and {tuple(bonded.shape)}"
        ) from error
    joined = bonded[..., :-1]
    pre_proline = torch.zeros_like(bonded)
    pre_proline[..., :-1] = (aatype[..., 1:] == _PRO) & joined
    cis = torch.zeros_like(bonded)
    cis[..., 1:] = (torch.cos(omega[..., :-1]) > 0) & joined

    result = torch.full_like(aatype, GENERAL, dtype=torch.int64)
    result = result.masked_fill((aatype == _ILE) | (aatype == _VAL), ILE_VAL)
    result = result.masked_fill(pre_proline, PRE_PROLINE)
    result = result.masked_fill(aatype == _PRO, TRANS_PROLINE)
    result = result.masked_fill((aatype == _PRO) & cis, CIS_PROLINE)
    return result.masked_fill(aatype == _GLY, GLYCINE)


def ramachandran_energy(phi: Tensor, psi: Tensor, residue_class: Tensor) -> Tensor:
    """(...) −log density per rad² of a residue's torsions, in nats; smooth, period 2π.

    Args:
        phi: (...) radians, finite floating point; fill undefined ends with any finite number and
            mask the result.
        psi: (...) radians.
        residue_class: (...) int64 from :func:`ramachandran_class`.

    Returns:
        (...) of the type of ``phi``; gradients of any order are finite everywhere.

    Raises:
        ValueError: if the shapes cannot be broadcast together or a class is not one of the six.
    """
    try:
        phi, psi, residue_class = torch.broadcast_tensors(phi, psi, residue_class)
    except RuntimeError as error:
        raise UserError(
            "phi, psi and residue_class must broadcast to one shape, got "
            f"{tuple(phi.shape)}, {tuple(psi.shape)} and {tuple(residue_class.shape)}"
        ) from error
    if residue_class.numel() and not bool(((residue_class >= 0) & (residue_class < 6)).all()):
        raise UserError(
            "residue_class must hold 0..5 (see ramachandran_class), got "
            f"{int(residue_class.min())}..{int(residue_class.max())}"
        )
    coefficients = _parameters(phi.dtype, phi.device).coefficients  # (2K+1, 6 (2K+1))
    width = len(coefficients)
    rows = _basis(phi, width // 2) @ coefficients  # (..., 6 (2K+1))
    chosen = residue_class[..., None, None].expand(*residue_class.shape, 1, width)
    row = rows.unflatten(-1, (6, width)).gather(-2, chosen)[..., 0, :]  # (..., 2K+1)
    return (row * _basis(psi, width // 2)).sum(-1)


def ramachandran_outlier(phi: Tensor, psi: Tensor, residue_class: Tensor) -> Tensor:
    """(...) bool, outside the outlier contour of its class; arguments as for the energy."""
    energy = ramachandran_energy(phi.detach(), psi.detach(), residue_class)
    return energy > _parameters(energy.dtype, energy.device).outlier[residue_class]


def ramachandran_favoured(phi: Tensor, psi: Tensor, residue_class: Tensor) -> Tensor:
    """(...) bool, inside the 98 % contour of its class; arguments as for the energy."""
    energy = ramachandran_energy(phi.detach(), psi.detach(), residue_class)
    return energy <= _parameters(energy.dtype, energy.device).favoured[residue_class]


def outlier_energy(dtype: torch.dtype = torch.float32) -> Tensor:
    """(6,) energies in nats above which a residue of that class is an outlier; a fresh tensor."""
    return _parameters(dtype, torch.device("cpu")).outlier.clone()


def _basis(angle: Tensor, order: int) -> Tensor:
    """(...) -> (..., 2 order + 1): 1, cos kx, sin kx."""
    steps = torch.arange(1, order + 1, dtype=angle.dtype, device=angle.device)
    multiples = angle[..., None] * steps
    one = torch.ones_like(angle)[..., None]
    return torch.cat((one, torch.cos(multiples), torch.sin(multiples)), -1)


@lru_cache(maxsize=16)
def _parameters(dtype: torch.dtype, device: torch.device) -> _Parameters:
    if not dtype.is_floating_point:
        raise UserError(f"phi and psi must be floating point, got {dtype}")
    path = files("protein_cvae.geometry").joinpath("ramachandran_parameters.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    classes = [stored["classes"][name] for name in CLASS_NAMES]
    # Kept between calls, so it must not be an inference tensor even if the first caller is one.
    with torch.inference_mode(False):
        grids = torch.tensor([entry["coefficients"] for entry in classes], dtype=torch.float64)
        width = math.isqrt(grids.shape[-1])
        grids = stored["unit_nats"] * grids.reshape(6, width, width)
        limits = [
            torch.tensor([entry[key] for entry in classes], dtype=dtype, device=device)
            for key in ("favoured_energy", "outlier_energy")
        ]
        side_by_side = grids.permute(1, 0, 2).reshape(width, 6 * width)
        return _Parameters(side_by_side.to(device, dtype), *limits)
