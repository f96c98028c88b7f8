"""A hierarchical conditional VAE over the conformations of a protein.

    model = protein_cvae.fit("my/nmr/*.cif.gz", out="runs/mine")
    model = protein_cvae.load("runs/mine/protein_cvae.ckpt")
    new = model.generate("2sdf.pdb", 100)
    protein_cvae.write("new.cif", new)

Names are imported when they are first used: importing the package itself is fast.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "DrawSettings": "data.settings",
    "EncodeDataModule": "generation.commands.encode",
    "Ensemble": "ensemble",
    "EnsembleDataModule": "data.datamodule",
    "EsmEmbedder": "data.embeddings",
    "EvaluationSettings": "evaluation.settings",
    "GenerateDataModule": "generation.commands.generate",
    "GenerateOptions": "generation.generate",
    "InterpolateDataModule": "generation.commands.interpolate",
    "InterpolateOptions": "generation.interpolate",
    "LossWeights": "model.losses",
    "NetworkSettings": "model.settings",
    "Preset": "presets",
    "ProteinCVAEModule": "module",
    "ProteinModel": "trained",
    "Sources": "data.settings",
    "SplitSettings": "data.settings",
    "fit": "fitting",
    "load": "trained",
    "read": "trained",
    "write": "trained",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
