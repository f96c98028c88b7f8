"""Do error radii hold on other slides?  Calibrate on each held-out slide, check on the others.

    python benchmarks/spatial/radii.py --checkpoint runs/spatial_ipa.ckpt \\
        --train "DATA/her2st/A[1-5].h5ad" --heldout DATA/her2st/A6.h5ad DATA/her2st/B[13].h5ad

``--train`` are the slides the checkpoint was trained on, ``--heldout`` slides it was not.  Rows of
the second table are the calibration slides, columns the checked ones; an entry is the share of
spots within their 90 % radius, the median radius, and the share abstained from.  A slide checked by
itself shows the fit, not the coverage of new slides.  ``--shifts`` also checks on copies of each
with a quarter of the counts, cut in half, and cut to a third with mixed profiles (``shifts.py``).
"""

from __future__ import annotations

import argparse
import glob
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from shifts import Part

from common.report.machine import describe_machine
from common.report.tables import markdown_table
from spatial_ipa.confidence.calibration import PlacedSlide, calibrate, check_slides, place_slide
from spatial_ipa.confidence.identifiability import slide_identifiability
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.data.read import read_slides
from spatial_ipa.data.slide import EmbeddedSlide
from spatial_ipa.encoder.training_slides import embed_training
from spatial_ipa.layout.placement import Placement
from spatial_ipa.placing.load import load

_CHANGES = (
    Part(""),
    Part("", depth=0.25),
    Part("", region="high"),
    Part("", region="patch", mixed=0.2, shuffled=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of error radii between slides.")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--train", nargs="+", required=True, help="slides of the training")
    parser.add_argument("--heldout", nargs="+", required=True, help="other slides, two or more")
    parser.add_argument("--shifts", action="store_true", help="check on changed copies, too")
    parser.add_argument("--num-draws", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    placer = load(args.checkpoint)
    encoder = placer.encoder
    train = embed_training(encoder, read_slides(args.train))
    paths = [path for pattern in args.heldout for path in sorted(glob.glob(pattern))]
    changes = _CHANGES if args.shifts else _CHANGES[:1]
    parts = [replace(change, path=path) for path in paths for change in changes]
    heldout = [
        EmbeddedSlide(s.name, encoder.embed(s, "st"), s.xy)
        for s in (part.read(Path()) for part in parts)
        if s.xy is not None
    ]
    check_slides(train, heldout)
    reference = ReferenceCells.sample(train)

    def place(h: np.ndarray) -> Placement:
        return placer.layout(torch.from_numpy(np.array(h)), "auto", args.num_draws)

    print(f"command: {' '.join(sys.argv)}")
    print(f"{describe_machine()}\n")
    print("| slide | RMSE | ambiguity | mirror index | verdict | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    placed: list[PlacedSlide] = []
    for slide in heldout:
        start = time.perf_counter()
        placed.append(place_slide(slide, place, reference))
        seconds = time.perf_counter() - start
        found = slide_identifiability(slide.h, slide.xy)
        rmse = np.sqrt((placed[-1].error ** 2).mean())
        summary = found.summary()
        print(
            f"| {slide.name} | {rmse:.3f} | {found.overall:.2f} | {summary['mirror_index']:.2f} | "
            f"{found.verdict} | {seconds:.1f} |",
            flush=True,
        )
    rows = []
    whole = {Path(path).stem for path in paths}
    for source in (p for p in placed if p.name in whole):
        calibration = calibrate([source], args.num_draws)
        cells = [source.name]
        for checked in placed:
            radius = calibration.radius(checked.features)
            cells.append(
                f"{(checked.error <= radius).mean():.2f}, {np.median(radius):.2f}, "
                f"{(radius > calibration.median_pair).mean():.2f}"
            )
        rows.append(cells)
    head = ["calibrated on", *(f"on {slide.name}" for slide in placed)]
    print(f"\n{markdown_table(head, rows)}")


if __name__ == "__main__":
    main()
