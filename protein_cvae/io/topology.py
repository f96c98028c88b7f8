"""Topologies of trajectories: their residues with indices of N, CA and C."""

from __future__ import annotations

import warnings
from pathlib import Path

import mdtraj
import numpy as np

from common.errors import MissingFile, UserError
from protein_cvae.ensemble import BACKBONE
from protein_cvae.io.records import AtomRecord, ResidueKey, ResidueRecord, Variant, residue_label
from protein_cvae.residues import one_letter

TOPOLOGY_SUFFIXES = (".pdb", ".cif", ".gro", ".psf", ".prmtop")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def find_topology(folder: Path) -> Path | None:
    """The file named topology in a folder, or None."""
    found = [folder / f"topology{suffix}" for suffix in TOPOLOGY_SUFFIXES]
    return next((path for path in found if path.is_file()), None)


def load_topology(path: Path) -> mdtraj.Topology:
    """The topology of a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its suffix is unknown, or it cannot be read or has no atoms.
    """
    if not path.is_file():
        raise MissingFile(f"{path}: no such topology")
    if path.suffix.lower() not in TOPOLOGY_SUFFIXES:
        raise UserError(
            f"{path}: suffix {path.suffix!r} is no topology; expected one of "
            f"{', '.join(TOPOLOGY_SUFFIXES)}"
        )
    if path.suffix.lower() == ".pdb" and not _has_atoms(path):
        raise UserError(f"{path}: no ATOM or HETATM record; it is no PDB file or has no atoms")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = mdtraj.load_topology(str(path))
    except Exception as error:  # the parsers of six formats raise whatever comes up
        raise UserError(f"{path}: cannot be read as a topology ({error_words(error)})") from None
    if table.n_atoms == 0:
        raise UserError(f"{path}: the topology has no atoms")
    return table


def _has_atoms(path: Path) -> bool:
    """MDTraj leaves a PDB file without atoms open when it refuses it, so it is not asked."""
    with path.open(encoding="latin-1") as lines:
        return any(line.startswith(("ATOM  ", "HETATM")) for line in lines)


def error_words(error: Exception) -> str:
    """Kind and message of an error, on one line of at most about 200 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def residue_atoms(
    table: mdtraj.Topology, path: Path
) -> tuple[list[tuple[ResidueKey, str]], np.ndarray, list[tuple[str, str, str]]]:
    """Residues that may be of a protein: identity and name, (R, 3) atom indices (-1: none), notes.

    A topology can hold several chains of one name, as an MD program numbers them; only those with
    amino acids need a name of their own.
    """
    keys: dict[ResidueKey, str] = {}
    atoms: list[list[int]] = []
    notes: list[tuple[str, str, str]] = []
    used: set[str] = set()
    for chain in table.chains:
        found = []
        for residue in chain.residues:
            index = {atom.name: atom.index for atom in residue.atoms if atom.name in BACKBONE}
            known = one_letter(residue.name) is not None
            if len(index) == len(BACKBONE) or (index and known):
                found.append((residue, [index.get(atom, -1) for atom in BACKBONE]))
            else:
                notes.append(("dropped", residue.name, "no amino acid of a chain"))
        if not found:
            continue
        given = str(getattr(chain, "chain_id", None) or "").strip()
        if not given or given in used:
            given = next((c for c in _LETTERS if c not in used), f"chain{chain.index}")
        used.add(given)
        for residue, indices in found:
            number = int(residue.resSeq)
            codes = ("", *_LETTERS)
            free = (ResidueKey(given, number, code) for code in codes)
            key = next((key for key in free if key not in keys), None)
            if key is None:
                raise UserError(
                    f"{path}: chain {given}, residue {residue}: more than {len(_LETTERS)} residues "
                    "have this number; number them anew"
                )
            if key.insertion:
                detail = "its number stands twice in the chain; code given here"
                notes.append(("insertion codes", residue_label(key, residue.name), detail))
            keys[key] = residue.name
            atoms.append(indices)
    return list(keys.items()), np.array(atoms, dtype=np.int64).reshape(-1, 3), notes


def residue_record(name: str, xyz: np.ndarray) -> ResidueRecord:
    """The record of a residue with N, CA and C at (3, 3) Å; NaN where there is no such atom."""
    positions = {
        atom: AtomRecord((float(x), float(y), float(z)), 1.0)
        for atom, (x, y, z) in zip(BACKBONE, xyz, strict=True)
        if np.isfinite(x)
    }
    # MDTraj does not say which records were HETATM: a name that is no amino acid's counts as one.
    return ResidueRecord(one_letter(name) is None, {"": Variant(name, positions)})
