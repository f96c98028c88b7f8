"""The channel that motion passes through to the decoder: a conformer seen through noise.

A conformer has moved from its template by shifts w (L, 3) and turns t (L, 3) of its residues
(:mod:`protein_cvae.model.motion`).  The latents are what is left of them under noise of s Å,

    z_g = (U_gᵀ w + s_g ε) / σ_g,   z_l = (1 − U_g U_gᵀ)(w + s_l ε),   z_t = t + κ s_l ε,

with U_g the softest modes of the template and σ_g their standard deviations in the elastic network
(:mod:`protein_cvae.model.elastic`).  So z_global holds the collective motion in few numbers that
mean the same on every protein, and z_local what remains at each residue.  The prior of the
coefficient b_k = u_kᵀ w of mode k is a mixture of scales, which has heavy tails (Andrews and
Mallows 1974),

    p(b_k | a) = Σ_m π_km N(0, v_km),   v_km = e^{2 τ a + 2 o_m} σ_k²,   a ~ N(α_L, β²),
    α_L = α + α' log(L / 100),

π, α, α' and β learned, o_m fixed, log(L / 100) cut where little is known; so that of z_k is
Σ_m π_km N(0, v_km + s²), and

    KL = E_q Σ_k [log N(z_k; b_k, s²) − log p(z_k | a)] + ½ (a − α_L)² / β² + log β

is taken at the draw, with the most probable amplitude a in place of its posterior.  This is the
information on the motion that passes, in nats: none for s → ∞ (for one scale, the rate of a
Gaussian source at the distortion v s² / (v + s²); Cover and Thomas 2006, §10.3).  The decoder
starts from the mean motion,

    E[b_k | z_k] = Σ_m r_km v_km / (v_km + s²) z_k,   r_km ∝ π_km N(z_k; 0, v_km + s²),

(Wiener's filter of each scale), and removes what noise it can.  The filter follows from the prior,
which is fitted by the KL alone: errors of decoded conformers, taken into account there, too, would
widen it until less was removed than there is.

Draws are made of the same mixture at amplitudes a ~ N(α_L + δ, (0.6 β)²).  β is the width over
proteins, conformers of one differ by 0.2 to 0.4 of it; and α is that of all residues, so that
tails, which are drawn by other means, decide it: with δ = 0 the core of known families was 1.7
times as wide as it is.  δ is learned from how far the ordered core C of a known protein moves,

    ½ (log m(w) − log E m(w'))²,   m(w) = Σ_{i ∈ C} |w_i|²,   w' drawn,
    E m(w') = e^{2 τ (α_L + δ) + 2 (0.6 τ β)²} Σ_k Σ_{i ∈ C} |u_ki|² Σ_m π_km e^{2 o_m} σ_k².

π depends on how soft and how collective a mode is among those of its protein (Brüschweiler 1995),
on how loose the residues are that it moves, and on nothing that would tell proteins apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.rng import counter_normal, key_of_numbers, uniform_of_normal
from protein_cvae.model.elastic import AMPLITUDE, NUM_FEATURES, NormalModes
from protein_cvae.model.latents import Latents
from protein_cvae.model.scales import AMPLITUDE_RANGE, Scales, most_probable_amplitude

# κ, radians per Å: noise of a turn beside that of a shift.
TURN_NOISE = 1.0
WITHIN = 0.6
"""Share of β in the amplitudes of draws."""
_SPECTRUM_HIDDEN = 16
# o_m, and the logits of π_m before training: hardly more than the law itself.
_OFFSETS = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
_START = (-6.0, -3.0, 0.0, -3.0, -6.0, -9.0, -12.0)
# What is learned of the amplitude counts in these, so that equal steps lead there as soon as to π.
_UNIT = 4.0
# log(L / 100) is cut at these, about 20 and 250 residues: beyond them nothing was learned.
_LENGTHS = (-1.6, 0.9)
_STILL = 1e-6  # Å²


class MotionChannel(nn.Module):
    """Codes motion, and gives back its mean given the latents; see the module's equations.

    Args:
        d_global: modes in z_global; of a protein with fewer the rest is 0.
    """

    def __init__(self, d_global: int) -> None:
        super().__init__()
        self.d_global = d_global
        last = nn.Linear(_SPECTRUM_HIDDEN, len(_OFFSETS))
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(torch.tensor(_START))
        self.spectrum = nn.Sequential(nn.Linear(NUM_FEATURES, _SPECTRUM_HIDDEN), nn.GELU(), last)
        self.amplitude = nn.Parameter(torch.zeros(3))  # α, log β, α' in units of _UNIT
        self.wider = nn.Parameter(torch.zeros(()))  # δ in units of _UNIT

    def scales(self, modes: NormalModes) -> Scales:
        """The prior of each mode at a = 0."""
        offsets = modes.variance.new_tensor(_OFFSETS)
        variance = modes.variance[..., None] * (2 * offsets).exp()
        return Scales(variance, self.spectrum(modes.features).log_softmax(-1))

    def amplitudes(self, modes: NormalModes) -> tuple[Tensor, Tensor]:
        """(B,) mean and () log width of the amplitude."""
        middle, log_width, slope = _UNIT * self.amplitude
        count = modes.mask.sum(1).clamp_min(1).to(modes.variance)
        return middle + slope * (count / 100).log().clamp(*_LENGTHS), log_width

    def noise_variance(self, modes: NormalModes, level: Tensor) -> Tensor:
        """(B, 3L) Å², s² along each mode; ``level`` (B, 2) is (s_g, s_l)."""
        first = modes.softest(self.d_global)
        return torch.where(first, level[:, :1], level[:, 1:]).square()

    def code(
        self, modes: NormalModes, shift: Tensor, turn: Tensor, level: Tensor, noise: Latents | None
    ) -> Latents:
        """The latents of a motion.

        Args:
            modes: of the templates.
            shift: (B, L, 3) Å, in residue frames.
            turn: (B, L, 3) radians.
            level: (B, 2) Å, s of z_global and of z_local.
            noise: standard normal, its ``shift`` and ``turn`` are used; None for none, which gives
                the means of the posterior.
        """
        coefficients = modes.coefficients(shift)
        if noise is not None:
            spread = self.noise_variance(modes, level).sqrt()
            coefficients = coefficients + spread * modes.coefficients(noise.shift)
            present = modes.mask[..., None].to(turn)
            turn = turn + TURN_NOISE * level[:, 1, None, None] * noise.turn * present
        return self.split(modes, coefficients, turn, level)

    def split(
        self, modes: NormalModes, coefficients: Tensor, turn: Tensor, level: Tensor
    ) -> Latents:
        """Latents of coefficients (B, 3L) along the modes, Å."""
        first = modes.softest(self.d_global)
        rest = torch.where(first, torch.zeros_like(coefficients), coefficients)
        kept = min(self.d_global, coefficients.shape[1])
        z_global = coefficients[:, :kept] * _inverse(modes.variance[:, :kept].sqrt())
        z_global = nn.functional.pad(z_global, (0, self.d_global - kept))
        return Latents(z_global, modes.shift(rest), turn, level)

    def coefficients(self, modes: NormalModes, z: Latents) -> Tensor:
        """Inverse of :meth:`split`: (B, 3L) Å."""
        kept = min(self.d_global, modes.variance.shape[1])
        first = z.z_global[:, :kept] * modes.variance[:, :kept].sqrt()
        return torch.cat([first, modes.coefficients(z.shift)[:, kept:]], dim=1)

    @torch.no_grad()
    def received(self, modes: NormalModes, z: Latents) -> Tensor:
        """(B, L, 3) Å, E[w | z]; without gradient, as the module says."""
        coefficients = self.coefficients(modes, z)
        noise = self.noise_variance(modes, z.level)
        scales = self.scales(modes)
        a = most_probable_amplitude(coefficients, scales, noise, *self.amplitudes(modes))
        return modes.shift(scales.at(a).mean(coefficients, noise))

    def kl(self, modes: NormalModes, shift: Tensor, z: Latents) -> tuple[Tensor, Tensor]:
        """Nats (B,) of z_global, with the amplitude's, and of the shifts of z_local.

        Args:
            modes: of the templates.
            shift: (B, L, 3) Å, w.
            z: a draw from the posterior of w; at its mean the half nat of each number's own noise
                is lacking.
        """
        noise = self.noise_variance(modes, z.level)
        drawn = self.coefficients(modes, z)
        scales = self.scales(modes)
        middle, log_width = self.amplitudes(modes)
        a = most_probable_amplitude(drawn, scales, noise, middle, log_width)
        gap = (drawn - modes.coefficients(shift)).square() / noise
        each = -0.5 * (gap + (2 * math.pi * noise).log()) - scales.at(a).log_density(drawn, noise)
        each = torch.where(modes.variance > 0, each, torch.zeros_like(each))
        first = modes.softest(self.d_global)
        on_a = 0.5 * ((a - middle) * (-log_width).exp()).square() + log_width
        return each[:, first].sum(1) + on_a, each[:, ~first].sum(1)

    @torch.no_grad()
    def draw(
        self,
        modes: NormalModes,
        noise: Latents,
        temperature: float = 1.0,
        within: float = WITHIN,
    ) -> Tensor:
        """(B, L, 3) Å of standard normal ``noise``: w from its prior.

        The first number of the noise of z_global sets the amplitude, of width ``within`` β; those
        that choose the scales follow from its bits.
        """
        middle, log_width = self.amplitudes(modes)
        middle = middle + _UNIT * self.wider
        a = middle[:, None] + within * log_width.exp() * noise.z_global[:, :1]
        a = a.clamp(-AMPLITUDE_RANGE, AMPLITUDE_RANGE)  # as where it is looked for
        key = key_of_numbers(noise.z_global[:, 0], 1)
        uniform = uniform_of_normal(counter_normal(key, modes.variance.shape[1], a.dtype))
        # A product, since cumsum of floats is refused on CUDA where results must repeat.
        below = torch.ones(len(_OFFSETS), len(_OFFSETS)).to(a).triu()
        chance = self.scales(modes).log_weight.exp() @ below
        chosen = (uniform[..., None] > chance[..., :-1]).sum(-1)  # (B, 3L)
        offset = modes.variance.new_tensor(_OFFSETS)[chosen]
        spread = modes.variance.sqrt() * (offset + AMPLITUDE * a).exp()
        return temperature * modes.shift(spread * modes.coefficients(noise.shift))

    def mismatch(self, modes: NormalModes, core: Tensor, shift: Tensor) -> Tensor:
        """(B,) ½ (log m(w) − log E m(w'))² of shifts w; only δ has a gradient.

        Args:
            modes: of the templates.
            core: (B, L) bool, the residues of m.
            shift: (B, L, 3) Å, w.
        """
        with torch.no_grad():
            part = (core & modes.mask).to(shift)
            moved = (shift.square().sum(2) * part).sum(1)
            scales = self.scales(modes)
            middle, log_width = self.amplitudes(modes)
            each = (scales.variance * scales.log_weight.exp()).sum(-1)  # (B, 3L), at a = 0
            expected = (each * modes.inside(part)).sum(1)
            wide = 2 * AMPLITUDE * middle + 2 * (WITHIN * AMPLITUDE * log_width.exp()).square()
            wide = wide.clamp_max(2 * AMPLITUDE * AMPLITUDE_RANGE)  # amplitudes of draws are cut
            # What does not move, as where there is no core, says nothing.
            known = (moved > _STILL) & (expected > _STILL)
            gap = moved.clamp_min(_STILL).log() - expected.clamp_min(_STILL).log() - wide
        gap = gap - 2 * AMPLITUDE * _UNIT * self.wider
        return torch.where(known, 0.5 * gap.square(), torch.zeros_like(gap))


def _inverse(x: Tensor) -> Tensor:
    """1 / x, 0 where x is."""
    return torch.where(x > 0, 1 / x.clamp_min(1e-30), torch.zeros_like(x))
