"""What every structure format writes: atoms, residues and model numbers of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.residues import three_letter


def where(ensemble: Ensemble, model: int, residue: int) -> str:
    """Model and residue as messages name them."""
    return f"model {ensemble.model_numbers[model]}, residue {ensemble.label(residue)}"


def numbers(ensemble: Ensemble) -> tuple[int, ...]:
    """Numbers of the models; 1, 2, ... if a number repeats."""
    numbers = ensemble.model_numbers
    return numbers if len(set(numbers)) == len(numbers) else tuple(range(1, len(numbers) + 1))


def atoms(
    ensemble: Ensemble, b_factor: Tensor, oxygen: Tensor | None, model: int
) -> Iterator[tuple[int, str, list[float], float]]:
    """Residue index, atom name, xyz in Å and B-factor of each atom of one model, in order."""
    xyz = ensemble.coordinates[model].detach().cpu().tolist()
    last = None if oxygen is None else oxygen[model].detach().cpu().tolist()
    values = b_factor[model].tolist()
    for i in ensemble.mask[model].nonzero()[:, 0].tolist():
        for a, name in enumerate(BACKBONE):
            yield i, name, xyz[i][a], values[i]
        if last is not None:
            yield i, "O", last[i], values[i]


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
