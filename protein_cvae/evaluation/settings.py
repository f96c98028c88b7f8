"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError
from protein_cvae.model.rate import SILENT


@dataclass(frozen=True)
class EvaluationSettings:
    """How a trained model is judged; see :mod:`protein_cvae.evaluation.score_protein`.

    Attributes:
        count: conformers generated in each mode, per protein.
        bandwidth: of the draws over an ensemble, in [0, 1].
        temperature: factor on the spread of the draws.
        noise: s of both latents where held-out models are reconstructed, Å.
        rates: s of the points of the rate-distortion curve, Å; none for no curve.
        threshold: RMSD below which a real model counts as covered, Å.
        chunk: conformers decoded at once; bounds the memory, not the result.
        figures: proteins of each group (known, unseen) that get figures and whose latents are
            moved one by one; 0 for none at all.
        seed: of the draws.
        output: folder of evaluation.md, lines of JSON and figures/; null for "evaluation" in
            the log folder.

    Raises:
        ValueError: on a number out of range.
    """

    count: int = 100
    bandwidth: float = 0.5
    temperature: float = 1.0
    noise: float = 0.2
    rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    threshold: float = 1.0
    chunk: int = 32
    figures: int = 8
    seed: int = 0
    output: str | None = None

    def __post_init__(self) -> None:
        if self.count < 2 or self.chunk < 1 or self.figures < 0:
            raise UserError(
                "evaluation: expected count >= 2, chunk >= 1 and figures >= 0, got "
                f"{self.count}, {self.chunk} and {self.figures}"
            )
        if not all(0 < s <= SILENT for s in (self.noise, *self.rates)):
            raise UserError(
                f"evaluation: noise and rates must lie in (0, {SILENT}] Å, got {self.noise} and "
                f"{self.rates}"
            )
        if not 0 <= self.bandwidth <= 1 or self.temperature <= 0 or self.threshold <= 0:
            raise UserError(
                "evaluation: expected bandwidth in [0, 1], positive temperature and threshold, "
                f"got {self.bandwidth}, {self.temperature} and {self.threshold}"
            )
