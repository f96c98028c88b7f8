"""A peptide of all amino acids with side chains, built by Biopython from internal coordinates."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from Bio.PDB import MMCIFIO, PDBIO
from Bio.PDB.Model import Model
from Bio.PDB.PICIO import read_PIC_seq
from Bio.PDB.Structure import Structure
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

SEQUENCE = "GACDEFGHIKLMNPQRSTVWYA"


def peptide(models: int = 3, sequence: str = SEQUENCE, seed: int = 0) -> Structure:
    """Models of one chain with χ₁ of their own: −60°, 60° or 180°, as models and residues go."""
    rng = np.random.default_rng(seed)
    found = Structure("peptide")
    for m in range(models):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Biopython's own arithmetic
            one = read_PIC_seq(SeqRecord(Seq(sequence), id="0PEP"))
            one.internal_to_atom_coordinates()
            one.atom_to_internal_coordinates()
            for i, residue in enumerate(one.get_residues()):
                inner = residue.internal_coord
                if inner.get_angle("chi1") is not None and residue.resname != "PRO":
                    inner.set_angle("chi1", (-60.0, 60.0, 180.0)[(m + i) % 3])
                for name in ("phi", "psi"):
                    angle = inner.get_angle(name)
                    if angle is not None:
                        inner.set_angle(name, angle + rng.normal(0, 3.0))
            one.internal_to_atom_coordinates()
        model = Model(m, m + 1)
        for chain in one[0]:
            model.add(chain.copy())
        found.add(model)
    return found


def save(structure: Structure, path: Path) -> Path:
    """As PDB or mmCIF, by the suffix."""
    writer = PDBIO() if path.suffix == ".pdb" else MMCIFIO()
    writer.set_structure(structure)
    writer.save(str(path))
    return path


def positions(structure: Structure, names: dict[str, tuple[str, ...]]) -> np.ndarray:
    """(M, L, S, 3) Å of the atoms of each residue, by its three letters; NaN where it has none."""
    size = max(map(len, names.values()))
    found = [
        [
            [r[a].coord if a in r else [np.nan] * 3 for a in names[r.resname]]
            + [[np.nan] * 3] * (size - len(names[r.resname]))
            for r in model.get_residues()
        ]
        for model in structure
    ]
    return np.array(found, dtype=np.float64)
