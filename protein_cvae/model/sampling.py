"""New conformers: around one, over an ensemble, from the prior, and between two.

Everything starts from one template, whose pose the results share, and runs the decoder once.

Over an ensemble: with the posterior means z_1..z_M of its models (all latents joined), a draw is

    z = z̄ + √(1 − b²) (z_m − z̄) + b Σ_j ε_j (z_j − z̄) / √(M − 1),   m uniform, ε_j ~ N(0, 1),

which has the mean and covariance of the z_j for every bandwidth b in [0, 1] up to the factor
(M − 1) / M of the first part: b = 0 repeats the models, b = 1 is a Gaussian fitted to them, and
between them lies the smoothed bootstrap (Silverman 1986, §6.4).  Motions of residues stay
correlated as they are in the ensemble, which independent draws per residue would lose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch, collate
from protein_cvae.data.prepared import PreparedEnsemble
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.rate import CLEAN
from protein_cvae.model.states import Condition, Posterior

# (coordinates (B, L, 3, 3), batch, mask (B, L)) -> coordinates with valid geometry.
Finisher = Callable[[Tensor, ProteinBatch, Tensor], Tensor]
_CHUNK = 8  # models encoded at once
_AROUND = 0.1  # Å, noise of draws around a conformer


@contextmanager
def evaluating(network: ProteinCVAE) -> Iterator[None]:
    """Without dropout and gradients; the network's mode is restored."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def repeat_item(batch: ProteinBatch, count: int) -> ProteinBatch:
    """The one conformer of a batch ``count`` times (views, no copies)."""
    _check_single(batch)
    fields = {
        f.name: getattr(batch, f.name).expand(count, *getattr(batch, f.name).shape[1:])
        for f in dataclasses.fields(batch)
        if f.name != "names"
    }
    return ProteinBatch(**fields, names=batch.names * count)


def posterior_blocks(
    network: ProteinCVAE,
    prepared: PreparedEnsemble,
    models: Sequence[int],
    template: int,
    chunk: int = _CHUNK,
    condition_once: bool = True,
) -> Iterator[tuple[Posterior, Condition]]:
    """Posteriors of a few models at a time against one template, and what they are given.

    Args:
        network: in eval mode.
        prepared: the ensemble; the template and the models have all residues.
        models: positions.
        template: position.
        chunk: models encoded at once; bounds the memory.
        condition_once: compute the condition, which all models share, once; else with every
            block, which takes longer and rounds as a batch of the training does.
    """
    with torch.no_grad():
        one = None
        if condition_once:
            one = network.condition(prepared.item(template, template).to(network.device))
        for first in range(0, len(models), chunk):
            chosen = models[first : first + chunk]
            batch = collate([prepared.item(m, template) for m in chosen]).to(network.device)
            condition = network.condition(batch) if one is None else one.repeat(len(chosen))
            yield network.encode(batch, condition), condition


def posterior_means(
    network: ProteinCVAE,
    prepared: PreparedEnsemble,
    models: Sequence[int],
    template: int,
    chunk: int = _CHUNK,
    condition_once: bool = True,
) -> Latents:
    """Posterior means of M models; arguments as of :func:`posterior_blocks`."""
    blocks = posterior_blocks(network, prepared, models, template, chunk, condition_once)
    return Latents.cat([network.posterior_mean(given, posterior) for posterior, given in blocks])


@torch.no_grad()
def decode(
    network: ProteinCVAE,
    batch: ProteinBatch,
    latents: Latents,
    finish: Finisher | None,
    chunk: int = 32,
) -> Tensor:
    """Decode K latents of the one template in ``batch`` -> (K, L, 3, 3), Å.

    Args:
        network: in eval mode.
        batch: one conformer; its coordinates are not used.
        latents: of K conformers.
        finish: makes the geometry valid; None returns the decoder's own output.
        chunk: conformers decoded at once; bounds the memory, not the result.
    """
    _check_single(batch)
    condition = network.condition(batch)
    parts = []
    for part in latents.split(chunk):
        items, given = repeat_item(batch, len(part)), condition.repeat(len(part))
        coordinates = network.decode(items, given, part).coordinates
        parts.append(coordinates if finish is None else finish(coordinates, items, given.mask))
    return torch.cat(parts)


