"""Topologies of trajectories: their atoms, by gemmi (PDB, mmCIF), MDTraj (.gro, .psf, AMBER) or
h5py (MDTraj's HDF5, which holds its own); each also gzip-compressed."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import mdtraj
import numpy as np

from common.errors import MissingFile, UserError
from protein_cvae.io.atoms import AtomTable
from protein_cvae.io.formats import mmcif, pdb
from protein_cvae.io.formats.frames import HDF5_SUFFIXES, error_words
from protein_cvae.io.formats.pdb_lines import numbered
from protein_cvae.io.formats.table import structure_format
from protein_cvae.io.opening import decompressed, structure_bytes
from protein_cvae.residues import one_letter

_AMBER = (".prmtop", ".parm7")  # residues have no numbers, but count from 1
_OF_MDTRAJ = (".gro", ".psf", *_AMBER)
TOPOLOGY_SUFFIXES = (*pdb.SUFFIXES, *mmcif.SUFFIXES, *_OF_MDTRAJ)


def topology_suffix(path: Path) -> str:
    """The suffix of a file, .gz aside, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def load_topology(path: Path) -> AtomTable:
    """The atoms of a topology; ``serial`` is their place in a frame.  Of several models, the first.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its suffix is unknown, or it cannot be read or has no atoms.
    """
    if not path.is_file():
        raise MissingFile(f"{path}: no such topology")
    suffix = topology_suffix(path)
    if suffix not in (*TOPOLOGY_SUFFIXES, *HDF5_SUFFIXES):
        raise UserError(
            f"{path}: suffix {path.suffix!r} is no topology; expected one of "
            f"{', '.join(TOPOLOGY_SUFFIXES)}, each with or without .gz"
        )
    if suffix in HDF5_SUFFIXES:
        table = _of_hdf5(path)
    elif suffix in _OF_MDTRAJ:
        table = _of_mdtraj(path, suffix)
    else:
        data = structure_bytes(path)
        if suffix in pdb.SUFFIXES:
            data = numbered(data)
        table = next(structure_format(path).parse(data, path, False))
    if len(table) == 0:
        raise UserError(f"{path}: the topology has no atoms")
    return table


def _of_mdtraj(path: Path, suffix: str) -> AtomTable:
    with tempfile.TemporaryDirectory() as scratch:
        plain = path
        if path.suffix.lower() == ".gz":
            plain = Path(scratch) / f"topology{suffix}"
            plain.write_bytes(decompressed(path))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frame = mdtraj.load(str(plain)) if suffix == ".gro" else None
                top = mdtraj.load_topology(str(plain)) if frame is None else frame.topology
        except Exception as error:  # the parsers of four formats raise whatever comes up
            raise UserError(
                f"{path}: cannot be read as a topology ({error_words(error)})"
            ) from None
    rows = [
        (atom.name, atom.residue.name, getattr(atom.residue.chain, "chain_id", None) or "",
         atom.residue.chain.index, atom.residue.segment_id or "",
         atom.residue.index + 1 if suffix in _AMBER else atom.residue.resSeq)
        for atom in top.atoms
    ]  # fmt: skip
    bonds = None if suffix == ".gro" else [(a.index, b.index) for a, b in top.bonds]
    table = _table(rows, bonds)
    if frame is None:
        return table
    box = None if frame.unitcell_vectors is None else 10.0 * frame.unitcell_vectors[0]
    return replace(table, xyz=10.0 * frame.xyz[0].astype(np.float64), box=box)


def _of_hdf5(path: Path) -> AtomTable:
    try:
        with h5py.File(path, "r") as handle:
            content = json.loads(handle["topology"][0])
        rows = [
            (atom["name"], residue["name"], chain.get("chain_id") or "", chain["index"],
             residue.get("segmentID") or "", residue["resSeq"])
            for chain in content["chains"]
            for residue in chain["residues"]
            for atom in residue["atoms"]
        ]  # fmt: skip
        return _table(rows, None)
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(
            f"{path}: holds no topology as MDTraj writes it ({error_words(error)}); give one"
        ) from None


def _table(rows: Sequence[tuple[Any, ...]], bonds: list[tuple[int, int]] | None) -> AtomTable:
    """Atoms without coordinates, alternate locations and insertion codes."""
    count = len(rows)
    columns = list(zip(*rows, strict=True)) or [()] * 6
    name, residue, chain, segment = (
        np.array([str(word).encode("latin-1", "replace") for word in columns[i]], dtype="S")
        for i in (0, 1, 2, 4)
    )
    bonded = None
    if bonds:
        pairs = [(a, b) for pair in bonds for a, b in (pair, pair[::-1])]
        bonded = frozenset(a for a, b in pairs if name[a] == b"C" and name[b] == b"N")
    blank = np.zeros(count, dtype="S1")
    return AtomTable(
        number=1,
        name=name,
        residue=residue,
        chain=np.char.strip(chain),
        piece=np.array(columns[3], dtype=np.int64),
        segment=np.char.strip(segment),
        resnum=np.array(columns[5], dtype=np.int64),
        icode=blank,
        altloc=blank,
        occupancy=np.ones(count, dtype=np.float32),
        # None of these formats knows HETATM: a name that is no amino acid's counts as one.
        hetero=np.array([one_letter(str(word)) is None for word in columns[1]], dtype=bool),
        xyz=np.full((count, 3), np.nan),
        serial=np.arange(count),
        total=count,
        bonded=bonded,
        coded=False,
    )
