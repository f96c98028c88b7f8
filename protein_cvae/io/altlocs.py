"""Alternate locations: which of several positions of a residue's atoms is taken.

One location is taken for all atoms of a residue, by the highest occupancy summed over N, CA and C
and over all models, and by letter where sums are equal.  So a residue is never put together from
two conformations, and it is the same location in all models that have it.  Atoms without a location
belong to each; where one of them also has a location, those without compete, with the occupancy of
the atoms that have both.
"""

from __future__ import annotations

from collections.abc import Sequence

from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.records import ModelRecords, ResidueKey, ResidueRecord


def ranked_locations(models: Sequence[ModelRecords], key: ResidueKey) -> dict[str, float]:
    """Locations of a residue, highest occupancy over all models first, then by letter.

    "" stands among them only where it competes; empty where there is nothing to choose.
    """
    sums: dict[str, float] = {}
    for model in models:
        record = model.residues.get(key)
        if record is None or (len(record.variants) == 1 and "" in record.variants):
            continue
        others = {atom for at, v in record.variants.items() if at for atom in v.atoms}
        for location, variant in record.variants.items():
            taken = [a for name, a in variant.atoms.items() if location or name in others]
            if taken:
                here = sum(atom.occupancy for atom in taken)
                sums[location] = sums.get(location, 0.0) + here
    return dict(sorted(sums.items(), key=lambda item: (-round(item[1], 4), item[0])))


def chosen_atoms(
    record: ResidueRecord, ranking: dict[str, float]
) -> tuple[str, dict[str, int], str]:
    """Name, rows of the backbone atoms and location of a residue: one location for all atoms.

    The first of the ranking that completes the backbone is taken; if none does, the first.
    """
    common = record.variants.get("")
    best: tuple[str, dict[str, int], str] | None = None
    for location in ranking:
        variant = record.variants.get(location)
        if variant is None:
            continue
        shared = common if common is not None and common.name == variant.name else None
        atoms = {name: atom.row for name, atom in (shared.atoms if shared else {}).items()}
        atoms.update({name: atom.row for name, atom in variant.atoms.items()})
        if best is None or len(atoms) == len(BACKBONE) > len(best[1]):
            best = variant.name, atoms, location
    if best is not None:
        return best
    plain = common or next(iter(record.variants.values()))
    return plain.name, {name: atom.row for name, atom in plain.atoms.items()}, ""
