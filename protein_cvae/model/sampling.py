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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common.errors import UserError
from protein_cvae.data.batch import ProteinBatch
from protein_cvae.model.latents import Latents
from protein_cvae.model.network import Condition
from protein_cvae.module import ProteinCVAEModule

# (coordinates (B, L, 3, 3), batch, mask (B, L)) -> coordinates with valid geometry.
Finisher = Callable[[Tensor, ProteinBatch, Tensor], Tensor]


@contextmanager
def evaluating(module: ProteinCVAEModule) -> Iterator[None]:
    """Without dropout and gradients; the module's mode is restored."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def repeat_item(batch: ProteinBatch, count: int) -> ProteinBatch:
    """The one conformer of a batch ``count`` times (views, no copies)."""
    _check_single(batch)
    fields = {
        f.name: getattr(batch, f.name).expand(count, *getattr(batch, f.name).shape[1:])
        for f in dataclasses.fields(batch)
        if f.name != "names"
    }
    return ProteinBatch(**fields, names=batch.names * count)


def repeat_condition(condition: Condition, count: int) -> Condition:
    """The one item of a condition ``count`` times (views, no copies)."""

    def repeat(x: Tensor) -> Tensor:
        return x.expand(count, *x.shape[1:])

    network = dataclasses.replace(
        condition.network,
        precision=repeat(condition.network.precision),
        factor=repeat(condition.network.factor),
        mask=repeat(condition.network.mask),
        moved=repeat(condition.network.moved),
    )
    tensors = {
        f.name: repeat(getattr(condition, f.name))
        for f in dataclasses.fields(condition)
        if f.name != "network"
    }
    return Condition(**tensors, network=network)


@torch.no_grad()
def encode(module: ProteinCVAEModule, batch: ProteinBatch) -> Latents:
    """Posterior means of the conformers of a batch; needs module.eval()."""
    condition = module.model.condition(batch)
    return module.model.encode(batch, condition).mean()


@torch.no_grad()
def decode(
    module: ProteinCVAEModule,
    batch: ProteinBatch,
    latents: Latents,
    finish: Finisher | None,
    chunk: int = 32,
) -> Tensor:
    """Decode K latents of the one template in ``batch`` -> (K, L, 3, 3), Å.

    Args:
        module: in eval mode.
        batch: one conformer; its coordinates are not used.
        latents: of K conformers.
        finish: makes the geometry valid; None returns the decoder's own output.
        chunk: conformers decoded at once; bounds the memory, not the result.
    """
    _check_single(batch)
    condition = module.model.condition(batch)
    parts = []
    for part in _chunks(latents, chunk):
        count = len(part.z_global)
        items, given = repeat_item(batch, count), repeat_condition(condition, count)
        coordinates = module.decode(items, given, part).coordinates
        parts.append(coordinates if finish is None else finish(coordinates, items, given.mask))
    return torch.cat(parts)


@torch.no_grad()
def sample_around(
    module: ProteinCVAEModule,
    batch: ProteinBatch,
    count: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Latents:
    """Draws from the posterior of the one conformer in ``batch``."""
    _check_single(batch)
    condition = module.model.condition(batch)
    posterior = module.model.encode(batch, condition)
    noise = _noise(module, batch, count, generator)
    scaled = Latents(*(temperature * getattr(noise, f.name) for f in dataclasses.fields(noise)))
    return module.sample_posterior(posterior, scaled)


@torch.no_grad()
def sample_prior(
    module: ProteinCVAEModule,
    batch: ProteinBatch,
    count: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Latents:
    """Draws from p(z | sequence, template); the template of ``batch`` may be withheld."""
    _check_single(batch)
    condition = repeat_condition(module.model.condition(batch), count)
    return module.sample_prior(condition, _noise(module, batch, count, generator), temperature)


def sample_ensemble(
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
    size = len(means.z_global)
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

    return Latents(draw(means.z_global), draw(means.shift), draw(means.turn), draw(means.detail))


def interpolate(first: Latents, second: Latents, steps: int) -> Latents:
    """``steps`` latents from the one to the other, both ends included; each holds one conformer."""
    if steps < 2:
        raise UserError(f"steps must be at least 2, got {steps}")

    def path(a: Tensor, b: Tensor) -> Tensor:
        at = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
        at = at.view(-1, *[1] * (a.dim() - 1))
        return a + at * (b - a)

    return Latents(
        path(first.z_global, second.z_global),
        path(first.shift, second.shift),
        path(first.turn, second.turn),
        path(first.detail, second.detail),
    )


def _noise(
    module: ProteinCVAEModule, batch: ProteinBatch, count: int, generator: torch.Generator
) -> Latents:
    length, model = batch.length, module.model
    like = next(model.parameters())

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(like)

    return Latents(
        draw(count, model.d_global),
        draw(count, length, 3),
        draw(count, length, 3),
        draw(count, length, model.d_detail),
    )


def _chunks(latents: Latents, size: int) -> Iterator[Latents]:
    parts = (
        latents.z_global.split(size),
        latents.shift.split(size),
        latents.turn.split(size),
        latents.detail.split(size),
    )
    for part in zip(*parts, strict=True):
        yield Latents(*part)


def _check_single(batch: ProteinBatch) -> None:
    if len(batch) != 1:
        raise UserError(f"this takes a batch of one conformer, got {len(batch)}")
