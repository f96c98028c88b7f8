"""Hierarchical conditional VAE over the conformations of a protein.

    condition  c = f(sequence, template), modes of the template
    prior      p(z_g | T) p(shift | T) p(turn | shift, c), with tails drawn as coils
    posterior  q(z | X, T): the motion X − T through noise
    decoder    start = template moved by E[motion | z] -> equivariant layers -> N, CA, C

X is the conformer, T the template: another conformer of the same protein.  How z_global (motion
along the softest modes) and z_local (what remains, shift and turn of each residue) code the motion,
at what rate and under which prior, is :mod:`protein_cvae.model.channel`; nothing else of X reaches
the decoder.  Tails: :mod:`protein_cvae.model.coil`.  Without a template z_global is what an
encoder finds, and the start comes from a perceptron of it and the condition in a pose of its own.

Amino-acid logits come from the decoder's states (``shared``), or from latents of their own
(``separate``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.rng import combined_key, counter_normal, key_of_numbers
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.frames import (
    residue_frames,
    rotation_from_6d,
    rotation_from_axis_angle,
)
from protein_cvae.model.channel import TURN_NOISE, WITHIN, MotionChannel
from protein_cvae.model.coil import CoilPrior
from protein_cvae.model.decoder import EquivariantDecoder
from protein_cvae.model.elastic import normal_modes, refuse_other_latents
from protein_cvae.model.features import (
    ANGSTROM,
    RESIDUE_FEATURES,
    ResidueGraph,
    residue_features,
    residue_graph,
)
from protein_cvae.model.latents import Gaussian, GaussianHead, Latents
from protein_cvae.model.layers import Trunk, masked_mean, perceptron, sinusoidal
from protein_cvae.model.motion import SEEN, displacement, neighbor_shifts
from protein_cvae.model.rate import CLEAN, GENERATED, left_over
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.model.states import Condition, Decoded, Posterior

NUM_AMINO_ACIDS = 20


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
        self.d_global, self.d_embedding = d_global, settings.d_embedding
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

        self.channel = MotionChannel(d_global)
        self.turn_prior = GaussianHead(width + 3 * (1 + len(SEEN)), width, 3)
        nn.init.zeros_(self.turn_prior.mean.weight)
        nn.init.zeros_(self.turn_prior.mean.bias)
        self.coil = CoilPrior(width)

        # Of conformers without template, and of the sequence of the separate design.
        self.structure_in = nn.Sequential(
            nn.Linear(RESIDUE_FEATURES, quarter), nn.LayerNorm(quarter)
        )
        self.encoder_in = nn.Sequential(
            nn.Linear(width + quarter, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.encoder = Trunk(width, settings.layers, heads, feed_forward, dropout)
        self.free_head = GaussianHead(width, width, d_global)
        self.free_prior = GaussianHead(width, width, d_global)
        self.start = perceptron(width + d_global, 2 * width, 3 + 6)

        d_decoder = width + d_global + 3 + 3 + 2
        self.decoder = EquivariantDecoder(
            d_decoder, hidden, settings.decoder_layers, *self.neighbors
        )
        separate = settings.sequence_design == "separate"
        self.sequence_latent = GaussianHead(width, width, quarter) if separate else None
        self.sequence_prior = GaussianHead(width, width, quarter) if separate else None
        self.sequence_head = perceptron(quarter if separate else hidden, width, NUM_AMINO_ACIDS)

        self.register_load_state_dict_pre_hook(refuse_other_latents)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    # -- condition ------------------------------------------------------------------------------

    def condition(self, batch: ProteinBatch) -> Condition:
        """States of sequence and template, and the modes of the template."""
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
        modes = normal_modes(rotation, origin, seen, batch.residue_index, batch.chain_index)
        return Condition(c, masked_mean(c, mask), mask, templated, rotation, origin, modes)

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

    def encode(
        self, batch: ProteinBatch, condition: Condition, level: Tensor | None = None
    ) -> Posterior:
        """The posterior of the conformers of a batch; exactly invariant to their pose.

        ``level`` (B, 2) Å is the noise of both latents; hardly any if omitted.
        """
        mask, templated = condition.mask, condition.templated
        rotation, origin = residue_frames(batch.coordinates, mask)
        seen = mask & templated[:, None]
        shift, turn = displacement(rotation, origin, condition.rotation, condition.origin, seen)
        if level is None:
            level = torch.full((len(batch), 2), CLEAN).to(shift)
        # Nothing is asked of the others; one at least, so that every weight has a gradient and the
        # processes of a training agree on which have.
        wanted = ~templated if self.sequence_latent is None else torch.ones_like(templated)
        rows = wanted.nonzero()[:, 0] if bool(wanted.any()) else templated.nonzero()[:1, 0]
        h, inside = self._encoded(batch, condition, rotation, origin, rows)
        found = self.free_head(masked_mean(h, inside))
        nothing = shift.new_zeros(len(batch), self.d_global)
        free = Gaussian(*(nothing.index_copy(0, rows, x) for x in (found.mean, found.log_var)))
        sequence = None if self.sequence_latent is None else self.sequence_latent(h)
        return Posterior(shift, turn, level, free, sequence)

    def _encoded(
        self,
        batch: ProteinBatch,
        condition: Condition,
        rotation: Tensor,
        origin: Tensor,
        rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The encoder's states of the conformers at ``rows``, and their masks."""
        x, c, mask = (y[rows] for y in (batch.coordinates, condition.c, condition.mask))
        bonded, chain, place = (
            y[rows] for y in (batch.bonded, batch.chain_index, batch.residue_index)
        )
        features = residue_features(x, mask, bonded, chain)
        h = self.encoder_in(torch.cat([c, self.structure_in(features)], dim=-1))
        graph = residue_graph(origin[rows], mask, chain, place, *self.neighbors)
        return self.encoder(h, mask, rotation[rows], origin[rows], graph), mask

    def posterior_mean(self, condition: Condition, posterior: Posterior) -> Latents:
        """The mean of q(z | X, T, sequence)."""
        return self._coded(condition, posterior, None)

    def sample_posterior(
        self, condition: Condition, posterior: Posterior, noise: Latents
    ) -> Latents:
        """A draw from q(z | X, T, sequence); ``noise`` is standard normal (reparameterised)."""
        return self._coded(condition, posterior, noise)

    def _coded(self, condition: Condition, posterior: Posterior, noise: Latents | None) -> Latents:
        parts = posterior.shift, posterior.turn, posterior.level
        z = self.channel.code(condition.modes, *parts, noise)
        free = posterior.free
        free_z = free.mean if noise is None else free.sample(noise.z_global)
        return self._either(condition, z, free_z)

    def _either(self, condition: Condition, z: Latents, free: Tensor) -> Latents:
        """Latents whose z_global is ``free`` where there is no template."""
        z_global = torch.where(condition.templated[:, None], z.z_global, free)
        return Latents(z_global, z.shift, z.turn, z.level)

    def noise(self, batch: ProteinBatch, seed: int, step: int, purpose: int) -> Latents:
        """Standard normal latents; an item's noise depends on itself and these numbers alone."""
        key = combined_key(seed, purpose, step, batch.protein, batch.model)
        length = batch.mask.shape[1]
        dtype = next(self.parameters()).dtype
        # z_global first and residues in order: padding only adds numbers at the end.
        return self._noise(counter_normal(key, self.d_global + length * 6, dtype))

    def _noise(self, drawn: Tensor) -> Latents:
        """Latents of (B, d_global + 6L) numbers."""
        z_global, rest = drawn.tensor_split([self.d_global], dim=1)
        shift, turn = rest.unflatten(1, (-1, 6)).split(3, dim=-1)
        return Latents(z_global, shift, turn, drawn.new_zeros(len(drawn), 2))

    # -- prior ----------------------------------------------------------------------------------

    def prior_free(self, condition: Condition) -> Gaussian:
        """p(z_g | c) where there is no template."""
        return self.free_prior(condition.mean)

    def prior_turn(self, condition: Condition, shift: Tensor) -> Gaussian:
        """p(turn | shift, c) with shift (B, L, 3), Å."""
        around = neighbor_shifts(condition.rotation, shift, condition.mask)
        near = torch.cat([shift, *around], dim=-1)
        near = near / (1 + ANGSTROM * near.norm(dim=-1, keepdim=True))
        return self.turn_prior(torch.cat([condition.c, near], dim=-1))

    def prior_sequence(self, condition: Condition) -> Gaussian | None:
        """p(z_sequence | c) of the ``separate`` design; None in the other."""
        return None if self.sequence_prior is None else self.sequence_prior(condition.c)

    def sample_prior(
        self,
        batch: ProteinBatch,
        condition: Condition,
        noise: Latents,
        temperature: float = 1.0,
        tails: bool = True,
        level: Tensor | None = None,
        within: float = WITHIN,
    ) -> Latents:
        """A draw from p(z | sequence, template): a motion, seen through noise as in training.

        Args:
            batch: whose template is that of ``condition``.
            condition: of the batch.
            noise: standard normal.
            temperature: scales the spread.
            tails: draw tails as coils where the model expects them.
            level: (B, 2) Å, of the noise; if omitted ``GENERATED``, less for a temperature below 1.
            within: share of the amplitude's width over proteins.

        Without gradient to the priors of the motion: still conformers have the best geometry, and
        what is scored of a draw would make it stand still.
        """
        modes = condition.modes
        with torch.no_grad():
            shift = self.channel.draw(modes, noise, temperature, within)
            turn = self.prior_turn(condition, shift).sample(noise.turn, temperature)
        seen = condition.templated[:, None, None] & condition.mask[..., None]
        turn = torch.where(seen, turn, torch.zeros_like(turn))
        if tails and temperature > 0:
            shift, turn = self.coil.with_tails(batch, condition, shift, turn, noise.z_global)
        if level is None:
            least = max(CLEAN, min(temperature, 1.0) * GENERATED)
            level = torch.full_like(noise.level, least)
        key = key_of_numbers(noise.z_global[:, 0], 2)
        count = self.d_global + 6 * shift.shape[1]
        through = self._noise(counter_normal(key, count, shift.dtype)) if temperature > 0 else None
        z = self.channel.code(modes, shift, turn, level, through)
        free = self.prior_free(condition).sample(noise.z_global, temperature)
        return self._either(condition, z, free)

    # -- decoder --------------------------------------------------------------------------------

    def received(self, condition: Condition, z: Latents) -> tuple[Tensor, Tensor]:
        """E[shift | z], (B, L, 3) Å, and E[turn | z, shift], (B, L, 3) radians."""
        shift = self.channel.received(condition.modes, z)
        prior = self.prior_turn(condition, shift)
        variance = prior.log_var.detach().exp()  # fitted by the KL alone, as those of shifts
        noise = (TURN_NOISE * z.level[:, 1, None, None]).square()
        turn = prior.mean + (z.turn - prior.mean) * variance / (variance + noise)
        seen = condition.modes.mask[..., None]
        return shift, torch.where(seen, turn, torch.zeros_like(turn))

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
        templated = condition.templated[:, None, None]
        shift, turn = self.received(condition, latents)
        free = latents.z_global[:, None].expand(-1, length, -1)
        free = torch.where(templated, torch.zeros_like(free), free)
        level = (latents.level.clamp_min(CLEAN) / CLEAN).log()[:, None].expand(-1, length, -1)
        level = torch.where(templated, 0.2 * level, torch.zeros_like(level))
        z = torch.cat([condition.c, free, shift * ANGSTROM, turn, level], dim=-1)

        begun = self.start(torch.cat([condition.c, free], dim=-1))
        free_rotation = rotation_from_6d(begun[..., 3:] + begun.new_tensor([1.0, 0, 0, 0, 1, 0]))
        moved = condition.origin + (condition.rotation @ shift[..., None])[..., 0]
        origin = torch.where(templated, moved, begun[..., :3] / ANGSTROM)
        turned = condition.rotation @ rotation_from_axis_angle(turn)
        rotation = torch.where(templated[..., None], turned, free_rotation)
        coordinates, states = self.decoder(
            z,
            rotation,
            origin,
            left_over(latents.level, condition.templated),
            condition.mask,
            batch.chain_index,
            batch.residue_index,
        )
        if self.sequence_prior is not None:
            states = self.sequence_prior(condition.c).mean
            states = states if sequence_latent is None else sequence_latent
        return Decoded(coordinates, self.sequence_head(states))

    def reconstruct(
        self, batch: ProteinBatch, level: Tensor | None = None, noise: Latents | None = None
    ) -> tuple[Decoded, Posterior, Condition, Latents]:
        """Decode the posterior means of a batch, or a draw where ``noise`` is given.

        Returns:
            What was decoded, and its posterior, condition and latents.
        """
        condition = self.condition(batch)
        posterior = self.encode(batch, condition, level)
        z = self._coded(condition, posterior, noise)
        sequence = None if posterior.sequence is None else posterior.sequence.mean
        return self.decode(batch, condition, z, sequence), posterior, condition, z
