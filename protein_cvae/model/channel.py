"""The channel that motion passes through to the decoder: a conformer seen through noise.

A conformer has moved from its template by shifts w (L, 3) and turns t (L, 3) of its residues
(:mod:`protein_cvae.model.motion`).  The latents are what is left of them under noise of s Å,

    z_g = (U_gᵀ w + s_g ε) / σ_g,   z_l = (1 − U_g U_gᵀ)(w + s_l ε),   z_t = t + κ s_l ε,

with U_g the softest modes of the template and σ_g their standard deviations in the elastic network
(:mod:`protein_cvae.model.elastic`).  So z_global holds the collective motion in few numbers that
mean the same on every protein, and z_local what remains at each residue.  With the prior

    w | a ~ N(0, Σ_k v_k(a) u_k u_kᵀ),   v_k = e^{2 τ a + 2 f_k} σ_k²,   a ~ N(0, 1),

f learned, the prior of a coefficient z_k along mode k is N(0, v_k + s²), and

    KL = ½ Σ_k [(b_k² + s²) / (v_k + s²) − 1 + log((v_k + s²) / s²)] + ½ a²,   b = Uᵀ w,

with the most probable amplitude a in place of its posterior.  This is the information on the motion
that passes, in nats: none for s → ∞, and the rate of a Gaussian source at distortion
v s² / (v + s²) (Cover and Thomas 2006, §10.3).  The decoder starts from the most probable motion,
E[w | z] = Σ_k v_k / (v_k + s²) z_k u_k (Wiener's filter), and removes what noise it can.

f depends on how soft and how collective a mode is among those of its protein (Brüschweiler 1995)
and on nothing that would tell proteins apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import UserError
from protein_cvae.model.elastic import AMPLITUDE, NormalModes
from protein_cvae.model.latents import Latents

# κ, radians per Å: noise of a turn beside that of a shift.
TURN_NOISE = 1.0
# Noise in Å of latents that are taken as they are, and of latents that hold nothing.
CLEAN, SILENT = 0.02, 30.0
_SPECTRUM_FEATURES = 4
_SPECTRUM_HIDDEN = 16
# |f| stays below this.
_SPECTRUM_BOUND = 1.5
_AMPLITUDE_RANGE = 6.0
_COARSE, _HALVINGS = 25, 30
# Å, noise at which the errors of an item count half.
_LITTLE = 0.2


class MotionChannel(nn.Module):
    """Codes motion, and gives back its most probable value; see the module's equations.

    Args:
        d_global: modes in z_global; of a protein with fewer the rest is 0.
    """

    def __init__(self, d_global: int) -> None:
        super().__init__()
        self.d_global = d_global
        last = nn.Linear(_SPECTRUM_HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.spectrum = nn.Sequential(
            nn.Linear(_SPECTRUM_FEATURES, _SPECTRUM_HIDDEN), nn.GELU(), last
        )

    def variance(self, modes: NormalModes) -> Tensor:
        """(B, 3L) Å², v at the median amplitude, e^{2f} σ²."""
        return modes.variance * (2 * self._f(modes)).exp()

    def _f(self, modes: NormalModes) -> Tensor:
        return _SPECTRUM_BOUND * self.spectrum(spectrum_features(modes))[..., 0].tanh()

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

    def received(self, modes: NormalModes, z: Latents) -> Tensor:
        """(B, L, 3) Å, E[w | z]."""
        coefficients = self.coefficients(modes, z)
        noise = self.noise_variance(modes, z.level)
        base = self.variance(modes)
        a = most_probable_amplitude(coefficients.square(), base, noise)
        v = base * (2 * AMPLITUDE * a).exp()[:, None]
        return modes.shift(coefficients * v * _inverse(v + noise))

    def kl(self, modes: NormalModes, shift: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Nats (B,) of z_global, with the amplitude's, and of the shifts of z_local."""
        noise = self.noise_variance(modes, level)
        energy = modes.coefficients(shift).square() + noise
        base = self.variance(modes)
        a = most_probable_amplitude(energy, base, noise)
        total = base * (2 * AMPLITUDE * a).exp()[:, None] + noise
        each = 0.5 * (energy / total - 1 + (total / noise).log())
        each = torch.where(base > 0, each, torch.zeros_like(each))
        first = modes.softest(self.d_global)
        return each[:, first].sum(1) + 0.5 * a.square(), each[:, ~first].sum(1)

    def draw(self, modes: NormalModes, noise: Latents, temperature: float = 1.0) -> Tensor:
        """(B, L, 3) Å of standard normal ``noise``: w from its prior.

        The first number of the noise of z_global sets the amplitude.
        """
        a = noise.z_global[:, :1]
        spread = modes.variance.sqrt() * (self._f(modes) + AMPLITUDE * a).exp()
        return temperature * modes.shift(spread * modes.coefficients(noise.shift))


