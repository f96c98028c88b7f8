"""What passes between the parts of the network: condition, posterior, prior, decoded conformers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from protein_cvae.model.elastic import ElasticNetwork
from protein_cvae.model.latents import Gaussian, Latents


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

    def repeat(self, count: int) -> Condition:
        """The one item ``count`` times (views, no copies)."""

        def expanded(x: Tensor) -> Tensor:
            return x.expand(count, *x.shape[1:])

        network = replace(
            self.network,
            precision=expanded(self.network.precision),
            factor=expanded(self.network.factor),
            mask=expanded(self.network.mask),
            moved=expanded(self.network.moved),
        )
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "network"}
        return Condition(**{k: expanded(x) for k, x in tensors.items()}, network=network)


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
        """Their means."""
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
