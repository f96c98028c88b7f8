"""A hierarchical conditional VAE over the conformations of a protein."""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "EncodeDataModule": "protein_cvae.generation.commands.encode",
    "EnsembleDataModule": "protein_cvae.data.datamodule",
    "EsmEmbedder": "protein_cvae.data.embeddings",
    "GenerateDataModule": "protein_cvae.generation.commands.generate",
    "InterpolateDataModule": "protein_cvae.generation.commands.interpolate",
    "ProteinCVAEModule": "protein_cvae.module",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
