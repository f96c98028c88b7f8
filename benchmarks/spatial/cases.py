"""What is read of files as people have them, and whether a model trained on them places cells.

    python benchmarks/spatial/cases.py FOLDER [CASE ...]

FOLDER holds scripts that write one simulated slide each, ``NAME.py OUT.h5ad SEED``; seeds are
sections of one tissue and ``plain.py`` writes good ones.  Seeds 1 and 2 of each case are read as
they are and with the options of :data:`OPTIONS`.  What is read is trained on: spatial PCA and the
regression in the common frame, judged on section 3 of ``plain.py`` by the recall of its neighbours
among 80 candidates, Spearman of distances and RMSE.
"""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np

from common.errors import UserError
from common.report.tables import markdown_table
from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.panels import gene_panel
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.spatial_pca import principal_components, spatial_components
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.metrics import distance_spearman, procrustes_rmse
from spatial_ipa.geometry.neighbours import neighbour_recall
from spatial_ipa.layout.frame_fit import cross_fit

OPTIONS = {
    "concat_batch": SlideKeys(section_key="batch"),
    "spatialdata_regions": SlideKeys(section_key="cells_region"),
    "coordinates_in_obs": SlideKeys(spatial_key="x_centroid,y_centroid"),
    "filler_positions": SlideKeys(drop_coincident=True),
    "null_x": SlideKeys(layer="counts"),
    "numbered_genes": SlideKeys(gene_key="features"),
}
_STORES = {"zarr_store"}
_HOLDING = {"locked_file"}  # run on and hold their file open
_CANDIDATES = 80


def placed(train: Sequence[Slide], test: Slide) -> tuple[float, float, float]:
    """Recall, Spearman and RMSE of a slide under spatial PCA and frame regression."""
    panel = gene_panel([*train, test])
    expression = [
        Expression.of_slide(slide, panel, Normalisation("log")) for slide in (*train, test)
    ]
    xy = [slide.xy for slide in train if slide.xy is not None]
    basis = principal_components(expression[:-1], 128, 0)
    directions, _ = spatial_components(expression[:-1], xy, basis)
    h = [e.project(directions).astype(np.float32) for e in expression]
    h = [x / np.sqrt(x.var(axis=0).sum()) for x in h]
    learnt = [EmbeddedSlide(s.name, x, p) for s, x, p in zip(train, h, xy, strict=False)]
    layout = cross_fit(learnt)[0].averaged(h[-1])
    assert test.xy is not None
    return (
        neighbour_recall(h[-1], test.xy, adaptive_k(len(test)), _CANDIDATES),
        distance_spearman(layout, test.xy),
        procrustes_rmse(layout, test.xy),
    )


def outcome(files: Sequence[Path], keys: SlideKeys, test: Slide) -> str:
    """What comes of training on some files, in a line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train = read_slides(files, keys)
        if len(train) > 1 and files[0].stem.startswith("full_grid"):
            Split.declare(train[:1], train[1:])
            return "read; two of one grid train and are held out"
        recall, spearman, rmse = placed(train, test)
    except (UserError, FileNotFoundError) as error:
        return "refused: " + str(error).replace(str(files[0].parent) + "/", "")
    notes = next((f" ({'; '.join(s.notes)})" for s in train if s.notes), "")
    return f"read {len(train)} slides{notes}: {recall:.3f} / {spearman:.3f} / {rmse:.3f}"


def write_case(script: Path, folder: Path, seed: int, running: ExitStack) -> Path:
    """Run a script; the file it wrote, or holds open until ``running`` is left."""
    suffix = "zarr" if script.stem in _STORES else "h5ad"
    path = folder / f"{script.stem}_{seed}.{suffix}"
    command = [sys.executable, str(script), str(path), str(seed)]
    if script.stem not in _HOLDING:
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return path
    process = subprocess.Popen([*command, "120"], stderr=subprocess.DEVNULL)
    running.callback(process.kill)
    while process.poll() is None and not _is_held(path):
        time.sleep(0.1)
    return path


def _is_held(path: Path) -> bool:
    try:
        with h5py.File(path, "r"):
            return False
    except OSError as error:
        return error.errno == errno.EAGAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", help="names; all by default")
    given = parser.parse_args()
    scripts = sorted(given.folder.glob("*.py"))
    rows = []
    with TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        held = write_case(given.folder / "plain.py", folder, 3, running)
        test = replace(read_slides(held)[0], name="held out")
        for script in scripts:
            if given.cases and script.stem not in given.cases:
                continue
            files = [write_case(script, folder, seed, running) for seed in (1, 2)]
            row = [script.stem, outcome(files, SlideKeys(), test)]
            keys = OPTIONS.get(script.stem)
            row.append("" if keys is None else outcome(files, keys, test))
            rows.append(row)
            print(" | ".join(row), flush=True)
    print(markdown_table(["case", "as it is", "with its option"], rows))


if __name__ == "__main__":
    main()
