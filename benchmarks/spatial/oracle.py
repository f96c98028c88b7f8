"""Oracle energies on minisets of real slides: Adam on the coordinates, no model.

    python benchmarks/spatial/oracle.py --data DATA --minisets 50

Reference values: total energy -0.008 ± 0.034, L_RW 0.019 ± 0.032, L_stress 0.082 ± 0.037,
eigenvalue ratio 0.44 ± 0.18, median distance 1.19 ± 0.05, no collapse.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from common.report.machine import describe_machine
from common.rng import generator_for
from spatial_ipa.data.read import read_slide
from spatial_ipa.data.slide import Slide
from spatial_ipa.evaluation.oracle import minimise
from spatial_ipa.model.minisets import draw_members
from spatial_ipa.model.targets import Target, build_target, union_targets

SLIDES = (
    "her2st/A1", "her2st/B2", "her2st/C3", "her2st/D4", "dlpfc/151673", "dlpfc/151675",
    "seqfish_embryo/embryo1", "starmap_mpfc/BZ5", "ra_synovium/RA4_1", "ra_synovium/RA1_1",
)  # fmt: skip


def miniset(slide: Slide, generator: torch.Generator) -> Target:
    """The target of a random subset of 96 to 384 spots."""
    assert slide.xy is not None
    chosen = draw_members(len(slide), 96, 384, generator)
    return build_target(torch.tensor(np.array(slide.xy))[chosen], generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--minisets", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=10, help="minisets optimised at once")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file of the values")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine())
    paths = [Path(args.data) / f"{name}.h5ad" for name in SLIDES]
    slides = [read_slide(p, require_spatial=True) for p in paths if p.exists()]
    rows: list[dict[str, float]] = []
    start = time.perf_counter()
    for first in range(0, args.minisets, args.batch_size):
        draws = range(first, min(first + args.batch_size, args.minisets))
        chosen = [slides[draw % len(slides)] for draw in draws]
        targets = [
            miniset(slide, generator_for(args.seed, draw))
            for slide, draw in zip(chosen, draws, strict=True)
        ]
        # The graphs of a union do not interact: one optimisation of all is each one's own.
        generator = generator_for(args.seed, args.minisets, first)
        found = minimise(union_targets(targets), generator, args.steps)
        columns = {
            "total energy": found.energy,
            "L_RW": found.terms["rw"],
            "L_stress": found.terms["stress"],
            "E_geo": found.terms.e_geo,
            "eigenvalue ratio": found.eigenvalue_ratio,
            "median distance": found.median_distance,
            "n": torch.tensor([float(len(t.graph)) for t in targets]),
        }
        for b, slide in enumerate(chosen):
            rows.append({key: float(value[b]) for key, value in columns.items()})
            print(slide.name, {k: round(v, 4) for k, v in rows[-1].items()}, flush=True)
    print(f"\n{len(rows)} minisets, {args.steps} steps, {time.perf_counter() - start:.0f} s")
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        print(
            f"{key}: {values.mean():.4f} ± {values.std(ddof=1):.4f} "
            f"(median {np.median(values):.4f})"
        )
    collapsed = sum(r["eigenvalue ratio"] < 0.01 or r["median distance"] < 0.01 for r in rows)
    print(f"collapsed: {collapsed}")
    if args.out:
        Path(args.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
