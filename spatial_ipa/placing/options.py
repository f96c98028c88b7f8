"""How cells are placed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import UserError
from spatial_ipa.layout.charts import MAX_CHARTS

InferenceMode = Literal["auto", "whole", "stitched"]


@dataclass(frozen=True)
class PlacementOptions:
    """How cells are placed.

    Attributes:
        inference: ``whole``: one graph over all cells.  ``stitched``: many minisets of the trained
            size, superposed.  ``auto``: whole up to the trained size, stitched above.
        num_draws: layouts averaged; their spread is the uncertainty.
        num_hypotheses: above 1, also return so many weighted positions of every cell, the likelier
            first (:mod:`spatial_ipa.layout.charts`); at most 3.  Nothing else changes.
        write_graph: also return the gate graph over all cells.
        approximate_above: cells above which the candidates of that graph come from an approximate
            search with a recall of 0.95 (needs ``faiss-cpu``); the layout never does.
        seed: of the draws.
        coverage: share of cells whose error radius is to hold their true position.
        abstain_above: radius, in the unit of the coordinates written, above which a cell is
            abstained from; null for the median distance between two random cells of the validation
            slides, in that unit.

    Raises:
        ValueError: on a value out of range.

    Example:
        >>> import spatial_ipa
        >>> spatial_ipa.PlacementOptions(num_draws=32).coverage
        0.9
    """

    inference: InferenceMode = "auto"
    num_draws: int = 16
    num_hypotheses: int = 1
    write_graph: bool = True
    approximate_above: int = 100_000
    seed: int = 0
    coverage: float = 0.9
    abstain_above: float | None = None

    def __post_init__(self) -> None:
        if self.inference not in ("auto", "whole", "stitched"):
            raise UserError(f"inference must be auto, whole or stitched, got {self.inference!r}")
        if self.num_draws < 2:
            raise UserError(f"num_draws must be at least 2 for a spread, got {self.num_draws}")
        if not 1 <= self.num_hypotheses <= MAX_CHARTS:
            raise UserError(
                f"num_hypotheses must lie in [1, {MAX_CHARTS}], got {self.num_hypotheses}"
            )
        if self.approximate_above < 1:
            raise UserError(f"approximate_above must be positive, got {self.approximate_above}")
        if not 0 < self.coverage < 1:
            raise UserError(f"coverage must lie in (0, 1), got {self.coverage}")
        if self.abstain_above is not None and not self.abstain_above > 0:
            raise UserError(f"abstain_above must be positive or null, got {self.abstain_above}")
