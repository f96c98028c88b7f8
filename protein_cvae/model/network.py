"""Hierarchical conditional VAE over the conformations of a protein.

    condition  c = f(sequence, template)                        per residue
    prior      p(z_g | c) p(shift | T) p(turn, detail | shift, z_g, c)
    posterior  q(z_g | X, c) q(shift | X, T) q(turn | X, T) q(detail | X, c)
    decoder    start = template moved by shift and turn -> equivariant layers -> N, CA, C

X is the conformer, T the template: another conformer of the same protein.  shift and turn say how
each residue frame has moved from T after robust superposition, seen in the frames of T; their
posterior means are that motion and only its width is learned.  The prior of shift is a fixed
elastic network of the template (:mod:`protein_cvae.model.elastic`), that of the others is
independent given the shifts of the residues around.  Without a template the start comes from a
perceptron of latents and condition in a pose of its own, and shift and turn do not exist.

Amino-acid logits come from the latents (``direct``, the default), from the decoder's states
(``shared``), or from latents of their own (``separate``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.frames import (
    residue_frames,
    rotation_from_6d,
    rotation_from_axis_angle,
)
from protein_cvae.model.decoder import EquivariantDecoder
from protein_cvae.model.elastic import ElasticNetwork, elastic_network
from protein_cvae.model.features import (
    ANGSTROM,
    RESIDUE_FEATURES,
    ResidueGraph,
    residue_features,
    residue_graph,
)
from protein_cvae.model.latents import Gaussian, GaussianHead, Latents, bounded
from protein_cvae.model.layers import Trunk, perceptron, sinusoidal
from protein_cvae.model.motion import displacement

SequenceDesign = Literal["direct", "shared", "separate"]
NUM_AMINO_ACIDS = 20
# Start of log σ² of the shift: 0.1 Å.
_SHIFT_LOG_VAR = -4.6
# Start of log σ² of the turn: 0.1 rad.
_TURN_LOG_VAR = -4.6
# Residues along the chain whose shifts the prior of turn and detail sees.
_SEEN = (-3, -2, -1, 1, 2, 3)


@dataclass(frozen=True)
class Condition:
    """What is known before the conformer: sequence and template.

    Attributes:
        c: (B, L, C) states.
        mean: (B, C) their mean over present residues.
        mask: (B, L) residues that are modelled.
        templated: (B,) bool, a template is given.
        rotation, origin: (B, L, 3, 3), (B, L, 3) frames of the template, Å.
        network: prior of the shift, over templated items (of others it is the identity).
    """

    c: Tensor
    mean: Tensor
    mask: Tensor
    templated: Tensor
    rotation: Tensor
    origin: Tensor
    network: ElasticNetwork


@dataclass(frozen=True)
class Posterior:
    """q(z | X, T, sequence); ``shift_log_var`` is (B, L), ``sequence`` of the separate design."""

    z_global: Gaussian
    shift: Tensor
    shift_log_var: Tensor
    turn: Gaussian
    detail: Gaussian
    sequence: Gaussian | None

    def mean(self) -> Latents:
        return Latents(self.z_global.mean, self.shift, self.turn.mean, self.detail.mean)


@dataclass(frozen=True)
class LocalPrior:
    """p(turn, detail | shift, z_g, c)."""

    turn: Gaussian
    detail: Gaussian


@dataclass(frozen=True)
class Decoded:
    """Attributes:

    coordinates: (B, L, 3, 3) N, CA, C, Å.
    logits: (B, L, 20).
    """

    coordinates: Tensor
    logits: Tensor


class ProteinCVAE(nn.Module):
    """The model; see the module's docstring.

    Args:
        d_embedding: width of the given sequence embedding (1280 for ESM-2 650M); 0 learns one from
            the residue type and the position.
        width: of encoder and condition states (512 in the reference).
        layers: Transformer layers of the encoder (6).
        condition_layers: Transformer layers of the conditioner.
        heads: attention heads.
        feed_forward: width of the feed-forward layers (1024).
        dropout: in the encoders.
        d_global: dimensions of z_global (512).
        d_local: dimensions of z_local, shift and turn included (256).
        hidden: width of the decoder (256).
        decoder_layers: equivariant layers (8).
        chain_neighbors: edges along the sequence (20).
        spatial_neighbors: k of the spatial graphs (30).
        sequence_design: where the amino-acid logits come from.
    """

    def __init__(
        self,
        d_embedding: int = 0,
        width: int = 512,
        layers: int = 6,
        condition_layers: int = 2,
        heads: int = 8,
        feed_forward: int = 1024,
        dropout: float = 0.1,
        d_global: int = 512,
        d_local: int = 256,
        hidden: int = 256,
        decoder_layers: int = 8,
        chain_neighbors: int = 20,
        spatial_neighbors: int = 30,
        sequence_design: SequenceDesign = "direct",
    ) -> None:
        super().__init__()
        if d_local <= 6:
            raise UserError(f"d_local holds 6 numbers of shift and turn and more, got {d_local}")
        if sequence_design not in ("direct", "shared", "separate"):
            raise UserError(
                f"sequence_design must be direct, shared or separate, got {sequence_design!r}"
            )
        detail = d_local - 6
        self.width, self.d_embedding = width, d_embedding
        self.d_global, self.d_detail = d_global, detail
        self.neighbors = chain_neighbors, spatial_neighbors
        self.sequence_design: SequenceDesign = sequence_design

        # 21 learned rows, X among them; the last stands for a withheld sequence.
        self.residue = nn.Embedding(22, width // 2)
        self.embedding = nn.Linear(d_embedding, width // 2) if d_embedding else None
        quarter = width // 4
        self.template_in = nn.Sequential(
            nn.Linear(RESIDUE_FEATURES, quarter), nn.LayerNorm(quarter)
        )
        self.no_template = nn.Parameter(torch.zeros(quarter))
        self.condition_in = nn.Sequential(
            nn.Linear(width // 2 + quarter, width), nn.LayerNorm(width), nn.GELU()
        )
        self.conditioner = Trunk(width, condition_layers, heads, feed_forward, dropout)

        self.structure_in = nn.Sequential(
            nn.Linear(RESIDUE_FEATURES, quarter), nn.LayerNorm(quarter)
        )
        self.change_in = nn.Sequential(nn.Linear(3 + 1 + 3, quarter), nn.LayerNorm(quarter))
        self.encoder_in = nn.Sequential(
            nn.Linear(width + 2 * quarter, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.encoder = Trunk(width, layers, heads, feed_forward, dropout)
        self.global_head = GaussianHead(width, width, d_global)
        self.detail_head = GaussianHead(width + 3, width, detail)
        self.shift_log_var = nn.Linear(width, 1)
        self.turn_log_var = nn.Linear(width, 3)
        for layer, start in (
            (self.shift_log_var, _SHIFT_LOG_VAR),
            (self.turn_log_var, _TURN_LOG_VAR),
        ):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, start)

        self.global_prior = GaussianHead(width, width, d_global)
        self.detail_prior = GaussianHead(width + d_global + 3 * len(_SEEN), width, detail)
        self.turn_prior = GaussianHead(width + d_global + 3 * len(_SEEN), width, 3)
        nn.init.zeros_(self.turn_prior.mean.weight)
        nn.init.zeros_(self.turn_prior.mean.bias)

        d_decoder = width + d_global + detail
        self.start = perceptron(d_decoder, 2 * width, 3 + 6)
        self.decoder = EquivariantDecoder(
            d_decoder, hidden, decoder_layers, chain_neighbors, spatial_neighbors
        )
        d_sequence = {"direct": d_global + 6 + detail, "shared": hidden, "separate": width // 4}
        separate = sequence_design == "separate"
        self.sequence_latent = GaussianHead(width, width, quarter) if separate else None
        self.sequence_prior = GaussianHead(width, width, quarter) if separate else None
        self.sequence_head = perceptron(d_sequence[sequence_design], width, NUM_AMINO_ACIDS)

        self.register_load_state_dict_pre_hook(_refuse_learned_network)

    # -- condition ------------------------------------------------------------------------------

    def condition(self, batch: ProteinBatch) -> Condition:
        """States of sequence and template, and the elastic network of the template."""
        templated = batch.template_mask.any(1)
        # A residue that the template lacks has no start: it is left out.
        mask = batch.mask & (batch.template_mask | ~templated[:, None])
        seen = mask & templated[:, None]
        rotation, origin = residue_frames(batch.template, seen)
        features = residue_features(batch.template, seen, batch.bonded, batch.chain_index)
        known = self.template_in(features)
        known = torch.where(seen[..., None], known, self.no_template.expand_as(known))
        h = self.condition_in(torch.cat([self._sequence(batch), known], dim=-1))
        h = h + sinusoidal(batch.residue_index, self.width, h.dtype)
        graph = self._graph(origin, seen, batch)
        c = self.conditioner(h, mask, rotation, origin, graph)
        network = elastic_network(rotation, origin, seen, batch.residue_index, batch.chain_index)
        return Condition(c, masked_mean(c, mask), mask, templated, rotation, origin, network)

    def _sequence(self, batch: ProteinBatch) -> Tensor:
        given = batch.sequence_mask[:, None]
        states = self.residue(torch.where(given, batch.aatype, torch.full_like(batch.aatype, 21)))
        if self.embedding is not None:
            if batch.embedding.shape[-1] != self.d_embedding:
                raise UserError(
                    f"the model was built for sequence embeddings of width {self.d_embedding}, "
                    f"the batch has width {batch.embedding.shape[-1]}; give the data module the "
                    "embedder that the model was trained with"
                )
            embedded = self.embedding(batch.embedding.to(states))
            states = states + torch.where(given[..., None], embedded, torch.zeros_like(embedded))
        return states

    def _graph(self, origin: Tensor, mask: Tensor, batch: ProteinBatch) -> ResidueGraph:
        return residue_graph(origin, mask, batch.chain_index, batch.residue_index, *self.neighbors)

    # -- posterior ------------------------------------------------------------------------------

    def encode(self, batch: ProteinBatch, condition: Condition) -> Posterior:
        """The posterior of the conformers of a batch; exactly invariant to their pose."""
        mask, templated = condition.mask, condition.templated
        rotation, origin = residue_frames(batch.coordinates, mask)
        seen = mask & templated[:, None]
        shift, turn = displacement(rotation, origin, condition.rotation, condition.origin, seen)
        size = (shift.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        change = torch.cat([shift / (1 + 0.3 * size), size.log1p(), turn], dim=-1)
        features = residue_features(batch.coordinates, mask, batch.bonded, batch.chain_index)
        h = self.encoder_in(
            torch.cat([condition.c, self.structure_in(features), self.change_in(change)], dim=-1)
        )
        graph = self._graph(origin, mask, batch)
        h = self.encoder(h, mask, rotation, origin, graph)
        detail = self.detail_head(torch.cat([h, shift / (1 + 0.3 * size)], dim=-1))
        return Posterior(
            z_global=self.global_head(masked_mean(h, mask)),
            shift=shift,
            shift_log_var=bounded(self.shift_log_var(h)[..., 0]),
            turn=Gaussian(turn, bounded(self.turn_log_var(h))),
            detail=detail,
            sequence=None if self.sequence_latent is None else self.sequence_latent(h),
        )

    # -- prior ----------------------------------------------------------------------------------

    def prior_global(self, condition: Condition) -> Gaussian:
        return self.global_prior(condition.mean)

    def prior_shift(self, condition: Condition, z_global: Tensor) -> Tensor:
        """(B, L, 3) mean of p(shift | z_g, c), Å: 0, which is the template itself.

        A learned mean moved proteins not seen in training by twice their RMSF.
        """
        return z_global.new_zeros(*condition.mask.shape, 3)

    def prior_local(self, condition: Condition, z_global: Tensor, shift: Tensor) -> LocalPrior:
        """p(turn, detail | shift, z_g, c) with z_global (B, G) and shift (B, L, 3), Å."""
        moved = (condition.rotation @ shift[..., None])[..., 0]  # (B, L, 3), one system for all
        length = shift.shape[1]
        place = torch.arange(length, device=shift.device)
        around = []
        for step in _SEEN:
            other = (place + step).clamp(0, length - 1)
            there = condition.mask[:, other] & (place == other - step) & condition.mask
            gap = torch.where(there[..., None], moved[:, other] - moved, torch.zeros_like(moved))
            around.append((gap[..., None, :] @ condition.rotation)[..., 0, :])
        states = torch.cat([self._given(condition, z_global), *around], dim=-1)
        return LocalPrior(self.turn_prior(states), self.detail_prior(states))

    def prior_sequence(self, condition: Condition) -> Gaussian | None:
        """p(z_sequence | c) of the ``separate`` design; None in the other designs."""
        return None if self.sequence_prior is None else self.sequence_prior(condition.c)

    def _given(self, condition: Condition, z_global: Tensor) -> Tensor:
        wide = z_global[:, None].expand(-1, condition.c.shape[1], -1)
        return torch.cat([condition.c, wide], dim=-1)

    # -- decoder --------------------------------------------------------------------------------

    def decode(
        self,
        batch: ProteinBatch,
        condition: Condition,
        latents: Latents,
        sequence_latent: Tensor | None = None,
    ) -> Decoded:
        """Coordinates and amino-acid logits of latents.

        With a template the result is in its pose; without one, in a pose of its own.
        """
        length = condition.c.shape[1]
        given = latents.z_global[:, None].expand(-1, length, -1)
        z = torch.cat([condition.c, given, latents.detail], dim=-1)
        free = self.start(z)
        free_rotation = rotation_from_6d(free[..., 3:] + free.new_tensor([1.0, 0, 0, 0, 1, 0]))
        moved = (condition.rotation @ latents.shift[..., None])[..., 0]
        templated = condition.templated[:, None]
        origin = torch.where(
            templated[..., None], condition.origin + moved, free[..., :3] / ANGSTROM
        )
        turned = condition.rotation @ rotation_from_axis_angle(latents.turn)
        rotation = torch.where(templated[..., None, None], turned, free_rotation)
        coordinates, states = self.decoder(
            z, rotation, origin, condition.mask, batch.chain_index, batch.residue_index
        )
        if self.sequence_design == "direct":
            local = [latents.shift * ANGSTROM, latents.turn, latents.detail]
            logits = self.sequence_head(torch.cat([given, *local], dim=-1))
        elif self.sequence_design == "shared":
            logits = self.sequence_head(states)
        else:
            if sequence_latent is None:
                raise UserError("the separate sequence design needs sequence_latent")
            logits = self.sequence_head(sequence_latent)
        return Decoded(coordinates, logits)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, L, C) over the residues of (B, L) that are present -> (B, C)."""
    weight = mask.to(x)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)


def _refuse_learned_network(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: dict[str, object],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    old = [k for k in state_dict if k.startswith((f"{prefix}elastic.", f"{prefix}shift_prior."))]
    if old:
        raise UserError(
            f"the checkpoint holds {old[0]} and {len(old) - 1} more weights of a learned prior of "
            "the shifts, expected none: the prior is now the fixed elastic network of "
            "protein_cvae/model/elastic.py; train the model anew"
        )
