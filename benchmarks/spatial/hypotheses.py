"""Do several positions per cell help where expression occurs at several places?

    python benchmarks/spatial/hypotheses.py --simulate 0 1 2              # mirror-symmetric tissue
    python benchmarks/spatial/hypotheses.py --simulate 0 1 2 --single     # tissue without symmetry
    python benchmarks/spatial/hypotheses.py --fit DATA/her2st/A[124-6].h5ad --heldout \\
        DATA/her2st/A3.h5ad --seeds 0 1 2

Each fits a model (laptop size) to training slides and places held-out ones.  ``layout`` is the one
layout, X_spatial_ipa.  ``better, cell`` is the error of the nearer of a cell's two hypotheses
(:mod:`spatial_ipa.geometry.several`), ``better, layout`` that of the better of both as layouts.  In
the same measure as ``better, cell``, pairs of positions that know less:

    mirrored   the layout, and its mirror image about the line through its centre (of 12) that gives
               the lowest error: chosen by the true positions;
    two sides  the layout moved to both sides by one vector for all cells: of 12 directions and
               lengths 0.25, 0.5, 0.75, 1 what gives the lowest error, chosen by the true positions;
    permuted   the hypotheses' shifts from the layout, each given to another cell;
    turned     the same, each turned by an angle of its own.

``gain`` and ``trust`` are those of :mod:`spatial_ipa.layout.charts`; without a gain there is one
place per cell.  ``weight 2`` is the mean weight of the second hypothesis, ``one place`` the
share of cells whose second has weight 0, ``nearer`` the share of other cells whose first is the
nearer one, and beside it the mean weight of these.  Permutations are drawn three times and
averaged; larger slides are scored on 1,000 random cells.  With ``--untrained`` the network is as it
is drawn, so the layout is the regression.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import spatial_ipa
from common.report.machine import describe_machine
from common.report.tables import markdown_table
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.simulation.files import write_tissue
from spatial_ipa.data.simulation.tissue import TissueSpec
from spatial_ipa.data.slide import Slide
from spatial_ipa.evaluation.scorer import SlideScorer
from spatial_ipa.geometry.several import best_layout_rmse, nearest_hypothesis
from spatial_ipa.placing.placer import Placer

_DRAWS, _SCORED = 3, 1000
_QUICK = [
    "--model.init_args.schedule.gate_steps=100",
    "--model.init_args.schedule.ramp_epochs=2",
    "--data.init_args.minisets.val_per_slide=4",
]
_NO_STEPS = [
    "--model.init_args.schedule.gate_steps=0",
    "--model.init_args.schedule.lr=0",
    "--model.init_args.schedule.lr_final=0",
    "--model.init_args.calibration_draws=0",
    "--trainer.limit_train_batches=1",
]

Array = np.ndarray


def trivial(xy: Array, shift: Array, true: Array, seed: int) -> dict[str, float]:
    """Errors of pairs that know less; see the module.

    Args:
        xy: (n, 2) the layout.
        shift: (n, M, 2) of the hypotheses from it.
        true: (n, 2).
        seed: of the permutations.
    """
    xy = xy - xy.mean(axis=0)
    angles = np.pi * np.arange(12) / 12
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mirrored = [np.stack([xy, xy - 2 * np.outer(xy @ u, u)], axis=1) for u in normals]
    sides = [
        np.stack([xy + c * u, xy - c * u], axis=1) for u in normals for c in (0.25, 0.5, 0.75, 1.0)
    ]
    permuted, turned = [], []
    for draw in range(_DRAWS):
        rng = np.random.default_rng((seed, draw))
        given = shift[rng.permutation(len(xy))]
        angle = rng.uniform(0, 2 * np.pi, len(xy))
        turns = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        permuted.append(xy[:, None] + given)
        turned.append(xy[:, None] + np.einsum("nmc,cdn->nmd", given, turns))
    errors = {
        name: [nearest_hypothesis(pair, true)[1] for pair in pairs]
        for name, pairs in {
            "mirrored": mirrored, "two sides": sides, "permuted": permuted, "turned": turned,
        }.items()
    }  # fmt: skip
    return {
        "mirrored": min(errors["mirrored"]),
        "two sides": min(errors["two sides"]),
        "permuted": float(np.mean(errors["permuted"])),
        "turned": float(np.mean(errors["turned"])),
    }


def judge(model: Placer, slide: Slide, count: int, seed: int) -> dict[str, float]:
    """One held-out slide."""
    assert slide.xy is not None
    h = torch.from_numpy(np.array(model.encoder.embed(slide, "st")))
    placement = model.layout(h, seed=seed)
    found, weight = model.hypotheses(placement, h, count, seed)
    xy = placement.xy.double().numpy()
    some = np.sort(np.random.default_rng(0).permutation(len(xy))[:_SCORED])
    xy, found, weight, true = xy[some], found[some], weight[some], slide.xy[some]
    apart, better = nearest_hypothesis(found, true)
    scores = SlideScorer(true).score(xy)
    several = weight[:, 1] > 0
    single = scores["procrustes_rmse"]
    charts = model.context.charts_for(count)
    assert model.context.frame is not None
    return {
        "E_geo": scores["e_geo"],
        "Spearman": scores["spearman"],
        "layout": single,
        "better, cell": better,
        "ratio": better / single,
        "better, layout": best_layout_rmse(found, true),
        **trivial(xy, found - xy[:, None], true, seed),
        "gain": max(c.gain for c in model.context.frame.charts if len(c) <= count),
        "trust": np.nan if charts is None else charts.trust,
        "weight 2": weight[:, 1].mean(),
        "one place": 1 - several.mean(),
        "nearer": (apart.argmin(axis=1) == 0)[several].mean() if several.any() else np.nan,
        "weight 1 of these": weight[several, 0].mean() if several.any() else np.nan,
    }


def models(args: argparse.Namespace) -> Iterator[tuple[str, int, Placer, list[Slide]]]:
    """Fitted models with their held-out slides."""
    for seed in args.simulate:
        spec = TissueSpec(num_cells=0, mirror_symmetric=not args.single, seed=seed)
        folder = args.out / f"{'single' if args.single else 'mirror'}_{seed}"
        files = write_tissue(spec, folder / "tissue", overwrite=True).slides
        model = fit(args, files[:2], folder, seed, files[2:3], _QUICK, 4)
        yield folder.name, seed, model, read_slides(files[3])
    if args.fit:
        heldout = read_slides(args.heldout)
        for seed in args.seeds:
            folder = args.out / f"{heldout[0].name}_{seed}"
            yield f"seed {seed}", seed, fit(args, args.fit, folder, seed), heldout


def fit(
    args: argparse.Namespace,
    slides: Sequence[str | Path],
    folder: Path,
    seed: int,
    validation: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    epochs: int | None = None,
) -> Placer:
    """A model of these slides, as it is drawn with ``--untrained``."""
    if args.untrained:
        folder = folder.with_name(f"{folder.name}_untrained")
        return spatial_ipa.fit(slides, out=folder, epochs=1, seed=seed, overrides=_NO_STEPS)
    return spatial_ipa.fit(
        slides, validation=validation, out=folder, epochs=epochs, seed=seed, overrides=overrides
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--simulate", nargs="*", type=int, default=[], help="seeds of tissues")
    parser.add_argument("--single", action="store_true", help="simulate tissue without symmetry")
    parser.add_argument("--fit", nargs="*", default=[], help="training slides")
    parser.add_argument("--heldout", nargs="*", default=[], help="slides to place")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--untrained", action="store_true", help="no step of training")
    parser.add_argument("--hypotheses", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/hypotheses"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    columns: list[str] = []
    for name, seed, model, heldout in models(args):
        for slide in heldout:
            found = judge(model, slide, args.hypotheses, seed)
            columns = list(found)
            rows.append([name, slide.name, *(f"{value:.3f}" for value in found.values())])
            print(" | ".join(rows[-1]), flush=True)
    print(f"\ncommand: {' '.join(sys.argv)}\n{describe_machine()}\n")
    print(markdown_table(["model", "slide", *columns], rows))


if __name__ == "__main__":
    main()
