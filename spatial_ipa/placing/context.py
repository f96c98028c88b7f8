"""What a trained model needs besides its weights to place new cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from spatial_ipa.confidence.conformal import Calibration
from spatial_ipa.confidence.reference_cells import ReferenceCells
from spatial_ipa.encoder.frozen import FrozenEncoder
from spatial_ipa.layout.charts import Charts
from spatial_ipa.layout.frame_regression import FrameRegression
from spatial_ipa.layout.placement import PlacementMode


@dataclass(frozen=True)
class PlacementContext:
    """How a model was trained and what its training slides are like; kept in its checkpoint.

    Attributes:
        encoder: the frozen encoder; None where features came from elsewhere.
        num_candidates: k of the candidate graph it was trained with.
        size: the largest miniset it was trained on.
        noise_h: the noise on the embeddings it was trained with.
        aspect: aspect ratio of the training slides, their geometric mean; None where unknown.
        reference: training cells by which new ones are judged; in exported checkpoints only.
        calibration: error radii; in exported checkpoints of fits with validation slides only.
        frame: regression of positions that layouts are averaged with; None for none.
    """

    encoder: FrozenEncoder | None
    num_candidates: int
    size: int
    noise_h: float
    aspect: float | None = None
    reference: ReferenceCells | None = None
    calibration: Calibration | None = None
    frame: FrameRegression | None = None

    def mode_for(self, num_cells: int) -> PlacementMode:
        """How ``inference="auto"`` places so many cells: whole up to the trained size."""
        return "whole" if num_cells <= self.size else "stitched"

    def charts_for(self, num_hypotheses: int) -> Charts | None:
        """What gives cells several positions, at most so many; None if one is likelier.

        Raises:
            ValueError: if the model has none.
        """
        if self.frame is None:
            raise UserError(
                f"num_hypotheses={num_hypotheses} needs the common frame of the training slides, "
                "which this model was fitted without (model.init_args.common_frame); set "
                "num_hypotheses to 1"
            )
        return self.frame.charts_for(num_hypotheses)

    def state(self) -> dict[str, Any]:
        """Tensors and plain types only, for ``torch.load(weights_only=True)``."""
        return {
            "encoder": None if self.encoder is None else self.encoder.state(),
            "num_candidates": self.num_candidates,
            "size": self.size,
            "noise_h": self.noise_h,
            "aspect": self.aspect,
            "reference": None if self.reference is None else self.reference.state(),
            "calibration": None if self.calibration is None else self.calibration.state(),
            "frame": None if self.frame is None else self.frame.state(),
        }

    def differences(self, other: PlacementContext) -> list[str]:
        """What ``other`` was trained on otherwise, as ``name: own, not other's``."""
        own, others = (
            {
                "encoder": None if c.encoder is None else c.encoder.weights_hash[:12],
                "num_candidates": c.num_candidates,
                "size_max": c.size,
                "noise_h": c.noise_h,
            }
            for c in (self, other)
        )
        return [
            f"{name}: {value}, not {others[name]}"
            for name, value in own.items()
            if value != others[name]
        ]

    @staticmethod
    def from_state(state: dict[str, Any]) -> PlacementContext:
        """Rebuild what :meth:`state` gave; parts that a checkpoint lacks are None.

        Raises:
            ValueError: if a part is of another version.
        """
        encoder, aspect = state["encoder"], state.get("aspect")
        reference, calibration = state.get("reference"), state.get("calibration")
        frame = state.get("frame")
        return PlacementContext(
            None if encoder is None else FrozenEncoder.from_state(encoder),
            int(state["num_candidates"]),
            int(state["size"]),
            float(state["noise_h"]),
            None if aspect is None else float(aspect),
            None if reference is None else ReferenceCells.from_state(reference),
            None if calibration is None else Calibration.from_state(calibration),
            None if frame is None else FrameRegression.from_state(frame),
        )
