"""Molecular dynamics trajectories (any format of MDTraj's below) to ensembles; nm become Å.

The topology names the residues, the first frame decides which of them form protein chains, by the
rules of :mod:`protein_cvae.io.structure`; models are frames.  MDTraj keeps no insertion codes:
residues of one chain that share a number get codes A, B, ... in file order.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np

from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.assemble import Layout, NoteBook, arrange
from protein_cvae.io.finish import build_ensemble
from protein_cvae.io.records import (
    AtomRecord,
    ModelRecords,
    ResidueKey,
    ResidueRecord,
    Variant,
    residue_label,
)
from protein_cvae.residues import one_letter

TOPOLOGY_SUFFIXES = (".pdb", ".cif", ".gro", ".psf", ".prmtop")
TRAJECTORY_SUFFIXES = (".xtc", ".trr", ".dcd", ".nc")
_ANGSTROM_PER_NM = 10.0
_SPLIT = 4.0  # Å; a peptide bond this long in one frame was cut by the periodic box
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def read_trajectory(
    topology: str | Path,
    trajectories: Sequence[str | Path],
    *,
    name: str | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
) -> Ensemble:
    """Read trajectories of one topology, one behind the other, as one ensemble.

    Args:
        topology: .pdb, .cif, .gro, .psf or .prmtop with the atoms of the trajectories.
        trajectories: one or more .xtc, .trr, .dcd or .nc files.
        name: name of the ensemble; that of the first trajectory without suffix if None.
        stride: take every stride-th frame of each trajectory, the first one included.
        max_frames: take at most this many of what ``stride`` leaves, evenly spaced over all
            trajectories, first and last included; None for all.
        min_models: fewest frames accepted.
        max_residues: most residues accepted; None for any number.

    Returns:
        The ensemble, float32 Å.  ``model_numbers`` count the frames of the files from 1, through
        all trajectories, skipped frames included.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if topology and trajectory differ in atoms (names both files), a file cannot be
            read or holds no frame, a frame is not finite or has a chain cut by the periodic box
            (names frame and residue), or the protein is refused as by ``read_structure``.
    """
    topology, paths = Path(topology), [Path(path) for path in trajectories]
    if not paths:
        raise ValueError(f"trajectories: expected at least one file for {topology}, got none")
    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise ValueError(
            f"{topology}: stride and max_frames must be at least 1, got {stride} and {max_frames}"
        )
    table = _load_topology(topology)
    keys, atoms, notes = _residue_atoms(table, topology)
    if not keys:
        raise ValueError(f"{topology}: no protein: no residue has atoms N, CA and C")
    parts = [_load_frames(path, topology, table, atoms, stride) for path in paths]
    coordinates = np.concatenate([xyz for xyz, _ in parts])  # (M, R, 3, 3) Å
    starts = np.cumsum([0] + [count for _, count in parts[:-1]])
    numbers = np.concatenate(
        [start + 1 + stride * np.arange(len(xyz)) for start, (xyz, _) in zip(starts, parts,
                                                                              strict=True)]
    )  # fmt: skip
    if max_frames is not None and len(coordinates) > max_frames:
        chosen = np.linspace(0, len(coordinates) - 1, max_frames).round().astype(int)
        coordinates, numbers = coordinates[chosen], numbers[chosen]
    model_numbers = tuple(int(number) for number in numbers)
    book = NoteBook(model_numbers)
    for note in dict.fromkeys(notes):
        book.add(*note)
    names = [name for _, name in keys]
    first = ModelRecords(model_numbers[0])
    for (key, residue), xyz in zip(keys, coordinates[0], strict=True):
        first.residues[key] = _record(residue, xyz)
    layout = arrange([first], topology, book)
    position = {key: i for i, (key, _) in enumerate(keys)}
    index = [position[key] for key in layout.keys]
    layout = Layout(
        layout.keys,
        [names[i] for i in index],
        layout.letters,
        coordinates[:, index].astype(np.float64),
        np.ones((len(coordinates), len(index)), dtype=bool),
    )
    ensemble = build_ensemble(
        layout,
        model_numbers,
        book,
        path=topology,
        name=paths[0].stem if name is None else name,
        min_models=min_models,
        max_residues=max_residues,
    )
    _check_whole(ensemble, topology)
    return replace(ensemble, source=", ".join(str(path) for path in [topology, *paths]))


def load_trajectory_folder(
    folder: str | Path,
    *,
    trajectories: Sequence[str] | None = None,
    name: str | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
) -> Ensemble:
    """Read a folder that holds ``topology.pdb`` (or .cif, .gro, ...) and trajectories.

    Args:
        folder: the folder.
        trajectories: names of the trajectory files in it; all of them, by name, if None.
        name: name of the ensemble; the folder's if None.
        stride: as in :func:`read_trajectory`, like the rest.
        max_frames: most frames, evenly spaced.
        min_models: fewest frames accepted.
        max_residues: most residues accepted.

    Raises:
        FileNotFoundError: if the folder has no topology or no trajectory.
        ValueError: as :func:`read_trajectory`.
    """
    folder = Path(folder)
    topology = find_topology(folder)
    if topology is None:
        raise FileNotFoundError(
            f"{folder}: no topology; expected topology with one of {', '.join(TOPOLOGY_SUFFIXES)}"
        )
    if trajectories is None:
        paths = find_trajectories(folder)
    else:
        paths = [folder / file for file in trajectories]
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no trajectory beside {topology.name}; expected one or more of "
            f"{', '.join(TRAJECTORY_SUFFIXES)}"
        )
    return read_trajectory(
        topology,
        paths,
        name=folder.resolve().name if name is None else name,
        stride=stride,
        max_frames=max_frames,
        min_models=min_models,
        max_residues=max_residues,
    )


def find_topology(folder: Path) -> Path | None:
    """The file named topology in a folder, or None."""
    found = [folder / f"topology{suffix}" for suffix in TOPOLOGY_SUFFIXES]
    return next((path for path in found if path.is_file()), None)


def find_trajectories(folder: Path) -> list[Path]:
    """Trajectory files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in TRAJECTORY_SUFFIXES)


