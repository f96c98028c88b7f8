"""Small slides and an encoder of their genes."""

from __future__ import annotations

import numpy as np
import torch

from spatial_ipa.data.expression import Normalisation
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.frozen import FrozenEncoder, ScRNAAdapter, SharedEncoder

D = 8


def make_slide(seed: int = 0, n: int = 30, num_genes: int = 40) -> Slide:
    counts = np.random.default_rng(seed).poisson(2.0, (n, num_genes))
    return Slide.build(f"s{seed}", counts, [f"g{i}" for i in range(num_genes)], None)


def make_encoder(seed: int = 0) -> FrozenEncoder:
    generator = torch.Generator().manual_seed(seed)
    slide = make_slide()
    adapter = ScRNAAdapter(len(slide.genes), 4, generator)
    adapter.shift.data.fill_(0.3)
    trunk = SharedEncoder(len(slide.genes), D, (24, 16), generator=generator)
    return FrozenEncoder(
        trunk, adapter, slide.genes, Split.declare([slide], []), Normalisation("log")
    )
