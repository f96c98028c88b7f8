"""What passes between the parts of the network: condition, posterior, prior, decoded conformers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from protein_cvae.model.elastic import NormalModes
from protein_cvae.model.latents import Gaussian


@dataclass(frozen=True)
class Condition:
    """What is known before the conformer: sequence and template.

    Attributes:
        c: (B, L, C) states.
        mean: (B, C) their mean over present residues.
        mask: (B, L) residues that are modelled.
        templated: (B,) bool, a template is given.
        rotation, origin: (B, L, 3, 3), (B, L, 3) frames of the template, Å.
        modes: of the template; none of items without.
    """

    c: Tensor
    mean: Tensor
    mask: Tensor
    templated: Tensor
    rotation: Tensor
    origin: Tensor
    modes: NormalModes

    def repeat(self, count: int) -> Condition:
        """The one item ``count`` times (views, no copies)."""

        def expanded(x: Tensor) -> Tensor:
            return x.expand(count, *x.shape[1:])

        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "modes"}
        each = {name: expanded(x) for name, x in tensors.items()}
        return Condition(**each, modes=self.modes.expand(count))


@dataclass(frozen=True)
class Posterior:
    """q(z | X, T, sequence): the motion that is coded, through noise of a level.

    Attributes:
        shift, turn: (B, L, 3), Å and radians, motion from the template; 0 where there is none.
        level: (B, 2), Å, noise of z_global and of z_local.
        free: of z_global where there is no template; elsewhere it has no meaning.
        sequence: latents of the ``separate`` design, else None.
    """

    shift: Tensor
    turn: Tensor
    level: Tensor
    free: Gaussian
    sequence: Gaussian | None


@dataclass(frozen=True)
class Decoded:
    """Attributes:

    coordinates: (B, L, 3, 3) N, CA, C, Å.
    logits: (B, L, 20).
    """

    coordinates: Tensor
    logits: Tensor