def spectrum_features(modes: NormalModes) -> Tensor:
    """(B, 3L, 4) of each mode: log σ, its place among the modes, its collectivity, log L.

    Collectivity is e^H / L with H the entropy of the shares of the residues in the mode.
    """
    count = modes.mask.sum(1).clamp_min(1).to(modes.variance)  # (B,)
    place = torch.arange(1, modes.variance.shape[1] + 1, device=count.device).to(count)
    share = modes.vectors.square().unflatten(1, (-1, 3)).sum(2)  # (B, L, 3L)
    entropy = -(share * share.clamp_min(1e-12).log()).sum(1)
    wide = count[:, None].expand_as(entropy)
    features = [
        0.5 * modes.variance.clamp_min(1e-8).log(),
        (place / (3 * wide)).log(),
        entropy.exp() / wide,
        (wide / 100).log(),
    ]
    found = torch.stack(features, dim=-1)
    return torch.where(modes.variance[..., None] > 0, found, torch.zeros_like(found))


@torch.no_grad()
def most_probable_amplitude(energy: Tensor, base: Tensor, noise: Tensor) -> Tensor:
    """(B,) the a of smallest ½ Σ_k [log V_k + energy_k / V_k] + ½ a², V = e^{2 τ a} base + noise.

    Args:
        energy: (B, n) squared coefficients, Å².
        base: (B, n) Å², variances at a = 0; where it is 0 the coefficient does not count.
        noise: (B, n) Å².
    """
    dtype = energy.dtype
    energy, base, noise = energy.double(), base.double(), noise.double()
    there = (base > 0)[:, None]

    def total(a: Tensor) -> Tensor:  # (B, A) -> (B, A, n)
        return (2 * AMPLITUDE * a).exp()[..., None] * base[:, None] + noise[:, None]

    grid = torch.linspace(-_AMPLITUDE_RANGE, _AMPLITUDE_RANGE, _COARSE, dtype=energy.dtype)
    a = grid.to(energy.device).expand(len(energy), -1)
    v = total(a)
    cost = torch.where(there, v.clamp_min(1e-30).log() + energy[:, None] / v.clamp_min(1e-30), 0.0)
    best = (cost.sum(-1) + a.square()).argmin(1, keepdim=True)
    step = 2 * _AMPLITUDE_RANGE / (_COARSE - 1)
    low, high = a.gather(1, best) - step, a.gather(1, best) + step
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        v = total(middle).clamp_min(1e-30)
        share = (v - noise[:, None]) / v
        pull = torch.where(there, share * (1 - energy[:, None] / v), 0.0).sum(-1)
        rising = middle + AMPLITUDE * pull > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return ((low + high) / 2)[:, 0].to(dtype)


@dataclass(frozen=True)
class RateSettings:
    """Noise of the latents in training, Å; see the module's equations.

    Attributes:
        low, high: s of z_global and s of z_local are log-uniform between these.
        silent: share of conformers whose z_local holds nothing.
        judged: of validation, both latents.

    Raises:
        ValueError: on limits that are not 0 < low <= high, or a share outside [0, 1].
    """

    low: float = 0.02
    high: float = 1.5
    silent: float = 0.15
    judged: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= SILENT:
            raise UserError(
                f"rate.low and rate.high must be 0 < low <= high <= {SILENT} Å, got {self.low} and "
                f"{self.high}"
            )
        if not 0 <= self.silent <= 1:
            raise UserError(f"rate.silent must lie in [0, 1], got {self.silent}")
        if not 0 < self.judged <= SILENT:
            raise UserError(f"rate.judged must lie in (0, {SILENT}] Å, got {self.judged}")


def levels(normal: Tensor, rate: RateSettings) -> Tensor:
    """(B, 2) Å, noise of z_global and z_local, from (B, 3) standard normal numbers."""
    uniform = 0.5 * (1 + (normal / math.sqrt(2)).erf())
    level = rate.low * (rate.high / rate.low) ** uniform[:, :2]
    hidden = torch.full_like(level[:, 1], SILENT)
    local = torch.where(uniform[:, 2] < rate.silent, hidden, level[:, 1])
    return torch.stack([level[:, 0], local], dim=1)


def expected_error(level: Tensor, templated: Tensor) -> Tensor:
    """(B,) weight of an item's errors, which grow with the noise (B, 2): 1 where there is little.

    Of items without template it is 1.
    """
    noise = level.clamp_max(1.0).square().sum(1)
    return torch.where(templated, _LITTLE**2 / (_LITTLE**2 + noise), torch.ones_like(noise))


def _inverse(x: Tensor) -> Tensor:
    """1 / x, 0 where x is."""
    return torch.where(x > 0, 1 / x.clamp_min(1e-30), torch.zeros_like(x))
