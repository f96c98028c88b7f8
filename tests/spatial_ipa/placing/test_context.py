"""The placement context and its checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from small_encoders import make_encoder, make_slide

from spatial_ipa.placing.context import PlacementContext


def through_file(context: PlacementContext, path: Path) -> PlacementContext:
    torch.save(context.state(), path)
    return PlacementContext.from_state(torch.load(path, weights_only=True))


def test_context_survives_a_checkpoint(tmp_path: Path) -> None:
    context = PlacementContext(make_encoder(), 80, 384, 0.3, 0.7)
    again = through_file(context, tmp_path / "context.pt")
    assert (again.num_candidates, again.size, again.noise_h, again.aspect) == (80, 384, 0.3, 0.7)
    assert context.encoder is not None
    assert again.encoder is not None
    assert again.encoder.weights_hash == context.encoder.weights_hash
    assert again.encoder.split == context.encoder.split
    for kind in ("st", "scrna"):
        before, after = (c.embed(make_slide(4), kind) for c in (context.encoder, again.encoder))
        assert np.array_equal(before, after)


def test_context_without_encoder_survives(tmp_path: Path) -> None:
    context = PlacementContext(None, 20, 100, 0.0)
    assert through_file(context, tmp_path / "context.pt") == context
