"""Folders of trajectories: which of their files is the topology."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import MissingFile, UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.formats.frames import HDF5_SUFFIXES, SUFFIXES, open_trajectory
from protein_cvae.io.mapped import map_trajectory
from protein_cvae.io.topology import TOPOLOGY_SUFFIXES, load_topology
from protein_cvae.io.trajectory import read_trajectory


def load_trajectory_folder(
    folder: str | Path,
    *,
    trajectories: Sequence[str] | None = None,
    name: str | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
    side_chains: bool = False,
    cache: str | Path | None = None,
) -> Ensemble:
    """Read a folder that holds a topology and trajectories.

    Args:
        folder: the folder; see :func:`find_topology` for which file is the topology.
        trajectories: names of the trajectory files in it; all of them, by name, if None.
        name: name of the ensemble; the folder's if None.
        stride: as in :func:`read_trajectory`, like the rest.
        max_frames: most frames, evenly spaced.
        min_models: fewest frames accepted.
        max_residues: most residues accepted.
        side_chains: read their heavy atoms, too.
        cache: as :func:`load_trajectory`.

    Raises:
        FileNotFoundError: if the folder has no topology or no trajectory.
        ValueError: as :func:`read_trajectory`.
    """
    folder = Path(folder)
    if trajectories is None:
        paths = find_trajectories(folder)
    else:
        paths = [folder / file for file in trajectories]
    topology, why = find_topology(folder, paths)
    if topology is None and not (paths and paths[0].suffix.lower() in HDF5_SUFFIXES):
        raise MissingFile(f"{folder}: no topology; {why}")
    if not paths:
        raise MissingFile(
            f"{folder}: no trajectory beside {topology.name if topology else 'it'}; expected one "
            f"or more of {', '.join(SUFFIXES)}"
        )
    return load_trajectory(
        topology,
        paths,
        name=folder.resolve().name if name is None else name,
        stride=stride,
        max_frames=max_frames,
        min_models=min_models,
        max_residues=max_residues,
        side_chains=side_chains,
        cache=cache,
    )


def load_trajectory(
    topology: str | Path | None,
    paths: Sequence[Path],
    *,
    name: str,
    stride: int,
    max_frames: int | None,
    min_models: int,
    max_residues: int | None,
    side_chains: bool,
    cache: str | Path | None,
) -> Ensemble:
    """Trajectories into memory, or where ``cache`` names a folder, mapped from there.

    Raises:
        ValueError: as :func:`read_trajectory`; on limits or side chains with ``cache``, which keeps
            the backbone of all frames.
    """
    if cache is None:
        return read_trajectory(
            topology,
            paths,
            name=name,
            stride=stride,
            max_frames=max_frames,
            min_models=min_models,
            max_residues=max_residues,
            side_chains=side_chains,
        )
    if side_chains or min_models > 1 or max_residues is not None:
        raise UserError(
            f"{paths[0]}: cache {cache} keeps the backbone of every frame; leave side_chains, "
            "min_models and max_residues out with it"
        )
    return map_trajectory(topology, paths, cache, name=name, stride=stride, max_frames=max_frames)


def find_trajectories(folder: Path) -> list[Path]:
    """Trajectory files of a folder, by name; hidden ones, which programs leave, aside."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def find_topology(folder: Path, trajectories: Sequence[Path]) -> tuple[Path | None, str]:
    """The topology in a folder, or None and what is missing.

    It is the file named topology; else the one, whatever it is called, that has as many atoms as
    the trajectories; of several, the one whose name the first trajectory's begins with, or else the
    first by format and name.
    """
    candidates = [
        path
        for suffix in TOPOLOGY_SUFFIXES
        for end in (suffix, f"{suffix}.gz")
        for path in sorted(folder.glob("*"))
        if path.name.lower().endswith(end) and not path.name.startswith(".") and path.is_file()
    ]
    named = [path for path in candidates if path.name.lower().split(".")[0] == "topology"]
    if named:
        return named[0], ""
    expected = f"expected a file with its atoms, one of {', '.join(TOPOLOGY_SUFFIXES)}"
    if not candidates or not trajectories:
        return None, expected
    counts = {}
    for path in candidates:
        try:
            counts[path] = load_topology(path).total
        except UserError:
            continue
    fitting = [path for path, count in counts.items() if _fits(trajectories[0], count)]
    if not fitting:
        there = ", ".join(f"{path.name} ({count} atoms)" for path, count in counts.items())
        return None, f"not those of {trajectories[0].name}: {there or 'no file is'}; {expected}"
    first = trajectories[0].name
    return next((p for p in fitting if first.startswith(p.name.split(".")[0])), fitting[0]), ""


def _fits(trajectory: Path, atoms: int) -> bool:
    try:
        with open_trajectory(trajectory, atoms) as opened:
            return opened.count > 0 and opened.read(np.array([0])).xyz.shape[1] == atoms
    except UserError:
        return False