def _load_topology(path: Path) -> mdtraj.Topology:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such topology")
    if path.suffix.lower() not in TOPOLOGY_SUFFIXES:
        raise ValueError(
            f"{path}: suffix {path.suffix!r} is no topology; expected one of "
            f"{', '.join(TOPOLOGY_SUFFIXES)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = mdtraj.load_topology(str(path))
    except Exception as error:  # the parsers of six formats raise whatever comes up
        raise ValueError(f"{path}: cannot be read as a topology ({_words(error)})") from None
    if table.n_atoms == 0:
        raise ValueError(f"{path}: the topology has no atoms")
    return table


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _residue_atoms(
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
                raise ValueError(
                    f"{path}: chain {given}, residue {residue}: more than {len(_LETTERS)} residues "
                    "have this number; number them anew"
                )
            if key.insertion:
                detail = "its number stands twice in the chain; code given here"
                notes.append(("insertion codes", residue_label(key, residue.name), detail))
            keys[key] = residue.name
            atoms.append(indices)
    return list(keys.items()), np.array(atoms, dtype=np.int64).reshape(-1, 3), notes


def _record(name: str, xyz: np.ndarray) -> ResidueRecord:
    positions = {
        atom: AtomRecord((float(x), float(y), float(z)), 1.0)
        for atom, (x, y, z) in zip(BACKBONE, xyz, strict=True)
        if np.isfinite(x)
    }
    # MDTraj does not say which records were HETATM: a name that is no amino acid's counts as one.
    return ResidueRecord(one_letter(name) is None, {"": Variant(name, positions)})


def _load_frames(
    path: Path, topology: Path, table: mdtraj.Topology, atoms: np.ndarray, stride: int
) -> tuple[np.ndarray, int]:
    """Every stride-th frame as (F, R, 3, 3) Å, and the number of frames in the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such trajectory (topology {topology})")
    if path.suffix.lower() not in TRAJECTORY_SUFFIXES:
        raise ValueError(
            f"{path}: suffix {path.suffix!r} is no trajectory; expected one of "
            f"{', '.join(TRAJECTORY_SUFFIXES)}"
        )
    wanted = np.unique(atoms[atoms >= 0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with mdtraj.open(str(path)) as handle:
                head = handle.read(n_frames=1)
                count = len(handle)
            head = head[0] if isinstance(head, tuple) else head
            matches = count > 0 and head.shape[1] == table.n_atoms
            frames = (
                mdtraj.load(str(path), top=table, stride=stride, atom_indices=wanted)
                if matches
                else None
            )
    except Exception as error:  # as in _load_topology
        raise ValueError(
            f"{path}: cannot be read as a trajectory of {topology}; it is damaged or cut short "
            f"({_words(error)})"
        ) from None
    if count == 0:
        raise ValueError(f"{path}: no frame (topology {topology})")
    if frames is None:
        raise ValueError(
            f"{path} has {head.shape[1]} atoms, topology {topology} has {table.n_atoms}; give the "
            "topology the trajectory was written with"
        )
    xyz = frames.xyz.astype(np.float64) * _ANGSTROM_PER_NM
    bad = np.argwhere(~np.isfinite(xyz).all(2))
    if bad.size:
        frame, atom = (int(i) for i in bad[0])
        what = table.atom(int(wanted[atom])).residue
        raise ValueError(
            f"{path}: frame {frame * stride + 1} (model {frame * stride + 1}), residue {what}: "
            "coordinates are not finite; the simulation failed there, cut it off"
        )
    coordinates = xyz[:, np.searchsorted(wanted, np.maximum(atoms, wanted[0]))]
    coordinates[:, atoms < 0] = np.nan
    return coordinates, count


def _check_whole(ensemble: Ensemble, topology: Path) -> None:
    """Refuse frames in which a chain lies on two sides of the periodic box."""
    carbon, nitrogen = ensemble.coordinates[:, :-1, 2], ensemble.coordinates[:, 1:, 0]
    both = ensemble.mask[:, :-1] & ensemble.mask[:, 1:] & ensemble.bonded[:-1]
    split = ((carbon - nitrogen).norm(dim=-1) > _SPLIT) & both
    for frame, residue in split.nonzero().tolist():
        distance = float((carbon - nitrogen)[frame, residue].norm())
        raise ValueError(
            f"{topology}: frame {ensemble.model_numbers[frame]} (model "
            f"{ensemble.model_numbers[frame]}), residue {ensemble.label(residue)}: the peptide "
            f"bond to {ensemble.label(residue + 1)} is {distance:.1f} Å long; the chain is cut by "
            "the periodic box, make molecules whole before writing the trajectory"
        )
