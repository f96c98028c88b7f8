"""The cache of embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_encoders import D, make_encoder, make_slide

from spatial_ipa.data.slide import Slide
from spatial_ipa.encoder.cache import embed
from spatial_ipa.encoder.frozen import FrozenEncoder


class Counting:
    """Stands where the encoder's ``embed`` was, and counts its calls."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        self.inner, self.calls = encoder.embed, 0

    def __call__(self, slide: Slide, kind: str) -> np.ndarray:
        self.calls += 1
        return self.inner(slide, kind)  # type: ignore[arg-type]


def test_cache_computes_once(tmp_path: Path) -> None:
    encoder, slide = make_encoder(), make_slide(1)
    wanted = encoder.embed(slide, "st")
    counting = Counting(encoder)
    object.__setattr__(encoder, "embed", counting)
    for _ in range(3):
        found = embed(encoder, slide, "st", tmp_path / "deep" / "cache")
        assert np.array_equal(found, wanted)
        assert not found.flags.writeable
    assert counting.calls == 1
    assert [p.suffix for p in (tmp_path / "deep" / "cache").iterdir()] == [".npy"]


def test_cache_tells_weights_expression_and_kind_apart(tmp_path: Path) -> None:
    for encoder in (make_encoder(0), make_encoder(1)):
        for slide in (make_slide(1), make_slide(2)):
            for kind in ("st", "scrna"):
                found = embed(encoder, slide, kind, tmp_path)
                assert np.array_equal(found, encoder.embed(slide, kind))
    assert len(list(tmp_path.iterdir())) == 8
    renamed = replace(make_slide(1), name="other")
    embed(make_encoder(0), renamed, "st", tmp_path)
    assert len(list(tmp_path.iterdir())) == 8


def test_cache_of_older_code_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(encoder := make_encoder())
    object.__setattr__(encoder, "embed", counting)
    embed(encoder, make_slide(1), "st", tmp_path)
    monkeypatch.setattr("spatial_ipa.encoder.cache.ENCODER_VERSION", 10_000)
    embed(encoder, make_slide(1), "st", tmp_path)
    assert counting.calls == 2


def test_no_cache_folder_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = embed(make_encoder(), make_slide(1), "st", None)
    assert np.array_equal(found, make_encoder().embed(make_slide(1), "st"))
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    """Whether the encoder or the writing fails: the next call starts from nothing."""
    encoder = make_encoder()

    def fail(slide: Slide, kind: str) -> np.ndarray:
        raise RuntimeError("out of memory")

    whole = encoder.embed
    object.__setattr__(encoder, "embed", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        embed(encoder, make_slide(1), "st", tmp_path)
    assert not list(tmp_path.iterdir())
    object.__setattr__(encoder, "embed", whole)
    assert len(embed(encoder, make_slide(1), "st", tmp_path)) == 30


def test_a_file_with_other_rows_is_refused(tmp_path: Path) -> None:
    embed(make_encoder(), make_slide(1), "st", tmp_path)
    (path,) = tmp_path.iterdir()
    np.save(path, np.zeros((29, D), np.float32))
    with pytest.raises(ValueError, match="holds 29 rows for 30 spots; delete it"):
        embed(make_encoder(), make_slide(1), "st", tmp_path)
