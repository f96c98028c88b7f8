"""Trajectories as ensembles whose frames stay on the disk.

The first reading converts a trajectory: the backbone of every frame that is taken, as
:func:`~protein_cvae.io.read_trajectory` reads it, bit for bit, in a file that later readings map
into memory.  That takes 36 bytes a residue and frame: 1.08 GB for 100,000 frames of 300 residues.
What is kept holds for the very files it was made of: names, sizes, times of change and the hash of
the topology stand beside it, and when one of them differs it is made anew.  It is written under
another name and renamed when it is complete, so that what a killed process leaves is never read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import MissingFile, UserError
from common.files.atomic import atomic_path
from protein_cvae.ensemble import Ensemble, Note, ReadReport
from protein_cvae.frames_file import map_frames, write_frames
from protein_cvae.io.build import Backbone, assemble, complete_backbone
from protein_cvae.io.periodic import ChainImages, make_whole, usable_boxes
from protein_cvae.io.trajectory_source import (
    TrajectorySource,
    all_files,
    checked_files,
    open_source,
)

CACHE_VERSION = 1  # of what is kept: raised when reading gives other coordinates
_TOGETHER = 500  # frames converted at once
_FRAMES, _MASK, _REST = "frames.npy", "mask.npy", "ensemble.json"


def map_trajectory(
    topology: str | Path | None,
    trajectories: Sequence[str | Path],
    cache: str | Path,
    *,
    name: str | None = None,
    stride: int = 1,
    max_frames: int | None = None,
) -> Ensemble:
    """As :func:`~protein_cvae.io.read_trajectory`, with coordinates that are read when used.

    Args:
        topology: as there, like what is not told here.
        trajectories: of one topology, one behind the other.
        cache: folder for what is kept of all trajectories; made if it does not exist.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: as there, or if ``cache`` cannot be written to.
    """
    top, paths = checked_files(topology, trajectories)
    made_of = _identity(top, paths, stride, max_frames)
    place = json.dumps([[file["path"] for file in made_of["files"]], stride, max_frames])
    digest = hashlib.blake2b(place.encode(), digest_size=6).hexdigest()
    folder = Path(cache) / f"{paths[0].stem}-{digest}"
    if _kept(folder) != made_of:
        with open_source(topology, trajectories, stride, max_frames) as source:
            _convert(source, folder, made_of)
    name = paths[0].stem if name is None else name
    return replace(_load(folder, name), source=all_files(top, paths))


def _identity(
    topology: Path, paths: Sequence[Path], stride: int, max_frames: int | None
) -> dict[str, Any]:
    """What conversions depend on, of plain types."""
    files = []
    for path in dict.fromkeys([topology, *paths]):
        if not path.is_file():
            raise MissingFile(f"{path}: no such file")
        about = path.stat()
        files.append({
            "path": str(path.resolve()), "size": about.st_size, "changed": about.st_mtime_ns,
        })  # fmt: skip
    # A topology is small, and may be written anew within the resolution of times.
    alone = topology not in paths
    digest = hashlib.sha256(topology.read_bytes()).hexdigest() if alone else None
    return {
        "version": CACHE_VERSION,
        "files": files,
        "topology": digest,
        "stride": stride,
        "max_frames": max_frames,
    }


def _kept(folder: Path) -> dict[str, Any] | None:
    """What a conversion in this folder was made of; None if there is none."""
    try:
        kept: dict[str, Any] = json.loads((folder / _REST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept.get("made_of")


def _convert(source: TrajectorySource, folder: Path, made_of: dict[str, Any]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder) as partial:
            partial.mkdir()
            rest = _write(source, partial)
            (partial / _REST).write_text(json.dumps({"made_of": made_of, **rest}), "utf-8")
            if _kept(folder) == made_of:
                raise FileExistsError(f"{folder}: another process was faster")
            shutil.rmtree(folder, ignore_errors=True)  # of files that have changed
    except OSError as error:
        if _kept(folder) == made_of:  # and is read from already
            return
        raise UserError(
            f"{folder}: cannot keep the frames there ({error.strerror or error}); set "
            "sources.cache to a folder with room, or to null to read them into memory"
        ) from error


def _write(source: TrajectorySource, folder: Path) -> dict[str, Any]:
    """Write frames and mask; what else an ensemble has, of plain types."""
    frames, length = len(source.numbers), len(source.layout.keys)
    mask = np.zeros((frames, length), dtype=bool)
    apart = np.full((frames, length - 1), np.nan)

    def coordinates() -> Iterator[Tensor]:
        first = 0
        for part in _backbones(source):
            last = first + len(part.mask)
            mask[first:last], apart[first:last] = part.mask.numpy(), part.apart
            yield part.coordinates
            first = last

    write_frames(folder / _FRAMES, (frames, length), coordinates())
    np.save(folder / _MASK, mask)
    whole = Backbone(map_frames(folder / _FRAMES), torch.from_numpy(mask), apart)
    ensemble = assemble(
        source.layout, whole, source.numbers, source.book, source.topology, source.paths[0].stem
    )
    source.check_whole(ensemble)
    return {
        "sequence": ensemble.sequence,
        "chain_index": ensemble.chain_index.tolist(),
        "chain_ids": list(ensemble.chain_ids),
        "residue_numbers": ensemble.residue_numbers.tolist(),
        "insertion_codes": list(ensemble.insertion_codes),
        "bonded": ensemble.bonded.tolist(),
        "model_numbers": list(ensemble.model_numbers),
        "report": ensemble.report.to_list(),
    }


def _backbones(source: TrajectorySource) -> Iterator[Backbone]:
    """The frames of a source, part by part, as if they were read at once."""
    units, book = source.layout.units, source.book
    atoms, place = source.places(source.layout.rows)
    images = None
    if len(set(units)) > 1:  # chains are followed only where every frame has a box
        boxes = (part.boxes for part in source.parts(atoms[:1], _TOGETHER))
        images = ChainImages(units) if all(usable_boxes(box).all() for box in boxes) else None
    first = 0
    for frames in source.parts(atoms, _TOGETHER):
        layout = source.filled(place, frames.xyz, first)
        notes = book.of(range(first, first + len(frames.xyz)))
        layout.coordinates = make_whole(layout.coordinates, frames.boxes, units, notes)
        if images is not None:
            layout.coordinates = images.follow(layout.coordinates, frames.boxes, notes)
        yield complete_backbone(layout, notes)
        first += len(frames.xyz)


def _load(folder: Path, name: str) -> Ensemble:
    rest = json.loads((folder / _REST).read_text(encoding="utf-8"))
    try:
        mask = torch.from_numpy(np.load(folder / _MASK, allow_pickle=False))
        return Ensemble(
            name=name,
            coordinates=map_frames(folder / _FRAMES),
            mask=mask,
            sequence=rest["sequence"],
            chain_index=torch.tensor(rest["chain_index"]),
            chain_ids=tuple(rest["chain_ids"]),
            residue_numbers=torch.tensor(rest["residue_numbers"]),
            insertion_codes=tuple(rest["insertion_codes"]),
            bonded=torch.tensor(rest["bonded"]),
            source=str(folder),
            model_numbers=tuple(rest["model_numbers"]),
            report=ReadReport(tuple(Note(**note) for note in rest["report"])),
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{folder}: what is kept of a trajectory is damaged ({error}); delete the folder, it "
            "is made anew"
        ) from error
