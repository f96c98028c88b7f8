"""Sizes of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from common.errors import UserError

SequenceDesign = Literal["shared", "separate"]
SEQUENCE_DESIGNS = ("shared", "separate")


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of :class:`~protein_cvae.model.network.ProteinCVAE`; checkpoints keep them.

    Attributes:
        d_embedding: width of the given sequence embedding (1280 for ESM-2 650M); 0 learns one from
            the residue type and the position.
        width: of encoder and condition states (512 in the reference).
        layers: Transformer layers of the encoder (6).
        condition_layers: Transformer layers of the conditioner.
        heads: attention heads.
        feed_forward: width of the feed-forward layers (1024).
        dropout: in the encoders.
        d_global: dimensions of z_global, modes of the template that it holds (512 in the reference,
            where 3 were in use).
        hidden: width of the decoder (256).
        decoder_layers: equivariant layers (8).
        chain_neighbors: edges along the sequence (20).
        spatial_neighbors: k of the spatial graphs (30).
        sequence_design: where the amino-acid logits come from: the decoder's states (``shared``) or
            latents of their own (``separate``).

    Raises:
        ValueError: on fewer than one dimension of z_global, or another design.
    """

    d_embedding: int = 0
    width: int = 512
    layers: int = 6
    condition_layers: int = 2
    heads: int = 8
    feed_forward: int = 1024
    dropout: float = 0.1
    d_global: int = 16
    hidden: int = 256
    decoder_layers: int = 8
    chain_neighbors: int = 20
    spatial_neighbors: int = 30
    sequence_design: SequenceDesign = "shared"

    def __post_init__(self) -> None:
        if self.d_global < 1:
            raise UserError(f"d_global must be at least 1, got {self.d_global}")
        if self.sequence_design not in SEQUENCE_DESIGNS:
            raise UserError(
                f"sequence_design must be shared or separate, got {self.sequence_design!r}"
            )

    @staticmethod
    def from_hyperparameters(found: Mapping[str, Any], source: str) -> NetworkSettings:
        """The settings that a checkpoint keeps.

        Args:
            found: its hyperparameters: these settings as a dictionary under ``network``, or, as
                older checkpoints have them, one by one.
            source: the checkpoint, for messages.

        Raises:
            ValueError: if they are of another model.
        """
        names = {field.name for field in fields(NetworkSettings)}
        if "d_local" in found or "d_local" in (found.get("network") or {}):
            raise UserError(
                f"{source} holds a network with other latents (d_local), from before motion was "
                "coded in the modes of the template; train the model anew"
            )
        given = found.get("network", {k: v for k, v in found.items() if k in names})
        if not isinstance(given, Mapping) or not given or not set(given) <= names:
            raise UserError(
                f"{source} does not hold the settings of a ProteinCVAE network; it is a "
                f"checkpoint of {found.get('_class_path', 'an unknown model')}"
            )
        return NetworkSettings(**given)