@torch.no_grad()
def sample_around(
    network: ProteinCVAE,
    batch: ProteinBatch,
    count: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Latents:
    """Draws from the posterior of the one conformer in ``batch``, at a noise of 0.1 Å."""
    _check_single(batch)
    items, condition = repeat_item(batch, count), network.condition(batch).repeat(count)
    noise = standard_noise(network, batch.length, count, generator)
    posterior = network.encode(items, condition, torch.full_like(noise.level, _AROUND))
    return network.sample_posterior(condition, posterior, noise.map(lambda x: temperature * x))


@torch.no_grad()
def sample_prior(
    network: ProteinCVAE,
    batch: ProteinBatch,
    count: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    level: float | None = None,
) -> Latents:
    """Draws from p(z | sequence, template); the template of ``batch`` may be withheld.

    ``level`` Å is the noise they are seen through, as of
    :meth:`~protein_cvae.model.network.ProteinCVAE.sample_prior`.
    """
    _check_single(batch)
    condition = network.condition(batch).repeat(count)
    noise = standard_noise(network, batch.length, count, generator)
    through = None if level is None else torch.full_like(noise.level, level)
    items = repeat_item(batch, count)
    return network.sample_prior(items, condition, noise, temperature, level=through)


@torch.no_grad()
def motion(network: ProteinCVAE, batch: ProteinBatch, latents: Latents) -> tuple[Tensor, Tensor]:
    """The mean motion given K latents, without their noise: shift (K, L, 3) Å, turn (K, L, 3)."""
    _check_single(batch)
    return network.received(network.condition(batch).repeat(len(latents)), latents)


@torch.no_grad()
def coded(network: ProteinCVAE, batch: ProteinBatch, shift: Tensor, turn: Tensor) -> Latents:
    """Latents of motions (K, L, 3), Å and radians, from the one template in ``batch``."""
    _check_single(batch)
    modes = network.condition(batch).modes.expand(len(shift))
    level = shift.new_full((len(shift), 2), CLEAN)
    return network.channel.code(modes, shift, turn, level, None)


def resample(
    means: Latents,
    count: int,
    generator: torch.Generator,
    bandwidth: float = 0.5,
    temperature: float = 1.0,
) -> Latents:
    """Draws over an ensemble; see the module's formula.

    Args:
        means: posterior means of its M >= 2 models against one template.
        count: K draws.
        generator: on the CPU.
        bandwidth: b in [0, 1].
        temperature: scales the deviation from the mean.

    Raises:
        ValueError: on fewer than two models or a bandwidth outside [0, 1].
    """
    size = len(means)
    if size < 2:
        raise UserError(f"an ensemble needs at least 2 models, got {size}")
    if not 0.0 <= bandwidth <= 1.0:
        raise UserError(f"bandwidth must lie in [0, 1], got {bandwidth}")
    # Each model once before any is repeated: K draws then weigh the models alike.
    rounds = -(-count // size)
    chosen = torch.cat([torch.randperm(size, generator=generator) for _ in range(rounds)])[:count]
    epsilon = torch.randn(count, size, generator=generator) / (size - 1) ** 0.5
    mixing = bandwidth * epsilon
    mixing[torch.arange(count), chosen] += (1 - bandwidth**2) ** 0.5
    # (mixing - its row mean) acts on z as mixing acts on z - z̄.
    mixing = temperature * (mixing - mixing.mean(1, keepdim=True))

    def draw(z: Tensor) -> Tensor:
        flat = z.flatten(1)
        mean = flat.mean(0)
        return (mean + mixing.to(flat) @ flat).view(count, *z.shape[1:])

    return means.map(draw)


def interpolate(first: Latents, second: Latents, steps: int) -> Latents:
    """``steps`` latents from the one to the other, both ends included; each holds one conformer."""
    if steps < 2:
        raise UserError(f"steps must be at least 2, got {steps}")

    def path(a: Tensor, b: Tensor) -> Tensor:
        at = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
        at = at.view(-1, *[1] * (a.dim() - 1))
        return a + at * (b - a)

    return first.map(path, second)


def standard_noise(
    network: ProteinCVAE, length: int, count: int, generator: torch.Generator
) -> Latents:
    """Standard normal latents of ``count`` conformers of ``length`` residues."""
    like = next(network.parameters())

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(like)

    return Latents(
        draw(count, network.d_global),
        draw(count, length, 3),
        draw(count, length, 3),
        torch.zeros(count, 2).to(like),
    )


def _check_single(batch: ProteinBatch) -> None:
    if len(batch) != 1:
        raise UserError(f"this takes a batch of one conformer, got {len(batch)}")
