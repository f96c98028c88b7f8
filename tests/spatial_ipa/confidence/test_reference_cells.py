"""What training cells say about new ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spatial_ipa.confidence.reference_cells import MAX_CELLS, MAX_SLIDES, ReferenceCells
from spatial_ipa.data.slide import EmbeddedSlide


def embedded(name: str, n: int = 150, seed: int = 0, fold: bool = False) -> EmbeddedSlide:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2))
    seen = np.stack([np.abs(xy[:, 0]), xy[:, 1]], 1) if fold else xy
    h = np.concatenate([2 * seen, 0.05 * rng.standard_normal((n, 6))], 1)
    return EmbeddedSlide(name, h.astype(np.float32), (50 * xy + 9).astype(np.float32))


def test_evidence_about_cells_like_those_of_training() -> None:
    reference = ReferenceCells.sample([embedded("a"), embedded("b", seed=1)])
    new = embedded("c", seed=2).h
    plain = reference.judge(new)
    assert np.median(plain.novelty) == pytest.approx(1, abs=0.15)
    assert plain.ambiguity.max() < 0.6
    assert plain.multimodal.mean() < 0.05
    assert (reference.judge(new + 5).novelty > 3).all()
    folded = ReferenceCells.sample([embedded("a", fold=True), embedded("b", seed=1, fold=True)])
    found = folded.judge(embedded("c", seed=2, fold=True).h)
    far = found.ambiguity > 0.7  # cells on the fold are where they are
    assert 0.3 < far.mean() < 0.9
    assert found.multimodal[far].mean() > 0.7


def test_ambiguity_of_uninformative_embeddings_is_one() -> None:
    rng = np.random.default_rng(0)
    slides = [
        replace(embedded(name, 400, seed), h=rng.standard_normal((400, 8)).astype(np.float32))
        for seed, name in enumerate("ab")
    ]
    found = ReferenceCells.sample(slides).judge(rng.standard_normal((500, 8)))
    assert np.sqrt((found.ambiguity**2).mean()) == pytest.approx(1, abs=0.03)


def test_reference_is_bounded_and_deterministic() -> None:
    slides = [embedded(f"s{i}", 30, i) for i in range(20)] + [embedded("big", 700)]
    reference = ReferenceCells.sample(slides)
    assert len(reference.names) == MAX_SLIDES
    assert reference.names == ReferenceCells.sample(slides).names
    (big,) = ReferenceCells.sample([slides[-1]]).h
    assert len(big) == MAX_CELLS
    assert len(np.unique(big, axis=0)) == MAX_CELLS


def test_reference_refuses() -> None:
    with pytest.raises(ValueError, match="slides is empty"):
        ReferenceCells.sample([])
    with pytest.raises(ValueError, match="slide tiny has 20 cells; at least 21"):
        ReferenceCells.sample([embedded("tiny", 20)])
    with pytest.raises(ValueError, match=r"h must have shape \(n, 8\), got \(5, 3\)"):
        ReferenceCells.sample([embedded("a")]).judge(np.zeros((5, 3)))
