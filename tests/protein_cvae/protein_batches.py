"""Loose chains as batches in float64, and a small network whose every layer does something."""

from __future__ import annotations

import dataclasses

import torch

from protein_cvae.data.batch import ProteinBatch
from protein_cvae.geometry.frames import rotation_from_axis_angle
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
SMALL = {
    "width": 32, "layers": 2, "condition_layers": 1, "heads": 4, "feed_forward": 64,
    "dropout": 0.0, "d_global": 8, "hidden": 16, "decoder_layers": 2,
    "chain_neighbors": 4, "spatial_neighbors": 6,
}  # fmt: skip
REFLECTION = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


def backbone(length: int, generator: torch.Generator) -> torch.Tensor:
    """(L, 3, 3) a loose chain with real bond lengths, float64."""

    def unit(count: int) -> torch.Tensor:
        x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        return x / x.norm(dim=1, keepdim=True)

    ca = (3.8 * unit(length) + 1.0).cumsum(0)
    return torch.stack([ca + 1.458 * unit(length), ca, ca + 1.525 * unit(length)], dim=1)


def conformer(
    length: int, seed: int, *, templated: bool = True, sequence: bool = True
) -> ProteinBatch:
    generator = torch.Generator().manual_seed(seed)
    x = backbone(length, generator)
    template = x + 0.4 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    bonded = torch.ones(1, length, dtype=torch.bool)
    bonded[0, -1] = False
    one = torch.ones(1, length, dtype=torch.bool)
    return ProteinBatch(
        coordinates=x[None],
        mask=one,
        template=template[None],
        template_mask=one & templated,
        aatype=torch.randint(20, (1, length), generator=generator),
        embedding=torch.zeros(1, length, 0, dtype=torch.float64),
        sequence_mask=torch.tensor([sequence]),
        chain_index=torch.zeros(1, length, dtype=torch.int64),
        residue_index=torch.arange(length)[None],
        bonded=bonded,
        core=one,
        weight=torch.ones(1, dtype=torch.float64),
        protein=torch.tensor([seed]),
        model=torch.tensor([0]),
        names=(f"chain{seed}",),
    )


def small_model(**options: object) -> ProteinCVAE:
    torch.manual_seed(0)
    model = ProteinCVAE(NetworkSettings(**(SMALL | options))).double().eval()
    # Layers that start at 0 would hide what they do.
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return model


def pose(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    turn = rotation_from_axis_angle(torch.randn(3, generator=generator, dtype=torch.float64))
    return turn, 20 * torch.randn(3, generator=generator, dtype=torch.float64)


def moved(
    batch: ProteinBatch,
    *,
    conformer_pose: int | None = None,
    template_pose: int | None = None,
    mirror: bool = False,
) -> ProteinBatch:
    changes = {}
    for field, seed in (("coordinates", conformer_pose), ("template", template_pose)):
        x = getattr(batch, field)
        if mirror:
            x = x @ REFLECTION
        if seed is not None:
            turn, shift = pose(seed)
            x = x @ turn.mT + shift
        changes[field] = x
    return dataclasses.replace(batch, **changes)
