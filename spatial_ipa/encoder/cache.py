"""Frozen embeddings of slides, computed once and memory-mapped.

The cache file's name is a hash of the encoder's weights and version and of the slide's expression,
so neither a retrained encoder nor an edited file nor newer code can be served a stale matrix.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files.atomic import atomic_path
from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.frozen import ENCODER_VERSION, EmbeddingKind, FrozenEncoder


def embed(
    encoder: FrozenEncoder, slide: Slide, kind: EmbeddingKind, cache_dir: Path | None
) -> np.ndarray:
    """(n, d) float32 embeddings of a slide or sample, read-only from the cache where there is one.

    Args:
        encoder: the frozen encoder.
        slide: expression; coordinates are not looked at.
        kind: ``st`` or ``scrna``.
        cache_dir: folder of the cache, made if absent; None computes without one.
    """
    if cache_dir is None:
        return encoder.embed(slide, kind)
    key = f"{ENCODER_VERSION},{encoder.weights_hash},{slide.expression_hash},{kind}"
    path = Path(cache_dir) / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, encoder.embed(slide, kind), allow_pickle=False)
    cached: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if cached.shape[0] != len(slide):
        raise UserError(f"{path} holds {cached.shape[0]} rows for {len(slide)} spots; delete it")
    return cached
