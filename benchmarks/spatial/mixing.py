"""Do dissociated cells and spots share one embedding?  Mixing before and after alignment.

    python benchmarks/spatial/mixing.py --slides DATA/her2st/A[1-5].h5ad \
        --heldout DATA/her2st/A6.h5ad --scrna DATA/scrna_breast/CID4465.h5ad --seeds 0 1 2 \
        --start spatial --transform log

Mixing is the share of a point's nearest neighbours in H that come from the other domain, over the
share expected if domains were shuffled: 1 is perfect, 0 is apart.  "Before" is the encoder's start
with the adapter at the identity; "after" is the trained encoder, by the weight of the term that
brings cells to spots.  ``--heldout`` slides say whether that costs neighbour recall.  ``--start``
and ``--transform`` are those of the encoder: its defaults, or, as above, what the published figures
are of.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from common.report.machine import describe_machine
from common.training.trainer import quiet_trainer
from spatial_ipa.data.expression import Transform
from spatial_ipa.data.read import read_slide, read_slides
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.frozen import FrozenEncoder, load_encoder
from spatial_ipa.encoder.losses import domain_mixing
from spatial_ipa.encoder.module import EncoderModule
from spatial_ipa.encoder.settings import (
    DrawSettings,
    EncoderWeights,
    GeneSettings,
    Start,
    StartSettings,
)
from spatial_ipa.geometry.graphs import adaptive_k
from spatial_ipa.geometry.neighbours import neighbour_recall


def train(args: argparse.Namespace, epochs: int, seed: int, w_scrna: float) -> FrozenEncoder:
    """The encoder of configs/spatial_ipa/encoder.yaml after so many epochs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.pt"
        optimizer = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2)
        data = EncoderDataModule(
            args.slides,
            scrna=[args.scrna],
            genes=GeneSettings(transform=args.transform),
            draws=DrawSettings(seed=seed),
        )
        module = EncoderModule(
            str(path),
            StartSettings(args.start),
            weights=EncoderWeights(scrna=w_scrna),
            optimizer=optimizer,
            seed=seed,
        )
        quiet_trainer(epochs).fit(module, datamodule=data)
        return load_encoder(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slides", nargs="+", required=True)
    parser.add_argument("--scrna", required=True)
    parser.add_argument("--start", choices=get_args(Start), default=StartSettings().kind)
    parser.add_argument(
        "--transform", choices=get_args(Transform), default=GeneSettings().transform
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--heldout", nargs="+", help="slides whose neighbour recall is reported")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(describe_machine())
    slides = read_slides(args.slides)
    cells = read_slide(args.scrna, require_spatial=False)
    print(f"{len(slides)} slides, {sum(map(len, slides))} spots; {cells.name}, {len(cells)} cells")
    heldout = read_slides(args.heldout) if args.heldout else []
    settings = [("before", 0, 0.0)]
    settings += [(f"after, w_scrna={w:g}", args.epochs, w) for w in args.weights]
    for label, epochs, weight in settings:
        rows = []
        for seed in args.seeds:
            encoder = train(args, epochs, seed, weight)
            spots = [torch.from_numpy(encoder.embed(s, "st")) for s in slides]
            h = torch.from_numpy(encoder.embed(cells, "scrna"))
            st = torch.cat(spots)
            both = torch.cat([torch.zeros(len(st)), torch.ones(len(h))]).long()
            sections = torch.cat([torch.full((len(x),), i) for i, x in enumerate(spots)])
            recall = [
                neighbour_recall(encoder.embed(s, "st"), s.xy, adaptive_k(len(s)), 100)
                for s in heldout
                if s.xy is not None
            ]
            rows.append(
                [
                    domain_mixing(torch.cat([st, h]), both),
                    domain_mixing(st, sections),
                    float(np.mean(recall)) if recall else float("nan"),
                    len(encoder.panel),
                ]
            )
        mean, sd = np.mean(rows, 0), np.std(rows, 0, ddof=1 if len(rows) > 1 else 0)
        print(
            f"{label}: mixing ST/scRNA {mean[0]:.3f} ± {sd[0]:.3f}, between slides {mean[1]:.3f} "
            f"± {sd[1]:.3f}, recall@100 on held-out slides {mean[2]:.3f} ± {sd[2]:.3f}, "
            f"{mean[3]:.0f} genes, {len(args.seeds)} seeds",
            flush=True,
        )


if __name__ == "__main__":
    main()
