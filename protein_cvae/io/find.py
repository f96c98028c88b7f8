"""Files, folders and glob patterns to the ensembles they hold."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import MissingFile, UserError
from common.files.lists import one_or_several
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.formats import frames
from protein_cvae.io.formats.table import SUFFIXES
from protein_cvae.io.read import read_conformers, read_structure, structure_name
from protein_cvae.io.trajectory_folder import (
    find_topology,
    find_trajectories,
    load_trajectory,
    load_trajectory_folder,
)

_SUFFIXES = tuple(s + end for s in SUFFIXES for end in ("", ".gz"))


def find_ensembles(
    paths: Sequence[str | Path] | str | Path, unread: list[str] | None = None
) -> list[Path]:
    """What :func:`load_ensemble` can load among files, folders and glob patterns.

    Args:
        paths: structure files, or one; trajectories with a topology beside them; folders, searched
            with their subfolders; patterns such as "data/**/*.cif.gz".  A folder with a topology
            and trajectories of it is one ensemble, and nothing else in it is looked at.
        unread: takes a line on each folder whose trajectories have no topology there.

    Returns:
        Files and trajectory folders, each once, in the order of ``paths``, sorted by path within
        one entry.

    Raises:
        FileNotFoundError: if an entry does not exist, matches nothing, or is a folder without
            structures; names the entry.
        ValueError: if ``paths`` is empty.
    """
    entries = one_or_several(paths)
    if not entries:
        raise UserError("paths: expected at least one file, folder or pattern, got none")
    found: dict[Path, None] = {}
    lines: list[str] = [] if unread is None else unread
    for entry in entries:
        before = len(lines)
        path = Path(entry)
        by_name = path.exists()
        here = [
            item
            for match in ([path] if by_name else _matches(entry))
            for item in (_search(match, lines) if match.is_dir() else [match])
            # a pattern may catch notes and topologies too; a file given by name is taken as it is
            if by_name or item.is_dir() or _is_structure(item) or is_trajectory(item)
        ]
        if not here:
            raise MissingFile(
                f"{entry}: no structure file ({', '.join(_SUFFIXES)}) and no folder with a "
                "topology and trajectories" + "".join(f"; {line}" for line in lines[before:])
            )
        found.update(dict.fromkeys(here))
    return list(found)


def load_ensemble(
    path: str | Path,
    *,
    topology: str | Path | None = None,
    name: str | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
    stride: int = 1,
    max_frames: int | None = None,
    drop: bool = False,
    side_chains: bool = False,
    cache: str | Path | None = None,
) -> Ensemble:
    """Load a structure file, a trajectory, or a folder as one ensemble.

    Args:
        path: a file for ``read_structure``; a trajectory for ``read_trajectory``; a folder for
            ``load_trajectory_folder``; or, without trajectories in it, a folder or glob pattern of
            structure files for ``read_conformers``.
        topology: of a trajectory; the fitting one in its folder if None.
        name: name of the ensemble; the file's or folder's if None.
        min_models: fewest models or frames accepted.
        max_residues: most residues accepted, over all chains; None for any number.
        stride: take every stride-th frame of trajectories; structure files are read whole.
        max_frames: most frames taken of trajectories; None for all.
        drop: leave out residues that have no place in the numbers of the first model; see
            ``read_structure``.
        side_chains: read their heavy atoms, too (``Ensemble.side_chains``).
        cache: folder from which trajectories are mapped into memory; None reads them into it.

    Raises:
        FileNotFoundError: if there is no such file, or the folder holds neither.
        ValueError: as those functions.
    """
    frames_taken = {"stride": stride, "max_frames": max_frames, "cache": cache}
    limits = {
        "min_models": min_models,
        "max_residues": max_residues,
        "side_chains": side_chains,
    }
    text, path = str(path), Path(path)
    if is_trajectory(path):
        if topology is None and path.is_file():
            topology, why = find_topology(path.resolve().parent, [path])
            if topology is None and path.suffix.lower() not in frames.HDF5_SUFFIXES:
                raise MissingFile(f"{path}: no topology is given, and none found beside it; {why}")
        name = path.stem if name is None else name
        return load_trajectory(topology, [path], name=name, **frames_taken, **limits)  # type: ignore[arg-type]
    if topology is not None:
        raise UserError(f"{path}: no trajectory, so topology {topology} has no use; leave it out")
    if path.is_dir() and (find_trajectories(path) or not conformer_files(path)):
        return load_trajectory_folder(path, name=name, **frames_taken, **limits)  # type: ignore[arg-type]
    if path.is_dir():
        name = path.resolve().name if name is None else name
        return read_conformers(conformer_files(path), name=name, drop=drop, **limits)  # type: ignore[arg-type]
    if glob.has_magic(text) and not path.exists():
        return read_conformers(conformer_files(text), name=name, drop=drop, **limits)  # type: ignore[arg-type]
    return read_structure(path, name=name, drop=drop, **limits)  # type: ignore[arg-type]


def conformer_files(entry: str | Path) -> list[Path]:
    """Structure files of a folder or pattern, frame_2 before frame_10.

    Raises:
        FileNotFoundError: if a pattern matches none.
    """
    path = Path(entry)
    matches = sorted(path.iterdir()) if path.is_dir() else _matches(entry)
    found = [item for item in matches if _is_structure(item) and not item.name.startswith(".")]
    if not found and not path.is_dir():
        raise MissingFile(f"{entry}: the pattern matches no structure file")
    return sorted(found, key=lambda item: (item.parent, _natural(item.name)))


def ensemble_names(paths: Sequence[Path]) -> list[str]:
    """A name for each item of :func:`find_ensembles`, no two alike.

    The file's or folder's own name; where several items share it, as many folders above it as it
    takes, e.g. "nmr/drk_sh3" and "md/drk_sh3", or the suffix where the folders are the same too.

    Raises:
        ValueError: if an item stands twice.
    """
    full = [path.resolve() for path in paths]
    if len(set(full)) < len(full):
        raise UserError(f"paths: {Counter(full).most_common(1)[0][0]} stands twice")
    own = [path.name if path.is_dir() else structure_name(path) for path in full]
    names, depth = list(own), 0
    while len(set(names)) < len(names) and depth < max(len(path.parts) for path in full):
        depth += 1
        often = Counter(names)
        names = [
            "/".join([*path.parent.parts[-depth:], stem]) if often[name] > 1 else name
            for path, stem, name in zip(full, own, names, strict=True)
        ]
    often = Counter(names)
    return [str(path) if often[name] > 1 else name for path, name in zip(full, names, strict=True)]


def is_trajectory(path: Path) -> bool:
    """Whether a file is a trajectory by its suffix."""
    return path.suffix.lower() in frames.SUFFIXES and not path.is_dir()


def _is_structure(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_SUFFIXES)


def _matches(entry: str | Path) -> list[Path]:
    if not glob.has_magic(str(entry)):
        raise MissingFile(f"{entry}: no such file or folder")
    matches = [Path(match) for match in sorted(glob.glob(str(entry), recursive=True))]
    if not matches:
        raise MissingFile(f"{entry}: the pattern matches no file or folder")
    return matches


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), "") if part.isdigit() else (0, part)
            for part in re.split(r"(\d+)", name)]  # fmt: skip


def _search(folder: Path, unread: list[str]) -> list[Path]:
    trajectories = find_trajectories(folder)
    if trajectories:
        fitting = {path: find_topology(folder, [path]) for path in trajectories}
        found = [path for path, (topology, _) in fitting.items() if topology is not None]
        if len(found) == len(trajectories) and len({top for top, _ in fitting.values()}) == 1:
            return [folder]
        alone = [p for p in trajectories if p.suffix.lower() in frames.HDF5_SUFFIXES]
        if found or alone:
            unread += [
                f"{path} is not read: {why}"
                for path, (topology, why) in fitting.items()
                if topology is None and path not in alone
            ]
            return sorted({*found, *alone})
        names = ", ".join(path.name for path in trajectories[:3])
        unread.append(
            f"{folder}: trajectories {names} lie there unread: {fitting[trajectories[0]][1]}"
        )
    below: list[Path] = []
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            below += _search(item, unread)
        elif _is_structure(item):
            below.append(item)
    return below
