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

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.rng import combined_key, counter_normal
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.frames import (
    residue_frames,
    rotation_from_6d,
    rotation_from_axis_angle,
)
from protein_cvae.model.decoder import EquivariantDecoder
from protein_cvae.model.elastic import elastic_network, refuse_learned_network
from protein_cvae.model.features import (
    ANGSTROM,
    RESIDUE_FEATURES,
    ResidueGraph,
    residue_features,
    residue_graph,
)
from protein_cvae.model.latents import Gaussian, GaussianHead, Latents, bounded
from protein_cvae.model.layers import Trunk, masked_mean, perceptron, sinusoidal
from protein_cvae.model.motion import SEEN, displacement, neighbor_shifts
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.model.states import Condition, Decoded, LocalPrior, Posterior

NUM_AMINO_ACIDS = 20
# Start of log σ² of the shift: 0.1 Å.
_SHIFT_LOG_VAR = -4.6
# Start of log σ² of the turn: 0.1 rad.
_TURN_LOG_VAR = -4.6


class ProteinCVAE(nn.Module):
    """The network and its verbs: condition, encode, sample, decode; see the module's docstring.

    Args:
        settings: its sizes.
    """

    def __init__(self, settings: NetworkSettings = NetworkSettings()) -> None:
        super().__init__()
        self.settings = settings
        width, heads, feed_forward = settings.width, settings.heads, settings.feed_forward
        dropout, d_global, hidden = settings.dropout, settings.d_global, settings.hidden
        detail, self.d_embedding = settings.d_local - 6, settings.d_embedding
        self.d_global, self.d_detail = d_global, detail
        self.neighbors = settings.chain_neighbors, settings.spatial_neighbors

        # 21 learned rows, X among them; the last stands for a withheld sequence.
        self.residue = nn.Embedding(22, width // 2)
        self.embedding = (
            nn.Linear(settings.d_embedding, width // 2) if settings.d_embedding else None
        )
        quarter = width // 4
        self.template_in = nn.Sequential(
            nn.Linear(RESIDUE_FEATURES, quarter), nn.LayerNorm(quarter)
        )
        self.no_template = nn.Parameter(torch.zeros(quarter))
        self.condition_in = nn.Sequential(
            nn.Linear(width // 2 + quarter, width), nn.LayerNorm(width), nn.GELU()
        )
        self.conditioner = Trunk(width, settings.condition_layers, heads, feed_forward, dropout)

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
        self.encoder = Trunk(width, settings.layers, heads, feed_forward, dropout)
        self.global_head = GaussianHead(width, width, d_global)
        self.detail_head = GaussianHead(width + 3, width, detail)
        self.shift_log_var = nn.Linear(width, 1)
        self.turn_log_var = nn.Linear(width, 3)
        starts = {self.shift_log_var: _SHIFT_LOG_VAR, self.turn_log_var: _TURN_LOG_VAR}
        for layer, start in starts.items():
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, start)

        self.global_prior = GaussianHead(width, width, d_global)
        self.detail_prior = GaussianHead(width + d_global + 3 * len(SEEN), width, detail)
        self.turn_prior = GaussianHead(width + d_global + 3 * len(SEEN), width, 3)
        nn.init.zeros_(self.turn_prior.mean.weight)
        nn.init.zeros_(self.turn_prior.mean.bias)

        d_decoder = width + d_global + detail
        self.start = perceptron(d_decoder, 2 * width, 3 + 6)
        self.decoder = EquivariantDecoder(
            d_decoder, hidden, settings.decoder_layers, *self.neighbors
        )
        d_sequence = {"direct": d_global + 6 + detail, "shared": hidden, "separate": width // 4}
        separate = settings.sequence_design == "separate"
        self.sequence_latent = GaussianHead(width, width, quarter) if separate else None
        self.sequence_prior = GaussianHead(width, width, quarter) if separate else None
        self.sequence_head = perceptron(
            d_sequence[settings.sequence_design], width, NUM_AMINO_ACIDS
        )

        self.register_load_state_dict_pre_hook(refuse_learned_network)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

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
        h = h + sinusoidal(batch.residue_index, self.settings.width, h.dtype)
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

    def sample_posterior(self, posterior: Posterior, noise: Latents) -> Latents:
        """A draw from q(z | X, T, sequence); ``noise`` is standard normal (reparameterised)."""
        sd = (0.5 * posterior.shift_log_var).exp()[..., None]
        return Latents(
            posterior.z_global.sample(noise.z_global),
            posterior.shift + sd * noise.shift,
            posterior.turn.sample(noise.turn),
            posterior.detail.sample(noise.detail),
        )

    def noise(self, batch: ProteinBatch, seed: int, step: int, purpose: int) -> Latents:
        """Standard normal latents; an item's noise depends on itself and these numbers alone."""
        key = combined_key(seed, purpose, step, batch.protein, batch.model)
        b, length = batch.mask.shape
        dtype = next(self.parameters()).dtype
        # z_global first and residues in order: padding only adds numbers at the end.
        drawn = counter_normal(key, self.d_global + length * (6 + self.d_detail), dtype)
        local = drawn[:, self.d_global :].view(b, length, 6 + self.d_detail)
        parts = local.split([3, 3, self.d_detail], dim=-1)
        return Latents(drawn[:, : self.d_global], *parts)

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
        around = neighbor_shifts(condition.rotation, shift, condition.mask)
        states = torch.cat([self._given(condition, z_global), *around], dim=-1)
        return LocalPrior(self.turn_prior(states), self.detail_prior(states))

    def prior_sequence(self, condition: Condition) -> Gaussian | None:
        """p(z_sequence | c) of the ``separate`` design; None in the other designs."""
        return None if self.sequence_prior is None else self.sequence_prior(condition.c)

    def sample_prior(
        self, condition: Condition, noise: Latents, temperature: float = 1.0
    ) -> Latents:
        """A draw from p(z | sequence, template); ``temperature`` scales its spread."""
        z_global = self.prior_global(condition).sample(noise.z_global, temperature)
        shift = self.prior_shift(condition, z_global)
        shift = shift + temperature * condition.network.sample(noise.shift)
        prior = self.prior_local(condition, z_global, shift)
        return Latents(
            z_global,
            shift,
            prior.turn.sample(noise.turn, temperature),
            prior.detail.sample(noise.detail, temperature),
        )

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

        With a template the result is in its pose; without one, in a pose of its own.  The separate
        design takes its prior's mean where ``sequence_latent`` is None.
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
        design = self.settings.sequence_design
        if design == "direct":
            local = [latents.shift * ANGSTROM, latents.turn, latents.detail]
            states = torch.cat([given, *local], dim=-1)
        elif design == "separate":
            prior = self.prior_sequence(condition)
            assert prior is not None, "the separate design has it"
            states = prior.mean if sequence_latent is None else sequence_latent
        return Decoded(coordinates, self.sequence_head(states))

    def reconstruct(self, batch: ProteinBatch) -> tuple[Decoded, Posterior, Condition]:
        """Decode the posterior means of a batch."""
        condition = self.condition(batch)
        posterior = self.encode(batch, condition)
        sequence = None if posterior.sequence is None else posterior.sequence.mean
        return self.decode(batch, condition, posterior.mean(), sequence), posterior, condition
