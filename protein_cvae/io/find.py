"""Files, folders and glob patterns to the ensembles they hold."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import MissingFile, UserError
from protein_cvae.ensemble import Ensemble
from protein_cvae.io.formats.table import SUFFIXES
from protein_cvae.io.formats.trajectory import (
    find_topology,
    find_trajectories,
    load_trajectory_folder,
)
from protein_cvae.io.read import read_structure, structure_name

_SUFFIXES = tuple(s + end for s in SUFFIXES for end in ("", ".gz"))


def find_ensembles(paths: Sequence[str | Path]) -> list[Path]:
    """What :func:`load_ensemble` can load among files, folders and glob patterns.

    Args:
        paths: structure files; folders, searched with their subfolders; patterns such as
            "data/**/*.cif.gz".  A folder with a topology and trajectories is one ensemble, and
            nothing else in it is looked at.

    Returns:
        Files and trajectory folders, each once, in the order of ``paths``, sorted by path within
        one entry.

    Raises:
        FileNotFoundError: if an entry does not exist, matches nothing, or is a folder without
            structures; names the entry.
        ValueError: if ``paths`` is empty, or a single string instead of a list.
    """
    if isinstance(paths, (str, Path)):
        raise UserError(f"paths: expected a list of paths, got the single path {str(paths)!r}")
    if not paths:
        raise UserError("paths: expected at least one file, folder or pattern, got none")
    found: dict[Path, None] = {}
    for entry in paths:
        path = Path(entry)
        by_name = path.exists()
        if by_name:
            matches = [path]
        elif glob.has_magic(str(entry)):
            matches = [Path(match) for match in sorted(glob.glob(str(entry), recursive=True))]
            if not matches:
                raise MissingFile(f"{entry}: the pattern matches no file or folder")
        else:
            raise MissingFile(f"{entry}: no such file or folder")
        here = [
            item
            for match in matches
            for item in (_search(match) if match.is_dir() else [match])
            # a pattern may catch notes and topologies too; a file given by name is taken as it is
            if by_name or item.is_dir() or _is_structure(item)
        ]
        if not here:
            raise MissingFile(
                f"{entry}: no structure file ({', '.join(_SUFFIXES)}) and no folder with a "
                "topology and trajectories"
            )
        found.update(dict.fromkeys(here))
    return list(found)


def load_ensemble(
    path: str | Path,
    *,
    name: str | None = None,
    min_models: int = 1,
    max_residues: int | None = None,
    stride: int = 1,
    max_frames: int | None = None,
) -> Ensemble:
    """Load one item of :func:`find_ensembles`: a structure file or a trajectory folder.

    Args:
        path: a file for ``read_structure`` or a folder for ``load_trajectory_folder``.
        name: name of the ensemble; the file's or folder's if None.
        min_models: fewest models or frames accepted.
        max_residues: most residues accepted, over all chains; None for any number.
        stride: take every stride-th frame of trajectories; structure files are read whole.
        max_frames: most frames taken of trajectories; None for all.

    Raises:
        FileNotFoundError: if there is no such file, or the folder holds no trajectory.
        ValueError: as ``read_structure`` and ``read_trajectory``.
    """
    path = Path(path)
    if path.is_dir():
        return load_trajectory_folder(
            path,
            name=name,
            stride=stride,
            max_frames=max_frames,
            min_models=min_models,
            max_residues=max_residues,
        )
    return read_structure(path, name=name, min_models=min_models, max_residues=max_residues)


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


def _is_structure(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_SUFFIXES)


def _search(folder: Path) -> list[Path]:
    paths = find_trajectories(folder)
    if paths and find_topology(folder, paths)[0] is not None:
        return [folder]
    found: list[Path] = []
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            found += _search(item)
        elif _is_structure(item):
            found.append(item)
    return found
