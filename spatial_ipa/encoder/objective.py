"""The terms of one training step, from the layers and a batch of views."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from spatial_ipa.data.expression import Expression
from spatial_ipa.encoder.frozen import Trunk
from spatial_ipa.encoder.losses import (
    coral,
    log_stress,
    neighbour_kl,
    rbf_mmd,
    reverse_gradient,
    spatial_kernel,
    vicreg,
)
from spatial_ipa.encoder.network import ScRNAAdapter
from spatial_ipa.encoder.settings import EncoderWeights
from spatial_ipa.encoder.views import DomainBatch

_ROWS = 1024  # spots embedded at once


@dataclass(frozen=True)
class Layers:
    """Trunk and adapter, and heads that are thrown away after training; None for those not used.

    Attributes:
        encoder: the trunk.
        adapter: in front of it for scRNA-seq.
        expander: between H and the self-supervised term.
        locator: between H and the spatial terms.
        critic: tells domains apart.
    """

    encoder: Trunk
    adapter: ScRNAAdapter | None
    expander: nn.Module | None
    locator: nn.Module | None
    critic: nn.Module | None

    def embed_views(self, part: DomainBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """H of both views, (n, d) each, with dropout from ``generator``."""
        x = torch.cat(part.views)
        if part.is_scrna and self.adapter is not None:
            x = self.adapter(x)
        a, b = self.encoder(x, generator).chunk(2)
        return a, b

    def terms(
        self,
        batch: list[DomainBatch],
        weights: EncoderWeights,
        tau: float,
        anchor: Tensor | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Every term with a positive weight, by its name there; what has nothing to act on is 0.

        Args:
            batch: views of several domains; the first has coordinates.
            weights: of the terms.
            tau: temperature of the neighbourhoods.
            anchor: (G, d) the linear map that the trunk started as; None without one.
            generator: of the dropout.
        """
        views = [self.embed_views(part, generator) for part in batch]
        located = batch[0].xy
        assert located is not None  # the dataset puts a slide with coordinates first
        first = views[0][0]
        terms: dict[str, Tensor] = {}
        if self.expander is not None:
            # Not scRNA-seq: the adapter could lower this term by leaving what slides look like.
            each = [
                vicreg(self.expander(a), self.expander(b))
                for part, (a, b) in zip(batch, views, strict=True)
                if not part.is_scrna
            ]
            terms["vicreg"] = torch.stack(each).mean()
        if self.locator is not None:
            place = self.locator(first)
            if weights.neighbours:
                terms["neighbours"] = neighbour_kl(place, spatial_kernel(located), tau)
            if weights.stress:
                terms["stress"] = log_stress(place, located)
        pairs = list(combinations([a for a, _ in views], 2))
        for name, distance in (("coral", coral), ("mmd", rbf_mmd)):
            if getattr(weights, name):
                each = [distance(a, b) for a, b in pairs] or [first.sum() * 0]
                terms[name] = torch.stack(each).mean()
        cells = [a for part, (a, _) in zip(batch, views, strict=True) if part.is_scrna]
        if weights.scrna and cells:
            spots = [a for part, (a, _) in zip(batch, views, strict=True) if not part.is_scrna]
            each = [rbf_mmd(a.detach(), b) for a in spots for b in cells]
            terms["scrna"] = torch.stack(each).mean()
        if self.critic is not None:
            logits = self.critic(reverse_gradient(torch.cat([a for a, _ in views])))
            domain = torch.cat(
                [
                    logits.new_full((len(a),), p.domain).long()
                    for p, (a, _) in zip(batch, views, strict=True)
                ]
            )
            terms["adversary"] = F.cross_entropy(logits, domain)
        if anchor is not None:
            each = []
            for part, (a, _) in zip(batch, views, strict=True):
                start = part.views[0] @ anchor * self.encoder.out_scale
                each.append((a - start).square().mean())
            terms["anchor"] = torch.stack(each).mean()
        return terms


def mlp(width_in: int, width: int, width_out: int, generator: torch.Generator) -> nn.Sequential:
    """Two layers with GELU between, drawn from ``generator``."""
    head = nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width_out))
    with torch.no_grad():
        for name, p in head.named_parameters():
            fan_in = width_in if name.startswith("0") else width
            p.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
    return head


def identity(width: int) -> nn.Linear:
    """A linear layer that changes nothing yet."""
    layer = nn.utils.skip_init(nn.Linear, width, width)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
        layer.bias.zero_()
    return layer


@torch.no_grad()
def unit_scale(encoder: Trunk, slides: list[Expression]) -> float:
    """Factor that brings the variance of H over all rows to 1 in the mean over dimensions."""
    h = torch.cat([embed_rows(encoder, s) for s in slides])
    variance = float(h.double().var(0, correction=0).mean())
    if not variance > 0:
        raise UserError("embeddings of the training slides are constant; is their expression?")
    return variance**-0.5


@torch.no_grad()
def embed_rows(encoder: Trunk, slide: Expression) -> Tensor:
    """(n, d) on the CPU, without dropout."""
    device = encoder.out_scale.device
    blocks = slide.blocks(_ROWS)
    return torch.cat([encoder(torch.from_numpy(x).to(device)).cpu() for x in blocks])
