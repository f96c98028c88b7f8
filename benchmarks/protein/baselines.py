"""What simple rivals reach on NMR ensembles: the table a trained model has to beat.

    python benchmarks/protein/baselines.py ENSEMBLE_FOLDER [--output FILE] [--names 2sdf 1d3z ...]

For every ensemble with at most 130 residues in its longest chain and at least 10 models: every
third model is held out, each rival makes 100 conformers from the others.  c = ordered core
(S(φ) + S(ψ) ≥ 1.8 over the training models), a = all residues; CA, Å.  minRMSD, precision and
Wasserstein are against the held-out models; spread ratio and RMSF correlation against all models.
``valid`` = share of conformers with every bond inside 4 sd of Engh and Huber and no peptide break.
Reconstruction of the held-out models: nearest training model, or projection on the rival's modes.
One line per protein and rival is printed and written as JSON; means over proteins at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from common.align import aligned_rmsd
from common.files.atomic import atomic_path
from common.report.machine import describe_machine
from protein_cvae.ensemble import Ensemble
from protein_cvae.evaluation.baselines import (
    BASELINES,
    constrained,
    network_reconstruction,
    pca_reconstruction,
)
from protein_cvae.evaluation.metrics import compare
from protein_cvae.geometry.constants import CA
from protein_cvae.geometry.dihedrals import backbone_dihedrals
from protein_cvae.geometry.projection import nearer_cis, project
from protein_cvae.geometry.superposition import core_mask, pairwise_rmsd
from protein_cvae.geometry.validity import validity
from protein_cvae.io import find_ensembles, load_ensemble

COLUMNS = (
    "spread_ratio",
    "min_rmsd_c",
    "min_rmsd_a",
    "precision_c",
    "precision_a",
    "wasserstein_c",
    "rmsf_r",
    "bond_rms",
    "angle_rms",
    "broken",
    "outlier",
    "clash",
    "inside",
    "valid",
    "reconstruction_c",
    "reconstruction_a",
)
MIN_CORE = 5


def complete(ensemble: Ensemble) -> Ensemble:
    """The longest chain, residues complete in every model."""
    chain = ensemble.select_chain("longest")
    return chain.select_residues(chain.mask.all(0))


def projection(ensemble: Ensemble) -> Callable[[Tensor], Tensor]:
    """Constraint projection with the cis peptides of most models of ``ensemble``."""
    bonded = ensemble.bonded.expand(ensemble.mask.shape)
    angles, defined = backbone_dihedrals(ensemble.coordinates, bonded, ensemble.mask)
    cis = (nearer_cis(angles.omega) & defined.omega).double().mean(0) > 0.5

    def run(conformers: Tensor) -> Tensor:
        shape = conformers.shape[:2]
        mask = torch.ones(shape, dtype=torch.bool)
        return project(conformers, ensemble.bonded.expand(shape), mask, cis.expand(shape))

    return run


def score(
    name: str, conformers: Tensor, ensemble: Ensemble, held: list[int], core: Tensor
) -> dict[str, float | str]:
    """One row of the table."""
    real = ensemble.coordinates[:, :, CA]
    ca = conformers[:, :, CA]
    whole = compare(ca, real[held], reference=real)
    report = validity(
        conformers,
        torch.ones(conformers.shape[:2], dtype=torch.bool),
        ensemble.bonded,
        ensemble.aatype,
    )
    row: dict[str, float | str] = {"protein": ensemble.name, "rival": name, **report.summary()}
    row |= {f"{key}_a": value for key, value in asdict(whole).items()}
    row |= {"spread_ratio": whole.spread_ratio, "rmsf_r": whole.rmsf_correlation}
    if int(core.sum()) >= MIN_CORE:
        ordered = compare(ca, real[held], core, reference=real)
        row |= {f"{key}_c": value for key, value in asdict(ordered).items()}
    return row


def reconstruction(
    name: str, training: Tensor, weights: Tensor, models: Tensor, core: Tensor
) -> dict[str, float]:
    """CA-RMSD of held-out models to what the rival can express, core and all."""
    if name == "training":
        ca, wanted = training[:, :, CA], models[:, :, CA]
        found = ca[pairwise_rmsd(ca, wanted).argmin(0)]
    elif name.startswith("pca"):
        found, wanted = pca_reconstruction(training, weights, models)[:, :, CA], models[:, :, CA]
    elif name.startswith("network"):
        ca, wanted = training[:, :, CA], models[:, :, CA]
        start = training[pairwise_rmsd(ca, ca).sum(1).argmin()]
        found = network_reconstruction(start, weights, models)[:, :, CA]
    else:
        return {}
    row = {"reconstruction_a": float(aligned_rmsd(found, wanted).mean())}
    if int(core.sum()) >= MIN_CORE:
        row["reconstruction_c"] = float(aligned_rmsd(found[:, core], wanted[:, core]).mean())
    return row


def run(ensemble: Ensemble, count: int, seed: int, on_core: bool) -> list[dict[str, float | str]]:
    """All rivals on one ensemble."""
    held = list(range(2, ensemble.num_models, 3))
    kept = [m for m in range(ensemble.num_models) if m % 3 != 2]
    training = ensemble.coordinates[kept]
    core = core_mask(training, ensemble.bonded, ensemble.mask[kept])
    weights = torch.ones(ensemble.length, dtype=training.dtype)
    if on_core and int(core.sum()) >= MIN_CORE:
        weights = core.to(training.dtype)
    fix = projection(ensemble.select_models(kept))
    rows = []
    for name, rival in BASELINES.items():
        variants = {name: rival}
        if name in ("network", "pca"):
            variants[f"{name} + constraints"] = constrained(rival, fix)
        for label, method in variants.items():
            start = time.perf_counter()
            generator = torch.Generator().manual_seed(seed)
            conformers = method(training, weights, count, generator)
            seconds = (time.perf_counter() - start) / len(conformers)
            row = score(label, conformers, ensemble, held, core)
            rebuilt = ensemble.coordinates[held]
            row |= reconstruction(label, training, weights, rebuilt, core)
            row |= {"residues": ensemble.length, "core": int(core.sum()), "seconds": seconds}
            rows.append(row)
    return rows


def line(row: dict[str, float | str]) -> str:
    """Fixed-width text of one row."""
    values = [row.get(key, math.nan) for key in COLUMNS]
    numbers = " ".join(f"{float(value):8.3f}" for value in values)
    return f"{row['protein']!s:16s} {row['rival']!s:22s} {numbers}"


def means(rows: list[dict[str, float | str]], rival: str) -> dict[str, float | str]:
    """Mean over proteins of every column, where it is defined."""
    result: dict[str, float | str] = {"protein": "mean", "rival": rival}
    for key in COLUMNS:
        values = [float(row[key]) for row in rows if row["rival"] == rival and key in row]
        values = [value for value in values if not math.isnan(value)]
        result[key] = sum(values) / len(values) if values else math.nan
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="JSON lines")
    parser.add_argument("--names", nargs="*", help="only these ensembles")
    parser.add_argument("--conformers", type=int, default=100)
    parser.add_argument("--max-residues", type=int, default=130)
    parser.add_argument("--min-models", type=int, default=10)
    parser.add_argument("--core", action="store_true", help="rivals superpose on the core")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"# {describe_machine()}, {' '.join(sys.argv)}")
    print(f"{'protein':16s} {'rival':22s} " + " ".join(f"{key[:8]:>8s}" for key in COLUMNS))
    rows: list[dict[str, float | str]] = []
    for source in find_ensembles([options.folder]):
        if options.names and source.name.split(".")[0] not in options.names:
            continue
        ensemble = complete(load_ensemble(source))
        if ensemble.length > options.max_residues or ensemble.num_models < options.min_models:
            continue
        rows += run(ensemble, options.conformers, options.seed, options.core)
        for row in rows:
            if row["protein"] == ensemble.name:
                print(line(row), flush=True)
    summary = [means(rows, rival) for rival in dict.fromkeys(str(row["rival"]) for row in rows)]
    print(f"means over {len({row['protein'] for row in rows})} ensembles")
    for row in summary:
        print(line(row))
    if options.output is not None:
        text = "".join(json.dumps(row) + "\n" for row in (*rows, *summary))
        with atomic_path(options.output) as path:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
