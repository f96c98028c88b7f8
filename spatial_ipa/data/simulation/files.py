"""A simulated tissue as ``.h5ad`` files, laid out as a user's own files would be.

    FOLDER/slides/slide_<s>.h5ad       slides with coordinates: one folder, readable as a whole
    FOLDER/scrna.h5ad                  dissociated cells without coordinates
    FOLDER/truth/scrna_truth.h5ad      the same cells with their true positions, for scoring only
    FOLDER/tissue.json                 the spec; moved there last

The model is described in :mod:`spatial_ipa.data.simulation.tissue`.  From the command line:

    python -m spatial_ipa.data.simulation.files --out FOLDER --slides 4
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from common.errors import ExistingFile
from spatial_ipa.data.simulation.tissue import Tissue, TissueSpec, simulate_tissue

__all__ = [
    "SimulatedTissue",
    "Tissue",
    "TissuePaths",
    "TissueSpec",
    "ensure_tissue",
    "simulate_tissue",
    "write_tissue",
]

_STAMP = "tissue.json"
_FORMAT = 1  # of the simulator: raise it when equal specs give other tissues


@dataclass(frozen=True)
class TissuePaths:
    """Files of a written tissue; the truth about the cells lies in a folder of its own."""

    slides: tuple[Path, ...]
    scrna: Path
    truth: Path

    @property
    def every(self) -> tuple[Path, ...]:
        """All files: slides, cells, truth."""
        return (*self.slides, self.scrna, self.truth)


@dataclass(frozen=True)
class SimulatedTissue(TissueSpec):
    """A tissue that is simulated where it is not there yet.

    Attributes:
        folder: where; another simulated tissue there is replaced.
    """

    folder: str = "runs/tissue"

    def ensure(self) -> TissuePaths:
        """Its files, by :func:`ensure_tissue`."""
        spec = TissueSpec(**{f.name: getattr(self, f.name) for f in fields(TissueSpec)})
        return ensure_tissue(spec, self.folder)


def write_tissue(spec: TissueSpec, folder: str | Path, overwrite: bool = False) -> TissuePaths:
    """Simulate and write ``slides/slide_<s>.h5ad``, ``scrna.h5ad`` and ``truth/scrna_truth.h5ad``.

    The truth file holds the same cells with their anatomical positions in ``obsm['spatial']``.
    Everything is written to a folder beside ``folder`` first and moved when it is complete, so an
    interrupted simulation leaves nothing behind that a later one would stop at.

    Raises:
        FileExistsError: if one of the files exists and ``overwrite`` is False.
    """
    folder = Path(folder)
    paths = _paths_in(folder, spec)
    existing = [path for path in paths.every if path.exists()]
    if existing and not overwrite:
        raise ExistingFile(f"{existing[0]} exists; choose another folder or set overwrite=True")
    tissue = simulate_tissue(spec)
    truth = tissue.scrna.copy()
    truth.obsm["spatial"] = tissue.scrna_true_xy
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        drafts = _paths_in(draft, spec)
        for path, data in zip(drafts.every, (*tissue.slides, tissue.scrna, truth), strict=True):
            path.parent.mkdir(exist_ok=True)
            data.write_h5ad(path, compression="gzip")
        (draft / _STAMP).write_text(_stamp_of(spec))
        # From here on only renames.  The stamp goes first, with a spec that no tissue has: were
        # this interrupted, the files would still be known as simulated, and as incomplete.
        folder.mkdir(exist_ok=True)
        (draft / "unfinished").write_text("{}\n")
        (draft / "unfinished").replace(folder / _STAMP)
        for source, path in zip(drafts.every, paths.every, strict=True):
            path.parent.mkdir(exist_ok=True)
            source.replace(path)
        (draft / _STAMP).replace(folder / _STAMP)  # last: it says that all the others are there
    finally:
        shutil.rmtree(draft)
    return paths


def ensure_tissue(spec: TissueSpec, folder: str | Path) -> TissuePaths:
    """The files of :func:`write_tissue`, written only if the folder does not hold this very tissue.

    A folder that holds another simulated tissue is rewritten, and its further slides are removed.
    Processes that ask for the same folder at once take turns, so only the first one simulates.

    Raises:
        FileExistsError: if one of the files exists and no simulation wrote it.
    """
    folder = Path(folder)
    paths, stamp = _paths_in(folder, spec), folder / _STAMP

    def complete() -> bool:
        there = all(path.exists() for path in (stamp, *paths.every))
        return there and stamp.read_text() == _stamp_of(spec)

    if complete():  # without the lock, so that the folder may be read-only
        return paths
    with _locked(folder):
        if complete():
            return paths
        simulated = stamp.exists()
        written = write_tissue(spec, folder, overwrite=simulated)
        if simulated:
            for path in set((folder / "slides").glob("slide_*.h5ad")).difference(written.slides):
                path.unlink()
        return written


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock file beside a folder; the lock ends with the process, whatever ends it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _paths_in(folder: Path, spec: TissueSpec) -> TissuePaths:
    return TissuePaths(
        tuple(folder / "slides" / f"slide_{index}.h5ad" for index in range(spec.num_slides)),
        folder / "scrna.h5ad",
        folder / "truth" / "scrna_truth.h5ad",
    )


def _stamp_of(spec: TissueSpec) -> str:
    return json.dumps({"format": _FORMAT, **asdict(spec)}, indent=1, sort_keys=True) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    default = TissueSpec()
    parser = argparse.ArgumentParser(description="Write a simulated tissue as .h5ad files.")
    parser.add_argument("--out", type=Path, required=True, help="folder, made if absent")
    parser.add_argument("--slides", type=int, default=default.num_slides)
    parser.add_argument("--spots", type=int, default=default.spots_per_slide, help="per slide")
    parser.add_argument("--genes", type=int, default=default.num_genes)
    parser.add_argument("--cells", type=int, default=default.num_cells, help="dissociated cells")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    given = parser.parse_args(arguments)
    spec = TissueSpec(
        num_slides=given.slides,
        spots_per_slide=given.spots,
        num_genes=given.genes,
        num_cells=given.cells,
        seed=given.seed,
    )
    paths = write_tissue(spec, given.out, overwrite=given.overwrite)
    for path in paths.every:
        print(path)


if __name__ == "__main__":
    main()
