"""Molecular dynamics trajectories to ensembles.

The topology names the residues, the first frame decides which of them form protein chains, by the
rules of :mod:`protein_cvae.io.read`; models are frames.  Only the frames that are taken are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.arrange import arrange
from protein_cvae.io.atoms import AtomTable
from protein_cvae.io.build import build_ensemble
from protein_cvae.io.formats.frames import (
    HDF5_SUFFIXES,
    Frames,
    Trajectory,
    open_trajectory,
)
from protein_cvae.io.layout import Layout
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.periodic import PEPTIDE_BOND, bring_together, make_whole
from protein_cvae.io.records import model_records
from protein_cvae.io.side_chains import bonded_atoms, from_ca, side_chain_rows
from protein_cvae.io.topology import TOPOLOGY_SUFFIXES, load_topology


def read_trajectory(
    topology: str | Path | None,
    trajectories: Sequence[str | Path],
    *,
    name: str | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
    side_chains: bool = False,
) -> Ensemble:
    """Read trajectories of one topology, one behind the other, as one ensemble.

    Args:
        topology: PDB, mmCIF, .gro, .psf or AMBER .prmtop with the atoms of the trajectories, also
            as .gz; None for a .h5 trajectory, which holds its own.
        trajectories: one or more .xtc, .trr, .dcd, .nc, .mdcrd or .h5 files.
        name: name of the ensemble; that of the first trajectory without suffix if None.
        stride: take every stride-th frame of each trajectory, the first one included.
        max_frames: take at most this many of what ``stride`` leaves, evenly spaced over all
            trajectories, first and last included; None for all.
        min_models: fewest frames accepted.
        max_residues: most residues accepted; None for any number.
        side_chains: read their heavy atoms, too (``Ensemble.side_chains``).

    Returns:
        The ensemble, float32 Å; a chain that the periodic box cuts is made whole, and one that
        changes its periodic image between frames is moved back, with notes.  ``model_numbers``
        count the frames of the files from 1, through all trajectories, skipped frames included.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if topology and trajectory differ in atoms (names both files), a file cannot be
            read or holds no frame, a frame is not finite or has a chain that the box cuts and does
            not join (names frame and residue), or the protein is refused as by ``read_structure``.
    """
    paths = [Path(path) for path in trajectories]
    if not paths:
        raise UserError(f"trajectories: expected at least one file for {topology}, got none")
    if topology is None and paths[0].suffix.lower() not in HDF5_SUFFIXES:
        raise UserError(
            f"{paths[0]}: which atoms a trajectory has stands in its topology, and none is given; "
            f"give one of {', '.join(TOPOLOGY_SUFFIXES)} with it"
        )
    topology = paths[0] if topology is None else Path(topology)
    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise UserError(
            f"{topology}: stride and max_frames must be at least 1, got {stride} and {max_frames}"
        )
    table = load_topology(topology)
    backbone = np.isin(table.name, [atom.encode() for atom in BACKBONE])
    if not backbone.any():
        raise UserError(f"{topology}: no protein: no residue has atoms N, CA and C")
    with ExitStack() as stack:
        opened = [stack.enter_context(open_trajectory(path, table.total)) for path in paths]
        for path, trajectory in zip(paths, opened, strict=True):
            _check_atoms(trajectory, path, table, topology)
        chosen = _chosen([trajectory.count for trajectory in opened], stride, max_frames)
        numbers = tuple(int(n) + 1 for n in np.concatenate([a + b for a, b in chosen]))
        head = opened[0].read(np.array([chosen[0][1][0]]))
        book = NoteBook(numbers)
        layout, side = _layout(table, head, backbone, topology, paths[0], book)
        rows = layout.rows if not side_chains else np.concatenate([layout.rows, side], axis=1)
        atoms = np.unique(table.serial[rows[rows >= 0]])
        parts = [
            trajectory.read(index, atoms)
            for trajectory, (_, index) in zip(opened, chosen, strict=True)
            if index.size
        ]
    frames = Frames(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    boxes = frames.boxes
    if table.box is not None:
        boxes = np.where(np.isfinite(boxes), boxes, table.box)
    serials = np.where(rows >= 0, table.serial[rows], -1)
    place = np.where(rows >= 0, np.searchsorted(atoms, serials), -1)
    layout = _filled(layout, place[:, :3], frames, numbers, paths)
    layout.coordinates = make_whole(layout.coordinates, boxes, layout.units, book)
    layout.coordinates = bring_together(layout.coordinates, boxes, layout.units, book)
    if side_chains:
        apart = [
            from_ca(xyz[None], place[:, 1], place[:, 3:], box)[0]
            for xyz, box in zip(frames.xyz, boxes, strict=True)
        ]
        layout.side = bonded_atoms(np.stack(apart), layout, book)
    ensemble = build_ensemble(
        layout,
        numbers,
        book,
        path=topology,
        name=paths[0].stem if name is None else name,
        min_models=min_models,
        max_residues=max_residues,
    )
    _check_whole(ensemble, layout, table, topology)
    sources = dict.fromkeys([topology, *paths])
    return replace(ensemble, source=", ".join(str(path) for path in sources))


def _check_atoms(trajectory: Trajectory, path: Path, table: AtomTable, topology: Path) -> None:
    if trajectory.count == 0:
        raise UserError(f"{path}: no frame (topology {topology})")
    atoms = trajectory.read(np.array([0])).xyz.shape[1]
    if atoms != table.total:
        raise UserError(
            f"{path} has {atoms} atoms, topology {topology} has {table.total}; give the topology "
            "the trajectory was written with"
        )


def _chosen(
    counts: Sequence[int], stride: int, max_frames: int | None
) -> list[tuple[int, np.ndarray]]:
    """Of each trajectory, frames before it in all, and the places of those that are taken."""
    places = [np.arange(0, count, stride) for count in counts]
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    total = sum(len(place) for place in places)
    if max_frames is not None and total > max_frames:
        taken = np.linspace(0, total - 1, max_frames).round().astype(int)
        edges = np.cumsum([0] + [len(place) for place in places])
        places = [
            place[taken[(taken >= a) & (taken < b)] - a]
            for place, a, b in zip(places, edges, edges[1:], strict=False)
        ]
    return list(zip(starts, places, strict=True))


def _layout(
    table: AtomTable,
    head: Frames,
    backbone: np.ndarray,
    topology: Path,
    trajectory: Path,
    book: NoteBook,
) -> tuple[Layout, np.ndarray]:
    """Residues by the topology and the first frame, and (L, S) rows of their side chains."""
    xyz = head.xyz[0][table.serial]
    box = head.boxes[0] if np.isfinite(head.boxes[0]).all() else table.box
    for row in np.flatnonzero(backbone & ~np.isfinite(xyz).all(1))[:1]:
        residue = f"{table.residue[row].decode()} {table.resnum[row]}"
        raise UserError(f"{trajectory}: frame 1 (model 1), residue {residue}: {_FAILED}")
    first = model_records(replace(table, xyz=xyz, box=box), topology)
    layout = arrange([first], topology, book)
    return layout, side_chain_rows(layout, [first], 0)[1]


_FAILED = "coordinates are not finite; the simulation failed there, cut it off"


def _filled(
    layout: Layout,
    place: np.ndarray,
    frames: Frames,
    numbers: tuple[int, ...],
    paths: Sequence[Path],
) -> Layout:
    """The layout with the coordinates of all frames; ``place`` (L, 3) of N, CA and C in them."""
    coordinates = frames.xyz[:, np.maximum(place, 0)]
    failed = ~np.isfinite(coordinates).all(3) & (place >= 0)
    for frame, residue, _ in np.argwhere(failed)[:1].tolist():
        number = numbers[frame]
        raise UserError(
            f"{', '.join(map(str, paths))}: frame {number} (model {number}), residue "
            f"{layout.label(residue)}: {_FAILED}"
        )
    coordinates[:, place < 0] = np.nan
    present = np.ones((len(coordinates), len(place)), dtype=bool)
    return replace(layout, coordinates=coordinates, present=present)


def _check_whole(ensemble: Ensemble, layout: Layout, table: AtomTable, topology: Path) -> None:
    """Refuse a chain that is whole in the topology and in two pieces in most frames."""
    rows, units = layout.rows, layout.units
    for i in (~ensemble.bonded[:-1]).nonzero()[:, 0].tolist():
        carbon, nitrogen = int(rows[i, 2]), int(rows[i + 1, 0])
        if units[i] != units[i + 1] or not bool(ensemble.mask[:, i : i + 2].all(1).any()):
            continue
        listed = table.bonded is not None and carbon in table.bonded
        distance = float(np.linalg.norm(table.xyz[carbon] - table.xyz[nitrogen]))
        if listed or distance < PEPTIDE_BOND:
            raise UserError(
                f"{topology}: residue {ensemble.label(i)} is bonded to {ensemble.label(i + 1)} "
                "here and in hardly a frame of the trajectories; the chain is cut by the periodic "
                "box, make molecules whole before writing the trajectory"
            )
