"""Training slides for what is trained on embeddings: gate, network and frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spatial_ipa.data.slide import EmbeddedSlide, Slide
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import FrozenEncoder
from spatial_ipa.encoder.kernel_trunk import KernelTrunk
from spatial_ipa.encoder.out_of_fold import OutOfFold
from spatial_ipa.geometry.blocks import spatial_blocks


def embed_training(
    encoder: FrozenEncoder, slides: Sequence[Slide], cache_dir: Path | None = None
) -> list[EmbeddedSlide]:
    """Training slides with folds, and H as like that of new slides as the encoder can make it.

    A kernel encoder leaves out the part of the slide around a cell for ``h``, and the cell alone
    for ``h_frame``, whose coordinates line up better between slides.  Other encoders know no such
    H: theirs is in sample.

    Args:
        encoder: trained on these slides.
        slides: all of them, with coordinates.
        cache_dir: cache of embeddings in sample; None computes without one.

    Raises:
        ValueError: as :func:`~spatial_ipa.encoder.out_of_fold.OutOfFold.of`.
    """
    located = [(s, s.xy) for s in slides if s.xy is not None]
    parts = [spatial_blocks(xy) for _, xy in located]
    if not isinstance(encoder.encoder, KernelTrunk):
        return [
            EmbeddedSlide(s.name, embed(encoder, s, "st", cache_dir), xy, fold=fold)
            for (s, xy), fold in zip(located, parts, strict=True)
        ]
    # Numbers that no two slides share, or parts of several slides would be left out together.
    first = np.cumsum([0, *(int(p.max()) + 1 for p in parts)])
    folds = [p + f for p, f in zip(parts, first, strict=False)]
    left_out = OutOfFold.of(encoder, [s for s, _ in located])
    found, alone = left_out.embed(folds), left_out.embed()
    return [
        EmbeddedSlide(s.name, h, xy, known, fold)
        for (s, xy), h, known, fold in zip(located, found, alone, parts, strict=True)
    ]
