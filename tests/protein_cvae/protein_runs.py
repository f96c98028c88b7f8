"""A tiny network, its options by name and `lightning predict` in this process, for the tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from protein_cvae.ensemble import Ensemble
from protein_cvae.generation.commands.generate import GenerateDataModule
from protein_cvae.generation.generate import GenerateOptions
from protein_cvae.generation.inputs import ReadingOptions
from protein_cvae.geometry.projection import inside_tolerance
from protein_cvae.model.network import ProteinCVAE
from protein_cvae.model.settings import NetworkSettings
from protein_cvae.module import ProteinCVAEModule

ROOT = Path(__file__).resolve().parents[2]
CA = 1
Command = Callable[..., Path]
SIZES = {
    "width": 16, "layers": 1, "condition_layers": 1, "heads": 2, "feed_forward": 16,
    "d_global": 6, "hidden": 8, "decoder_layers": 1, "chain_neighbors": 4,
    "spatial_neighbors": 6,
}  # fmt: skip
# Options of the tasks that belong to a group.
GROUPS = {
    "options": (
        "mode",
        "count",
        "model",
        "temperature",
        "bandwidth",
        "seed",
        "finish",
        "spread",
        "steps",
        "templates",
        "atoms",
    ),
    "ends": ("second", "first_model", "second_model"),
    "reading": ("chains", "incomplete", "max_frames"),
}


def tiny_module(**options: int) -> ProteinCVAEModule:
    torch.manual_seed(0)
    return ProteinCVAEModule(NetworkSettings(**(SIZES | options)))  # type: ignore[arg-type]


def tiny_network(**options: int) -> ProteinCVAE:
    return tiny_module(**options).model


def generate_data(given_output: str, input: str | None = None, **flat: Any) -> GenerateDataModule:
    """The data module with options of :data:`GROUPS` given by name."""
    groups: dict[str, dict[str, Any]] = {"options": {}, "reading": {}}
    for group, found in groups.items():
        found |= {name: flat.pop(name) for name in GROUPS[group] if name in flat}
    return GenerateDataModule(
        flat.pop("output", given_output),
        input,
        options=GenerateOptions(**groups["options"]),
        reading=ReadingOptions(**groups["reading"]),
        **flat,
    )


def made_of(ensemble: Ensemble, **changes: object) -> Ensemble:
    return dataclasses.replace(ensemble, **changes)  # type: ignore[arg-type]


def all_inside(ensemble: Ensemble, cis: torch.Tensor | None = None) -> bool:
    bonded = ensemble.bonded.expand(ensemble.mask.shape)
    return bool(inside_tolerance(ensemble.coordinates, bonded, ensemble.mask, cis).all())


def structure_file(trained: Path) -> Path:
    return trained / "simulated_3_0.pdb"
