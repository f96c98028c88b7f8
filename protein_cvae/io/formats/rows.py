"""What every structure format writes: atoms, residues and model numbers of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.geometry.side_chains import placed
from protein_cvae.residues import SIDE_CHAINS, three_letter


@dataclass(frozen=True, eq=False)
class FurtherAtoms:
    """Atoms behind N, CA and C of each residue, in the order in which they are written.

    Attributes:
        names: of L residues, A each; "" where a residue has none in a place.
        xyz: (M, L, A, 3) Å.
        mask: (M, L, A) bool, the atom is there.
    """

    names: tuple[tuple[str, ...], ...]
    xyz: Tensor
    mask: Tensor


def further_atoms(
    ensemble: Ensemble, oxygen: Tensor | None, terminal: Tensor | None
) -> FurtherAtoms:
    """O, the side chain of the ensemble, and OXT at the ends of chains; arguments as there."""
    e = ensemble
    nothing = e.mask[..., None] & False
    o = torch.zeros_like(e.coordinates[:, :, 0]) if oxygen is None else oxygen
    oxt = torch.zeros_like(o) if terminal is None else terminal
    parts, masks = [o[:, :, None]], [nothing if oxygen is None else e.mask[..., None]]
    if e.side_chains is not None:
        parts.append(placed(e.side_chains.local.to(e.coordinates), e.coordinates, e.mask))
        masks.append(e.side_chains.mask & e.mask[..., None])
    ends = torch.ones(e.length, dtype=torch.bool)
    ends[:-1] = e.chain_index[1:] != e.chain_index[:-1]
    parts.append(oxt[:, :, None])
    masks.append(nothing if terminal is None else (e.mask & ends)[..., None])
    xyz = torch.cat([part.detach().to("cpu", torch.float64) for part in parts], dim=2)
    slots = xyz.shape[2] - 2
    side = (SIDE_CHAINS[letter][:slots] for letter in e.sequence)
    names = tuple(("O", *atoms, *[""] * (slots - len(atoms)), "OXT") for atoms in side)
    return FurtherAtoms(names, xyz, torch.cat([mask.cpu() for mask in masks], dim=2))


def where(ensemble: Ensemble, model: int, residue: int) -> str:
    """Model and residue as messages name them."""
    return f"model {ensemble.model_numbers[model]}, residue {ensemble.label(residue)}"


def numbers(ensemble: Ensemble) -> tuple[int, ...]:
    """Numbers of the models; 1, 2, ... if a number repeats."""
    numbers = ensemble.model_numbers
    return numbers if len(set(numbers)) == len(numbers) else tuple(range(1, len(numbers) + 1))


def atoms(
    ensemble: Ensemble, b_factor: Tensor, further: FurtherAtoms, model: int
) -> Iterator[tuple[int, str, list[float], float]]:
    """Residue index, atom name, xyz in Å and B-factor of each atom of one model, in order."""
    xyz = ensemble.coordinates[model].detach().cpu().tolist()
    more, there = further.xyz[model].tolist(), further.mask[model].tolist()
    values = b_factor[model].tolist()
    for i in ensemble.mask[model].nonzero()[:, 0].tolist():
        for a, name in enumerate(BACKBONE):
            yield i, name, xyz[i][a], values[i]
        for name, place, present in zip(further.names[i], more[i], there[i], strict=True):
            if present:
                yield i, name, place, values[i]


def residue_fields(ensemble: Ensemble) -> list[tuple[str, str, int, str]]:
    """Residue name, chain ID, number and insertion code of each residue."""
    return [
        (three_letter(letter), ensemble.chain_ids[chain], number, code)
        for letter, chain, number, code in zip(
            ensemble.sequence,
            ensemble.chain_index.tolist(),
            ensemble.residue_numbers.tolist(),
            ensemble.insertion_codes,
            strict=True,
        )
    ]
