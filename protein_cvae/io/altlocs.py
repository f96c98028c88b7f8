"""Alternate locations: which of several positions of a residue's atoms is taken.

One location is taken for all atoms of a residue, by the highest occupancy summed over N, CA and C
and over all models, and by letter where sums are equal.  So a residue is never put together from
two conformations, and it is the same location in all models that have it.
"""

from __future__ import annotations

from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.records import ModelRecords, ResidueKey, ResidueRecord


def ranked_locations(models: list[ModelRecords], key: ResidueKey) -> dict[str, float]:
    """Alternate locations of a residue, highest occupancy over all models first, then by letter."""
    sums: dict[str, float] = {}
    for model in models:
        if key not in model.residues:
            continue
        for location, variant in model.residues[key].variants.items():
            if location and variant.atoms:
                here = sum(atom.occupancy for atom in variant.atoms.values())
                sums[location] = sums.get(location, 0.0) + here
    return dict(sorted(sums.items(), key=lambda item: (-round(item[1], 4), item[0])))


def chosen_atoms(
    record: ResidueRecord, ranking: dict[str, float]
) -> tuple[str, dict[str, tuple[float, float, float]], str]:
    """Name, backbone atoms and alternate location of a residue: one location for all atoms.

    Atoms without a location belong to each.  The first of the ranking that completes the backbone
    is taken; if none does, the first.
    """
    common = record.variants.get("")
    best: tuple[str, dict[str, tuple[float, float, float]], str] | None = None
    for location in ranking:
        variant = record.variants.get(location)
        if variant is None:
            continue
        shared = common if common is not None and common.name == variant.name else None
        atoms = {name: atom.xyz for name, atom in (shared.atoms if shared else {}).items()}
        atoms.update({name: atom.xyz for name, atom in variant.atoms.items()})
        if best is None or len(atoms) == len(BACKBONE) > len(best[1]):
            best = variant.name, atoms, location
    if best is not None:
        return best
    plain = common or next(iter(record.variants.values()))
    return plain.name, {name: atom.xyz for name, atom in plain.atoms.items()}, ""
