"""What changes when one latent moves: z_global, or shift or turn of a single residue.

From the posterior means z of a conformer one number at a time is moved by s standard deviations,

    z' = z + s σ e,   s = ±1, ±2,   σ: of the prior or of the posterior,

with everything else held, and both are decoded, without finishing.  σ of the prior is over draws
from p(z | sequence, template), so it is how far that number goes in what is generated; σ of the
posterior is the noise of 0.2 Å and its equivalent.

With d_i the displacement of residue i, root mean square over N, CA and C after superposition on
the unmoved decode (over all residues but the moved one, which would drag the rest), per move:

    rms = √(mean_i d_i²),   reach = Σ_{i near} d_i² / Σ_i d_i²,   extent = (Σ d²)² / (L Σ d⁴)

where near is within 5 residues of the moved one along its chain, or 10 Å in space.  extent is 1 / L
if one residue moves and 1 if all move alike.  All are means over the moves of one kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.align import align
from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.constants import CA
from protein_cvae.model.channel import TURN_NOISE
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.rate import CLEAN
from protein_cvae.model.sampling import decode, evaluating, sample_prior

Unit = Literal["prior", "posterior"]
UNITS: tuple[Unit, ...] = ("prior", "posterior")
GLOBAL = "z_global"
LOCAL = ("shift", "turn")
NEAR_RESIDUES = 5
NEAR_DISTANCE = 10.0  # Å
# Displacements of rounding size have no place: 1e-4 Å is a tenth of what a PDB file resolves.
_STILL = 1e-4
_NOISE = 0.2  # Å, of the posterior


@dataclass(frozen=True)
class EffectOptions:
    """Which latents move.

    Attributes:
        residues: how many residues, evenly spaced along the protein.
        dimensions: of z_global, those whose posterior means vary most; shift and turn move along
            each of their three axes.
        sizes: s, in standard deviations.
        units: which standard deviations.
        draws: from the prior, for its standard deviations.
        chunk: conformers decoded at once; bounds the memory, not the result.
    """

    residues: int = 8
    dimensions: int = 3
    sizes: tuple[float, ...] = (-2.0, -1.0, 1.0, 2.0)
    units: tuple[Unit, ...] = ("prior",)
    draws: int = 64
    chunk: int = 32

    def __post_init__(self) -> None:
        counts = {"residues": self.residues, "dimensions": self.dimensions, "chunk": self.chunk}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"{name} must be at least 1, got {count}")
        if self.draws < 2:
            raise UserError(f"draws must be at least 2 to have a spread, got {self.draws}")
        if not set(self.units) <= set(UNITS):
            raise UserError(f"units must be among {', '.join(UNITS)}, got {self.units}")


@dataclass(frozen=True)
class Move:
    """One number moved: ``residue`` is a position, None for z_global; ``size`` in ``unit`` sd."""

    latent: str
    unit: Unit
    residue: int | None
    dimension: int
    size: float


@dataclass(frozen=True, eq=False)
class LatentEffects:
    """Attributes:

    moves: M moves.
    base: (L, 3, 3) float64 N, CA, C decoded from the unmoved latents, Å.
    moved: (M, L, 3, 3) float64 of each move, Å, in the pose of ``base`` (that of the template).
    chain_index, residue_index: (L,) int64.
    """

    moves: tuple[Move, ...]
    base: Tensor
    moved: Tensor
    chain_index: Tensor
    residue_index: Tensor

    def displacement(self) -> Tensor:
        """(M, L) Å, of each residue; see the module."""
        atoms = self.moved.flatten(1, 2)  # (M, 3 L, 3)
        wanted = self.base.flatten(0, 1).expand_as(atoms)
        weights = torch.ones(self.moved.shape[:3], dtype=atoms.dtype)
        for m, move in enumerate(self.moves):
            if move.residue is not None:
                weights[m, move.residue] = 0
        gap = align(atoms, wanted, weights.flatten(1)).apply(atoms) - wanted
        return gap.square().sum(-1).unflatten(1, (-1, 3)).mean(-1).sqrt()

    def distance_change(self, move: int) -> Tensor:
        """(L, L) Å: CA distances of a move minus those before it."""
        return _distances(self.moved[move, :, CA]) - _distances(self.base[:, CA])

    def chosen(self, latent: str, unit: Unit, size: float | None = None) -> list[int]:
        """Positions of the moves of one kind; of both signs if ``size`` is given."""
        return [
            m
            for m, move in enumerate(self.moves)
            if (move.latent, move.unit) == (latent, unit)
            and (size is None or math.isclose(abs(move.size), size))
        ]


def latent_effects(
    network: ProteinCVAE,
    item: ProteinBatch,
    means: Latents,
    generator: torch.Generator,
    options: EffectOptions = EffectOptions(),
) -> LatentEffects:
    """Move the latents of one conformer, one number at a time.

    Args:
        network: trained; put in eval mode for the time, without gradients.
        item: one conformer with its template, all residues present in both.
        means: posterior means of M >= 2 conformers of the protein, which say what varies.
        generator: on the CPU, of the draws from the prior.
        options: which latents move.

    Raises:
        ValueError: without template, with missing residues, or on fewer than two ``means``.
    """
    if len(item) != 1 or not bool((item.mask & item.template_mask).all()):
        raise UserError(
            f"item: expected one conformer and its template, both complete, got {len(item)} with "
            f"{int((~(item.mask & item.template_mask)).sum())} residues missing in either"
        )
    if len(means) < 2:
        raise UserError(f"means: expected at least 2 conformers, got {len(means)}")
    with evaluating(network):
        condition = network.condition(item)
        start = network.posterior_mean(condition, network.encode(item, condition))
        drawn = sample_prior(network, item, options.draws, generator, level=CLEAN)
        spread = condition.modes.variance[:, : network.d_global].sqrt()
        wide = torch.where(spread > 0, _NOISE / spread.clamp_min(1e-12), torch.zeros_like(spread))
        short = network.d_global - wide.shape[1]
        widths = {
            "prior": drawn.map(lambda x: x.std(0)[None]),
            "posterior": Latents(
                torch.nn.functional.pad(wide, (0, short)),
                torch.full_like(start.shift, _NOISE),
                torch.full_like(start.turn, TURN_NOISE * _NOISE),
                torch.zeros_like(start.level),
            ),
        }
        moves = _moves(item.length, means, options)
        moved = _moved(start, widths, moves)
        x = decode(network, item, Latents.cat([start, moved]), None, options.chunk).double().cpu()
    return LatentEffects(
        tuple(moves), x[0], x[1:], item.chain_index[0].cpu(), item.residue_index[0].cpu()
    )


def effect_rows(effects: LatentEffects) -> list[dict[str, str | float]]:
    """One row per latent, unit and |s|; the numbers of the module's docstring, NaN where undefined.

    ``own`` is the mean displacement of the moved residue, ``largest`` that of the residue that
    moves most, Å; ``still`` the share of moves by which nothing moves.  Reach (``within_5``,
    ``within_10A``) and extent are means over the other moves.
    """
    d = effects.displacement()
    square = d.square()
    total = square.sum(1)
    moving = d.amax(1) > _STILL
    extent = total.square() / (d.shape[1] * square.square().sum(1))
    distance = _distances(effects.base[:, CA])
    same = effects.chain_index[:, None] == effects.chain_index
    gap = (effects.residue_index[:, None] - effects.residue_index).abs()
    near = {"within_5": same & (gap <= NEAR_RESIDUES), "within_10A": distance <= NEAR_DISTANCE}
    # In the order of the moves, smaller ones first.
    order = list(dict.fromkeys((m.unit, m.latent) for m in effects.moves))
    kinds = sorted(
        {(m.latent, m.unit, abs(m.size)) for m in effects.moves},
        key=lambda kind: (order.index((kind[1], kind[0])), kind[2]),
    )
    rows: list[dict[str, str | float]] = []
    for latent, unit, size in kinds:
        chosen = torch.tensor(effects.chosen(latent, unit, size))
        told = chosen[moving[chosen]]
        row: dict[str, str | float] = {"latent": latent, "unit": unit, "size": size}
        row |= {
            "rms": float(square[chosen].mean(1).sqrt().mean()),
            "largest": float(d[chosen].amax(1).mean()),
            "still": float((~moving[chosen]).double().mean()),
            "extent": float(extent[told].mean()),
        }
        places = [effects.moves[m].residue for m in chosen.tolist()]
        if None not in places:
            row["own"] = float(d[chosen, torch.tensor(places)].mean())
            own = torch.tensor([effects.moves[m].residue for m in told.tolist()], dtype=torch.int64)
            for name, mask in near.items():
                row[name] = float(((square[told] * mask[own]).sum(1) / total[told]).mean())
        else:
            row |= dict.fromkeys(("own", *near), math.nan)
        rows.append(row)
    return rows


def _moves(length: int, means: Latents, options: EffectOptions) -> list[Move]:
    """All moves: global ones, then residue by residue."""

    def varying(z: Tensor) -> list[int]:
        return z.flatten(0, -2).var(0).argsort(descending=True)[: options.dimensions].tolist()

    # The middles of equal parts of the protein.
    parts = min(options.residues, length)
    places = [int((part + 0.5) * length / parts) for part in range(parts)]
    chosen: list[tuple[str, int | None, int]] = []
    chosen += [(GLOBAL, None, k) for k in varying(means.z_global)]
    chosen += [(kind, i, k) for kind in LOCAL for i in places for k in range(3)]
    return [
        Move(kind, unit, place, k, size)
        for unit in options.units
        for kind, place, k in chosen
        for size in options.sizes
    ]


def _moved(start: Latents, widths: dict[str, Latents], moves: Sequence[Move]) -> Latents:
    """(M, ...) the moved latents."""
    moved = start.repeat(len(moves))
    for m, move in enumerate(moves):
        name = move.latent if move.latent in LOCAL else "z_global"
        at = (move.dimension,) if move.residue is None else (move.residue, move.dimension)
        getattr(moved, name)[m][at] += move.size * getattr(widths[move.unit], name)[0][at]
    return moved


def _distances(x: Tensor) -> Tensor:
    """(..., L, 3) -> (..., L, L); without the shortcut of ``cdist`` that loses digits."""
    return (x[..., :, None, :] - x[..., None, :, :]).norm(dim=-1)
