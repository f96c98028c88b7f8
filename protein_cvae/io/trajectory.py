"""Molecular dynamics trajectories to ensembles.

The topology names the residues, the first frame decides which of them form protein chains, by the
rules of :mod:`protein_cvae.io.read`; models are frames.  Only the frames that are taken are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from protein_cvae.ensemble import Ensemble
from protein_cvae.io.build import build_ensemble
from protein_cvae.io.formats.frames import Frames
from protein_cvae.io.periodic import bring_together, make_whole
from protein_cvae.io.side_chains import bonded_atoms, from_ca
from protein_cvae.io.trajectory_source import all_files, open_source


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
    with open_source(topology, trajectories, stride, max_frames) as source:
        layout, numbers, book = source.layout, source.numbers, source.book
        rows = (
            layout.rows if not side_chains else np.concatenate([layout.rows, source.side], axis=1)
        )
        atoms, place = source.places(rows)
        parts = list(source.parts(atoms))
    frames = Frames(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    layout = source.filled(place[:, :3], frames.xyz)
    layout.coordinates = make_whole(layout.coordinates, frames.boxes, layout.units, book)
    layout.coordinates = bring_together(layout.coordinates, frames.boxes, layout.units, book)
    if side_chains:
        apart = [
            from_ca(xyz[None], place[:, 1], place[:, 3:], box)[0]
            for xyz, box in zip(frames.xyz, frames.boxes, strict=True)
        ]
        layout.side = bonded_atoms(np.stack(apart), layout, book)
    ensemble = build_ensemble(
        layout,
        numbers,
        book,
        path=source.topology,
        name=source.paths[0].stem if name is None else name,
        min_models=min_models,
        max_residues=max_residues,
    )
    source.check_whole(ensemble)
    return replace(ensemble, source=all_files(source.topology, source.paths))
