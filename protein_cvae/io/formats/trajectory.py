"""Molecular dynamics trajectories (any format of MDTraj's below) to ensembles; nm become Å.

The topology names the residues, the first frame decides which of them form protein chains, by the
rules of :mod:`protein_cvae.io.read`; models are frames.  MDTraj keeps no insertion codes:
residues of one chain that share a number get codes A, B, ... in file order.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mdtraj
import numpy as np

from common.errors import MissingFile, UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.arrange import Layout, NoteBook, arrange
from protein_cvae.io.build import build_ensemble
from protein_cvae.io.records import ModelRecords
from protein_cvae.io.topology import (
    TOPOLOGY_SUFFIXES,
    error_words,
    find_topology,
    load_topology,
    residue_atoms,
    residue_record,
)

SUFFIXES = (".xtc", ".trr", ".dcd", ".nc")
_ANGSTROM_PER_NM = 10.0
_SPLIT = 4.0  # Å; a peptide bond this long in one frame was cut by the periodic box


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
        The ensemble, float32 Å; a chain that changes its periodic image between frames is moved
        back, and noted.  ``model_numbers`` count the frames of the files from 1, through
        all trajectories, skipped frames included.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if topology and trajectory differ in atoms (names both files), a file cannot be
            read or holds no frame, a frame is not finite or has a chain cut by the periodic box
            (names frame and residue), or the protein is refused as by ``read_structure``.
    """
    topology, paths = Path(topology), [Path(path) for path in trajectories]
    if not paths:
        raise UserError(f"trajectories: expected at least one file for {topology}, got none")
    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise UserError(
            f"{topology}: stride and max_frames must be at least 1, got {stride} and {max_frames}"
        )
    table = load_topology(topology)
    keys, atoms, notes = residue_atoms(table, topology)
    if not keys:
        raise UserError(f"{topology}: no protein: no residue has atoms N, CA and C")
    parts = [_load_frames(path, topology, table, atoms, stride) for path in paths]
    coordinates = np.concatenate([part.xyz for part in parts])  # (M, R, 3, 3) Å
    boxes = np.concatenate([part.boxes for part in parts])  # (M, 3, 3) Å
    starts = np.cumsum([0] + [part.total for part in parts[:-1]])
    numbers = np.concatenate(
        [
            start + 1 + stride * np.arange(len(part.xyz))
            for start, part in zip(starts, parts, strict=True)
        ]
    )
    if max_frames is not None and len(coordinates) > max_frames:
        chosen = np.linspace(0, len(coordinates) - 1, max_frames).round().astype(int)
        coordinates, numbers, boxes = coordinates[chosen], numbers[chosen], boxes[chosen]
    model_numbers = tuple(int(number) for number in numbers)
    book = NoteBook(model_numbers)
    for note in dict.fromkeys(notes):
        book.add(*note)
    names = [name for _, name in keys]
    first = ModelRecords(model_numbers[0])
    for (key, residue), xyz in zip(keys, coordinates[0], strict=True):
        first.residues[key] = residue_record(residue, xyz)
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
    layout = replace(layout, coordinates=_bring_together(layout, boxes, book))
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
        raise MissingFile(
            f"{folder}: no topology; expected topology with one of {', '.join(TOPOLOGY_SUFFIXES)}"
        )
    if trajectories is None:
        paths = find_trajectories(folder)
    else:
        paths = [folder / file for file in trajectories]
    if not paths:
        raise MissingFile(
            f"{folder}: no trajectory beside {topology.name}; expected one or more of "
            f"{', '.join(SUFFIXES)}"
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


def find_trajectories(folder: Path) -> list[Path]:
    """Trajectory files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


class _Frames(NamedTuple):
    """Every stride-th frame of a file."""

    xyz: np.ndarray  # (F, R, 3, 3) Å
    boxes: np.ndarray  # (F, 3, 3) Å, box vectors in rows; NaN where the file has none
    total: int  # frames in the file


def _load_frames(
    path: Path, topology: Path, table: mdtraj.Topology, atoms: np.ndarray, stride: int
) -> _Frames:
    if not path.is_file():
        raise MissingFile(f"{path}: no such trajectory (topology {topology})")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: suffix {path.suffix!r} is no trajectory; expected one of "
            f"{', '.join(SUFFIXES)}"
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
        raise UserError(
            f"{path}: cannot be read as a trajectory of {topology}; it is damaged or cut short "
            f"({error_words(error)})"
        ) from None
    if count == 0:
        raise UserError(f"{path}: no frame (topology {topology})")
    if frames is None:
        raise UserError(
            f"{path} has {head.shape[1]} atoms, topology {topology} has {table.n_atoms}; give the "
            "topology the trajectory was written with"
        )
    xyz = frames.xyz.astype(np.float64) * _ANGSTROM_PER_NM
    bad = np.argwhere(~np.isfinite(xyz).all(2))
    if bad.size:
        frame, atom = (int(i) for i in bad[0])
        what = table.atom(int(wanted[atom])).residue
        raise UserError(
            f"{path}: frame {frame * stride + 1} (model {frame * stride + 1}), residue {what}: "
            "coordinates are not finite; the simulation failed there, cut it off"
        )
    coordinates = xyz[:, np.searchsorted(wanted, np.maximum(atoms, wanted[0]))]
    coordinates[:, atoms < 0] = np.nan
    boxes = np.full((len(xyz), 3, 3), np.nan)
    if frames.unitcell_vectors is not None:
        boxes[:] = frames.unitcell_vectors * _ANGSTROM_PER_NM
    return _Frames(coordinates, boxes, count)


def _check_whole(ensemble: Ensemble, topology: Path) -> None:
    """Refuse frames in which a chain lies on two sides of the periodic box."""
    carbon, nitrogen = ensemble.coordinates[:, :-1, 2], ensemble.coordinates[:, 1:, 0]
    both = ensemble.mask[:, :-1] & ensemble.mask[:, 1:] & ensemble.bonded[:-1]
    split = ((carbon - nitrogen).norm(dim=-1) > _SPLIT) & both
    for frame, residue in split.nonzero().tolist():
        distance = float((carbon - nitrogen)[frame, residue].norm())
        raise UserError(
            f"{topology}: frame {ensemble.model_numbers[frame]} (model "
            f"{ensemble.model_numbers[frame]}), residue {ensemble.label(residue)}: the peptide "
            f"bond to {ensemble.label(residue + 1)} is {distance:.1f} Å long; the chain is cut by "
            "the periodic box, make molecules whole before writing the trajectory"
        )


def _bring_together(layout: Layout, boxes: np.ndarray, book: NoteBook) -> np.ndarray:
    """(M, R, 3, 3) coordinates with each chain in the periodic image that goes on from the last.

    Programs put every molecule into the box by itself, so that a chain may change sides from one
    frame to the next.  The vector between the centres of a chain and of the first one, in units of
    the box, is unwrapped along the frames; it has to move by less than half the box in between.
    The first frame is taken as it is.
    """
    chains = list(dict.fromkeys(key.chain for key in layout.keys))
    usable = np.isfinite(boxes).all((1, 2)) & (np.abs(np.linalg.det(np.nan_to_num(boxes))) > 0)
    if len(chains) < 2 or not usable.all():
        return layout.coordinates
    of_chain = [np.array([key.chain == chain for key in layout.keys]) for chain in chains]
    ca = layout.coordinates[:, :, 1]
    centre = np.stack([np.nanmean(ca[:, member], axis=1) for member in of_chain], axis=1)
    apart = np.einsum("mcx,mxy->mcy", centre - centre[:, :1], np.linalg.inv(boxes))
    images = np.zeros_like(apart)
    images[1:] = np.cumsum(np.round(np.diff(apart, axis=0)), axis=0)
    shift = np.einsum("mcx,mxy->mcy", images, boxes)  # (M, C, 3) Å
    coordinates = layout.coordinates.copy()
    for number, (chain, member) in enumerate(zip(chains, of_chain, strict=True)):
        coordinates[:, member] -= shift[:, None, None, number]
        for frame in np.flatnonzero(images[:, number].any(-1)):
            book.add("periodic image", f"chain {chain or '-'}", "moved back", int(frame))
    return coordinates
