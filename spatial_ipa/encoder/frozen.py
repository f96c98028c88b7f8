"""A trained encoder in use: from expression to embeddings H.

``FrozenEncoder`` holds the weights with everything that embedding needs: gene panel, normalisation,
and the split it was trained under (:mod:`spatial_ipa.data.split`).
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from common.errors import MissingFile, UserError
from common.files.atomic import atomic_path
from common.files.identity import tensor_hash
from common.files.outputs import set_aside
from spatial_ipa.data.expression import Expression, Normalisation
from spatial_ipa.data.panels import reindex, rows_with_counts
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.kernel_trunk import KernelTrunk
from spatial_ipa.encoder.network import ScRNAAdapter, SharedEncoder
from spatial_ipa.encoder.slide_features import slide_features

EmbeddingKind = Literal["st", "scrna"]

# Since 2, H of every slide has unit mean variance; since 3, the transform is recorded (before, it
# was the logarithm) and the trunk may be a kernel regression.
ENCODER_VERSION = 3
_READABLE = (2, 3)

_BLOCK_ELEMENTS = 2**24  # numbers held at once: 64 MB

Trunk = SharedEncoder | KernelTrunk


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """A trained encoder that embeds slides and never changes.

    Attributes:
        encoder: the trunk; it gets no gradient any more.
        adapter: in front of the trunk for scRNA-seq; None is the identity.
        panel: genes in the order of the trunk's input.
        split: what it was trained on.
        normalisation: of the counts.
    """

    encoder: Trunk
    adapter: ScRNAAdapter | None
    panel: tuple[str, ...]
    split: Split
    normalisation: Normalisation

    def __post_init__(self) -> None:
        if len(self.panel) != self.encoder.num_genes:
            raise UserError(
                f"the panel has {len(self.panel)} genes, the encoder {self.encoder.num_genes}"
            )
        for module in (self.encoder, self.adapter):
            if module is not None:
                module.eval().requires_grad_(False)

    @property
    def d_out(self) -> int:
        return self.encoder.d_out

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of all parameters and of the preprocessing; the split does not enter."""
        how = [self.panel, self.normalisation.transform, self.normalisation.target_sum]
        return tensor_hash(self._tensors(), json.dumps(how).encode())

    @torch.no_grad()
    def embed(self, slide: Slide, kind: EmbeddingKind) -> np.ndarray:
        """Embed a slide or sample; only its expression is looked at.

        Args:
            slide: counts on any genes; those of the panel that it lacks enter as its mean.
            kind: "st", or "scrna" to go through the adapter.

        Returns:
            (n, d_out) float32 of unit mean variance over rows with counts (:func:`unit_factor`).
            Of the cells that a kernel trunk was fitted to it is far better than of any others:
            see :mod:`spatial_ipa.encoder.out_of_fold`.

        Raises:
            ValueError: on an unknown kind, or if more than half of the panel is missing.
        """
        if kind not in ("st", "scrna"):
            raise UserError(f"kind must be 'st' or 'scrna', got {kind!r}")
        counts, _ = reindex(slide, self.panel)  # read once
        expression = Expression.of_counts(counts, self.normalisation, slide.is_logged)
        device = self.encoder.out_scale.device
        h = torch.empty(len(expression), self.d_out)
        step, start = max(1, _BLOCK_ELEMENTS // self.encoder.row_elements), 0
        for block in expression.blocks(step):
            x = torch.from_numpy(block).to(device)
            if kind == "scrna" and self.adapter is not None:
                x = self.adapter(x)
            h[start : start + len(block)] = self.encoder(x).cpu()
            start += len(block)
        return self.finish(h, expression.filled)

    def finish(self, h: Tensor, filled: np.ndarray) -> np.ndarray:
        """H (n, d_out) of the rows of one slide from what the trunk made of them.

        Args:
            h: (n, d_out) from the trunk.
            filled: (n,) bool, rows with counts.
        """
        if isinstance(self.encoder, KernelTrunk):
            h = slide_features(h, torch.from_numpy(filled), int(self.encoder.smooth))
        return h.mul_(unit_factor(h, filled)).numpy()

    def has_counts(self, slide: Slide) -> np.ndarray:
        """(n,) bool, rows with counts on the panel; of the others nothing is known."""
        return rows_with_counts(slide, self.panel)

    def has_seen(self, slide: Slide) -> bool:
        """Whether it was trained on, or aligned with, this very expression."""
        split = self.split
        seen = (*split.train, *split.scrna, *(split.heldout if split.mode != "inductive" else ()))
        return slide.expression_hash in {identity.expression_hash for identity in seen}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        if self.adapter is not None:
            tensors |= {f"adapter.{k}": v for k, v in self.adapter.state_dict().items()}
        return tensors

    def state(self) -> dict[str, Any]:
        """Tensors, strings and numbers only, for ``torch.load(weights_only=True)``."""
        return {
            "version": ENCODER_VERSION,
            "tensors": {k: v.detach().cpu().clone() for k, v in self._tensors().items()},
            "panel": list(self.panel),
            "transform": self.normalisation.transform,
            "target_sum": self.normalisation.target_sum,
            "split": self.split.to_json(),
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> FrozenEncoder:
        """Rebuild what :meth:`state` gave.

        Raises:
            ValueError: if the state has another version or is damaged.
        """
        version = state.get("version") if isinstance(state, dict) else type(state).__name__
        if version not in _READABLE:
            raise UserError(
                f"not an encoder of version {ENCODER_VERSION} (got {version!r}); train it anew"
            )
        try:
            tensors = state["tensors"]
            encoder = trunk_of(_under(tensors, "encoder."))
            adapter = None
            if "adapter.up" in tensors:
                adapter = ScRNAAdapter(encoder.num_genes, tensors["adapter.up"].shape[1])
                adapter.load_state_dict(_under(tensors, "adapter."))
            return FrozenEncoder(
                encoder,
                adapter,
                tuple(state["panel"]),
                Split.from_json(state["split"]),
                Normalisation(
                    "log" if version == 2 else state["transform"], float(state["target_sum"])
                ),
            )
        except (KeyError, RuntimeError, AttributeError, IndexError) as error:
            raise UserError(f"the encoder's state is damaged: {error}") from error


def unit_factor(h: Tensor, rows: np.ndarray) -> float:
    """The factor that brings h (n, d) to variance 1 over some rows, in the mean over dimensions.

    Directions fitted to some slides vary less on any other: on slides left out the variance of H is
    0.49 (her2st A4) to 0.98 (starmap) of that on the training slides.  Models trained on H would
    see new slides shrunk.  Like the mean, the scale is a property of the slide and is taken out.

    Args:
        h: embeddings.
        rows: (n,) bool, those with counts.

    Returns:
        The factor; 1 where the rows do not differ.
    """
    chosen = h if rows.all() else h[torch.from_numpy(rows)]
    variance = float(chosen.var(0, correction=0).double().mean()) if len(chosen) > 1 else 0.0
    return variance**-0.5 if variance > 0 else 1.0


def save_encoder(encoder: FrozenEncoder, path: str | Path) -> None:
    """Write ``path`` at once: it is the whole encoder or, after a failure, what it was before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(encoder.state(), temporary)


def keep_other(encoder: FrozenEncoder, path: str | Path) -> Path | None:
    """Rename a file at ``path`` that is not ``encoder``; its new name, None if there is none."""
    path = Path(path)
    if not path.exists():
        return None
    try:
        same = load_encoder(path).weights_hash == encoder.weights_hash
    except UserError:
        same = False
    return None if same else set_aside(path)


def load_encoder(path: str | Path) -> FrozenEncoder:
    """Read what :func:`save_encoder` wrote; nothing but tensors and plain types is unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an encoder, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(
            f"encoder {path} does not exist; `lightning fit --config "
            "configs/spatial_ipa/encoder.yaml` makes it"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path} is not an encoder file: {error}") from error
    try:
        return FrozenEncoder.from_state(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def trunk_of(tensors: dict[str, Tensor]) -> Trunk:
    """The trunk whose state dictionary this is."""
    if "coefficients" in tensors:
        return KernelTrunk.like(tensors)
    first, second, third = (tensors[f"{layer}.weight"] for layer in ("first", "second", "third"))
    encoder = SharedEncoder(first.shape[1], third.shape[0], (first.shape[0], second.shape[0]))
    encoder.load_state_dict(tensors)
    return encoder


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
