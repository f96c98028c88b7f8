"""Open trajectories of one topology: which frames are taken, which residues and atoms there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from protein_cvae.ensemble import BACKBONE, Ensemble
from protein_cvae.io.arrange import arrange
from protein_cvae.io.atoms import AtomTable
from protein_cvae.io.formats.frames import (
    HDF5_SUFFIXES,
    Frames,
    Trajectory,
    open_trajectory,
)
from protein_cvae.io.layout import Layout
from protein_cvae.io.notes import NoteBook
from protein_cvae.io.periodic import PEPTIDE_BOND
from protein_cvae.io.records import model_records
from protein_cvae.io.side_chains import side_chain_rows
from protein_cvae.io.topology import TOPOLOGY_SUFFIXES, load_topology


@dataclass(frozen=True, eq=False)
class TrajectorySource:
    """Trajectories that are open.

    Attributes:
        topology: file of the atoms.
        paths: the trajectories.
        table: atoms of the topology.
        opened: the trajectories, in the order of ``paths``.
        chosen: of each, the places of the frames that are taken.
        numbers: of all frames that are taken, counted from 1 through all trajectories.
        layout: residues, by the topology and the first frame; coordinates of that frame alone.
        side: (L, S) rows of their side chains in ``table``.
        book: notes so far.
    """

    topology: Path
    paths: tuple[Path, ...]
    table: AtomTable
    opened: tuple[Trajectory, ...]
    chosen: tuple[np.ndarray, ...]
    numbers: tuple[int, ...]
    layout: Layout
    side: np.ndarray
    book: NoteBook

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Atoms to read for rows of the table (L, A), and where each row is among them.

        Returns:
            ``(atoms, place)``: ascending serials, and (L, A), -1 for rows below 0.
        """
        atoms = np.unique(self.table.serial[rows[rows >= 0]])
        serials = np.where(rows >= 0, self.table.serial[rows], -1)
        return atoms, np.where(rows >= 0, np.searchsorted(atoms, serials), -1)

    def parts(self, atoms: np.ndarray, size: int | None = None) -> Iterator[Frames]:
        """The frames that are taken, in order, so many at a time; all of a file at once if None.

        A frame without a box of its own has that of the topology, if that has one.
        """
        for trajectory, index in zip(self.opened, self.chosen, strict=True):
            step = size or max(1, len(index))
            for first in range(0, len(index), step):
                frames = trajectory.read(index[first : first + step], atoms)
                if self.table.box is not None:
                    boxes = np.where(np.isfinite(frames.boxes), frames.boxes, self.table.box)
                    frames = frames._replace(boxes=boxes)
                yield frames

    def filled(self, place: np.ndarray, xyz: np.ndarray, first: int = 0) -> Layout:
        """The layout with the coordinates of frames.

        Args:
            place: (L, 3) of N, CA and C among the atoms.
            xyz: (F, A, 3) Å.
            first: position of the first of these frames among those that are taken.

        Raises:
            ValueError: if a frame is not finite; names frame and residue.
        """
        coordinates = xyz[:, np.maximum(place, 0)]
        failed = ~np.isfinite(coordinates).all(3) & (place >= 0)
        for frame, residue, _ in np.argwhere(failed)[:1].tolist():
            number = self.numbers[first + frame]
            raise UserError(
                f"{', '.join(map(str, self.paths))}: frame {number} (model {number}), residue "
                f"{self.layout.label(residue)}: {_FAILED}"
            )
        coordinates[:, place < 0] = np.nan
        present = np.ones((len(coordinates), len(place)), dtype=bool)
        return replace(self.layout, coordinates=coordinates, present=present)

    def check_whole(self, ensemble: Ensemble) -> None:
        """Refuse a chain that is whole in the topology and in two pieces in most frames."""
        rows, units, table = self.layout.rows, self.layout.units, self.table
        for i in (~ensemble.bonded[:-1]).nonzero()[:, 0].tolist():
            carbon, nitrogen = int(rows[i, 2]), int(rows[i + 1, 0])
            if units[i] != units[i + 1] or not bool(ensemble.mask[:, i : i + 2].all(1).any()):
                continue
            listed = table.bonded is not None and carbon in table.bonded
            distance = float(np.linalg.norm(table.xyz[carbon] - table.xyz[nitrogen]))
            if listed or distance < PEPTIDE_BOND:
                raise UserError(
                    f"{self.topology}: residue {ensemble.label(i)} is bonded to "
                    f"{ensemble.label(i + 1)} here and in hardly a frame of the trajectories; the "
                    "chain is cut by the periodic box, make molecules whole before writing the "
                    "trajectory"
                )


@contextmanager
def open_source(
    topology: str | Path | None,
    trajectories: Sequence[str | Path],
    stride: int = 1,
    max_frames: int | None = None,
) -> Iterator[TrajectorySource]:
    """Open trajectories; arguments and errors as of :func:`~protein_cvae.io.read_trajectory`."""
    top, paths = checked_files(topology, trajectories)
    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise UserError(
            f"{top}: stride and max_frames must be at least 1, got {stride} and {max_frames}"
        )
    table = load_topology(top)
    backbone = np.isin(table.name, [atom.encode() for atom in BACKBONE])
    if not backbone.any():
        raise UserError(f"{top}: no protein: no residue has atoms N, CA and C")
    with ExitStack() as stack:
        opened = [stack.enter_context(open_trajectory(path, table.total)) for path in paths]
        for path, trajectory in zip(paths, opened, strict=True):
            _check_atoms(trajectory, path, table, top)
        chosen = _chosen([trajectory.count for trajectory in opened], stride, max_frames)
        numbers = tuple(int(n) + 1 for n in np.concatenate([a + b for a, b in chosen]))
        book = NoteBook(numbers)
        head = opened[0].read(np.array([chosen[0][1][0]]))
        layout, side = _layout(table, head, backbone, top, paths[0], book)
        places = tuple(index for _, index in chosen)
        yield TrajectorySource(
            top, tuple(paths), table, tuple(opened), places, numbers, layout, side, book
        )


def all_files(topology: Path, trajectories: Sequence[Path]) -> str:
    """What ``Ensemble.source`` says of trajectories."""
    return ", ".join(str(path) for path in dict.fromkeys([topology, *trajectories]))


def checked_files(
    topology: str | Path | None, trajectories: Sequence[str | Path]
) -> tuple[Path, list[Path]]:
    """Topology and trajectories, of which the first may be its own topology.

    Raises:
        ValueError: if there is no trajectory, or no topology of it.
    """
    paths = [Path(path) for path in trajectories]
    if not paths:
        raise UserError(f"trajectories: expected at least one file for {topology}, got none")
    if topology is None and paths[0].suffix.lower() not in HDF5_SUFFIXES:
        raise UserError(
            f"{paths[0]}: which atoms a trajectory has stands in its topology, and none is given; "
            f"give one of {', '.join(TOPOLOGY_SUFFIXES)} with it"
        )
    return (paths[0] if topology is None else Path(topology)), paths


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
