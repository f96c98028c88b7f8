"""Simulated conformational ensembles, for a first run and for tests without any file.

A protein is a chain of helices and strands (φ, ψ about −63°, −42° and −120°, 130°) joined by loops
and ended by tails.  Loop torsions are drawn from the common regions of the Ramachandran plot; of
many folds, improved by changing one loop at a time, the most compact one without clashes stays.
Its sequence follows the secondary structure by coarse propensities (after Chou and Fasman 1978,
Annu. Rev. Biochem. 47, 251-276), with glycine where φ > 0.

Models differ along a few modes with normal amplitudes: *hinges* turn the torsions of one loop,
*loop modes* shift one loop smoothly in space, and each tail turns freely.  The hinges are scaled so
that the mean pairwise CA-RMSD of all but the tails is about 0.5 to 1.5 Å.  All models pass
:func:`protein_cvae.geometry.refine.finish`.  The ensembles are a stand-in for data: they have the
shape of real ones but hold no knowledge of real proteins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.align import align, aligned_rmsd
from common.errors import UserError
from common.rng import generator_for
from protein_cvae.ensemble import Ensemble
from protein_cvae.geometry.constants import CA, OMEGA_TRANS
from protein_cvae.geometry.dihedrals import Torsions
from protein_cvae.geometry.nerf import build_backbone
from protein_cvae.geometry.refine import finish
from protein_cvae.residues import ALPHABET, encode_sequence

LOOP, HELIX, STRAND = range(3)
SHORTEST = 24  # residues: two elements, a loop and two tails

_TAIL = (4, 7)  # lengths, from and to
_LOOP = (3, 6)
_ELEMENT = {HELIX: (8, 15), STRAND: (5, 8)}
_CENTRE = {HELIX: (-63.0, -42.0), STRAND: (-120.0, 130.0)}  # degrees
_SCATTER = {HELIX: 3.0, STRAND: 8.0}
# Loop regions: polyproline II, right-handed α, β, left-handed α (then glycine): centre and weight.
_REGIONS = ((-70.0, 145.0, 0.4), (-65.0, -35.0, 0.3), (-110.0, 130.0, 0.22), (60.0, 40.0, 0.08))
_REGION_SCATTER = 10.0
_LEFT = 3
# Weights of A C D E F G H I K L M N P Q R S T V W Y.
_PROPENSITY = {
    HELIX: (14, 1, 5, 15, 4, 1, 2, 5, 11, 14, 4, 2, 0, 8, 9, 3, 2, 5, 2, 2),
    STRAND: (4, 2, 2, 3, 8, 2, 2, 14, 4, 8, 2, 2, 0, 3, 4, 4, 10, 18, 3, 8),
    LOOP: (5, 1, 11, 5, 3, 10, 3, 2, 7, 4, 1, 11, 9, 4, 4, 11, 7, 3, 1, 3),
}  # fmt: skip
_FOLDS, _PARENTS, _ROUNDS = 96, 12, 24
_MEAN_RMSD = (0.4, 1.3)  # Å, of the hinges; loop modes and finishing add to it
_HINGES = 3
_LOOP_SHIFT = 0.5  # Å
_TAIL_TURN = math.radians(35.0)
_JITTER = math.radians(1.5)


@dataclass(frozen=True, eq=False)
class _Plan:
    """Secondary structure of one protein: kind (L,), element number (L,), tails (L,) bool."""

    kind: Tensor
    element: Tensor
    tail: Tensor

    def loops(self) -> list[Tensor]:
        """Residues of each loop between two elements."""
        numbers = torch.unique(self.element[(self.kind == LOOP) & ~self.tail])
        return [(self.element == number).nonzero()[:, 0] for number in numbers]


def simulate_ensembles(
    num_proteins: int,
    num_models: int,
    min_length: int = 40,
    max_length: int = 80,
    seed: int = 0,
) -> list[Ensemble]:
    """Ensembles of made-up proteins; a pure function of its arguments.

    Args:
        num_proteins: how many; the first n of them do not depend on it.
        num_models: of each.
        min_length, max_length: residues, both included; at least 24.
        seed: any integer.

    Raises:
        ValueError: for counts below 1 or lengths that are not in order.
    """
    if num_proteins < 1 or num_models < 1:
        raise UserError(
            f"num_proteins and num_models must be positive, got {num_proteins} and {num_models}"
        )
    if not SHORTEST <= min_length <= max_length:
        raise UserError(
            f"lengths must satisfy {SHORTEST} <= min_length <= max_length, got {min_length} and "
            f"{max_length}"
        )
    ensembles = []
    for number in range(num_proteins):
        generator = generator_for(seed, number)
        length = _integer(min_length, max_length, generator)
        name = f"simulated_{seed}_{number}"
        ensembles.append(simulate_ensemble(name, length, num_models, generator))
    return ensembles


def simulate_ensemble(
    name: str, length: int, num_models: int, generator: torch.Generator
) -> Ensemble:
    """One made-up protein of ``length`` residues in ``num_models`` models, superposed."""
    plan = _plan(length, generator)
    bonded = torch.arange(length) < length - 1
    torsions, left = _fold(plan, bonded, generator)
    aatype = _sequence(plan, left, generator)
    models = _models(torsions, plan, bonded, aatype, num_models, generator)
    core = ~plan.tail
    reference = models[:1].expand_as(models)
    weights = core.double().expand(num_models, -1)
    fitted = align(models[:, :, CA], reference[:, :, CA], weights)
    placed = fitted.apply(models.flatten(1, 2)).view_as(models)
    placed = placed - placed[:1, :, CA].mean((0, 1))
    return Ensemble(
        name=name,
        coordinates=placed.float(),
        mask=torch.ones(num_models, length, dtype=torch.bool),
        sequence="".join(ALPHABET[int(letter)] for letter in aatype),
        chain_index=torch.zeros(length, dtype=torch.int64),
        chain_ids=("A",),
        residue_numbers=torch.arange(1, length + 1),
        insertion_codes=("",) * length,
        bonded=bonded,
        source="simulated",
        model_numbers=tuple(range(1, num_models + 1)),
    )


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _plan(length: int, generator: torch.Generator) -> _Plan:
    """Tail, elements joined by loops, tail; what does not fit another element goes to the last."""
    first, last = (_integer(*_TAIL, generator) for _ in range(2))
    parts = [(LOOP, first)]
    left = length - first - last
    while True:
        kind = HELIX if _integer(0, 99, generator) < 60 else STRAND
        size = _integer(*_ELEMENT[kind], generator)
        gap = _integer(*_LOOP, generator)
        if left - size - gap < _ELEMENT[STRAND][0]:
            parts.append((HELIX if left > _ELEMENT[STRAND][1] else STRAND, left))
            break
        parts += [(kind, size), (LOOP, gap)]
        left -= size + gap
    parts.append((LOOP, last))
    sizes = torch.tensor([size for _, size in parts])
    kinds = torch.tensor([which for which, _ in parts]).repeat_interleave(sizes)
    element = torch.arange(len(parts)).repeat_interleave(sizes)
    return _Plan(kinds, element, (element == 0) | (element == len(parts) - 1))


def _fold(plan: _Plan, bonded: Tensor, generator: torch.Generator) -> tuple[Torsions, Tensor]:
    """Torsions (L,) of a compact fold, and (L,) bool where φ > 0."""
    angles, left = _draw_torsions(plan, _FOLDS, generator)
    loops = plan.loops()
    for _ in range(_ROUNDS):
        order = _cost(angles, bonded, plan.tail).argsort(stable=True)[:_PARENTS]
        fresh, fresh_left = _draw_torsions(plan, _FOLDS, generator)
        pick = torch.randint(0, max(1, len(loops)), (_FOLDS,), generator=generator)
        parent = order[torch.arange(_FOLDS) % len(order)]
        change = torch.zeros(_FOLDS, len(plan.kind), dtype=torch.bool)
        for number, residues in enumerate(loops):
            change[:, residues] = (pick == number)[:, None]
        # Half of the children change one or two residues of the loop, not all.
        few = torch.rand(change.shape, generator=generator) < 0.35
        few[::2] = True
        change &= few
        change[: len(order)] = False  # parents live on
        angles = torch.where(change, fresh, angles[:, parent])
        left = torch.where(change, fresh_left, left[parent])
    best = int(_cost(angles, bonded, plan.tail).argmin())
    return Torsions(*angles[:, best]), left[best]


def _draw_torsions(plan: _Plan, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """φ, ψ, ω as (3, count, L) radians, and (count, L) bool where φ > 0."""
    length = len(plan.kind)
    weights = torch.tensor([region[2] for region in _REGIONS], dtype=torch.float64)
    region = torch.multinomial(weights, count * length, True, generator=generator)
    region = region.view(count, length)
    loop = plan.kind == LOOP
    centre = torch.tensor([region[:2] for region in _REGIONS], dtype=torch.float64)[region]
    scatter = torch.full((length,), _REGION_SCATTER, dtype=torch.float64)
    for kind, where in _CENTRE.items():
        chosen = plan.kind == kind
        centre[:, chosen] = torch.tensor(where, dtype=torch.float64)
        scatter[chosen] = _SCATTER[kind]
    noise = _normal(generator, count, length, 2)
    phi, psi = torch.deg2rad(centre + scatter[:, None] * noise).unbind(-1)
    omega = OMEGA_TRANS.ideal + 0.5 * OMEGA_TRANS.deviation * _normal(generator, count, length)
    return torch.stack([phi, psi, omega]), loop & (region == _LEFT)


def _cost(angles: Tensor, bonded: Tensor, tail: Tensor) -> Tensor:
    """(count,) radius of gyration without tails, Å, and a penalty of near CA pairs."""
    ca = build_backbone(Torsions(*angles), bonded.expand(angles.shape[1:]))[..., CA, :]
    body = ca[:, ~tail]
    gyration = (body - body.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()
    apart = torch.ones(len(tail), len(tail), dtype=torch.bool).triu(3)
    overlap = (5.0 - torch.cdist(ca, ca)).clamp(min=0) * apart
    return gyration + 0.5 * overlap.square().sum((-2, -1))


def _sequence(plan: _Plan, left: Tensor, generator: torch.Generator) -> Tensor:
    """(L,) int64 amino acids that suit the secondary structure; glycine where φ > 0."""
    table = torch.tensor([_PROPENSITY[kind] for kind in (LOOP, HELIX, STRAND)]).double()
    aatype = torch.multinomial(table[plan.kind], 1, generator=generator)[:, 0]
    aatype[left] = encode_sequence("G")
    # Before a proline the α region is hardly populated: none where an element comes next to it.
    proline = aatype == encode_sequence("P")
    before = torch.cat([plan.kind[:1], plan.kind[:-1]])
    return torch.where(proline & (before != LOOP), encode_sequence("S"), aatype)


def _models(
    torsions: Torsions,
    plan: _Plan,
    bonded: Tensor,
    aatype: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """(count, L, 3, 3) float64, Å: finished models along hinge, loop and tail modes."""
    length = len(plan.kind)
    mask = torch.ones(count, length, dtype=torch.bool)
    bonded, core = bonded.expand(count, -1), ~plan.tail
    base = torch.stack(torsions)[:, None]  # (3, 1, L)
    loops = plan.loops()
    turn = torch.zeros(3, count, length, dtype=torch.float64)
    for number in torch.randperm(max(1, len(loops)), generator=generator)[:_HINGES].tolist():
        residues = loops[number] if loops else core.nonzero()[:, 0]
        mode = _normal(generator, 2, 1, len(residues)) / math.sqrt(len(residues))
        turn[:2, :, residues] += mode * _normal(generator, 1, count, 1)
    tails = torch.zeros_like(turn)
    tails[:2] = _TAIL_TURN * _normal(generator, 2, count, length) * plan.tail
    jitter = torch.zeros_like(turn)
    jitter[:2] = _JITTER * _normal(generator, 2, count, length)
    shift = torch.zeros(count, length, 3, dtype=torch.float64)
    position = torch.arange(length, dtype=torch.float64)
    for residues in loops:
        centre, width = residues.double().mean(), 0.5 * len(residues)
        profile = torch.exp(-0.5 * ((position - centre) / width).square())
        shift += _LOOP_SHIFT * profile[:, None] * _normal(generator, count, 1, 3)

    low, high = _MEAN_RMSD
    target = low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
    start = build_backbone(Torsions(*(base[:, 0])), bonded[0])
    relaxed = finish(start, bonded[0], mask[0], aatype)
    scale = math.radians(6.0)
    for _ in range(4 if count > 1 else 0):
        built = build_backbone(Torsions(*(base + scale * turn + jitter)), bonded)
        scale *= target / max(_mean_rmsd(built[:, core, CA]), 0.1)
        scale = min(scale, math.radians(25.0))
    changed = build_backbone(Torsions(*(base + scale * turn + jitter + tails)), bonded)
    # Relaxing the fold moves it; all models take that move with them, in the frame of the core.
    fitted = align(
        start[None, core].flatten(1, 2).expand(count, -1, -1), changed[:, core].flatten(1, 2)
    )
    moved = (relaxed - start).expand(count, -1, -1, -1) @ fitted.rotation[:, None].mT
    changed = changed + moved + shift[:, :, None]
    return finish(changed, bonded, mask, aatype.expand(count, -1))


def _mean_rmsd(ca: Tensor) -> float:
    """Mean pairwise CA-RMSD of models (M, N, 3), Å."""
    first, second = torch.triu_indices(len(ca), len(ca), 1)
    return float(aligned_rmsd(ca[first], ca[second]).mean())
