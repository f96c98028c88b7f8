"""Positions of cells from their expression, learned from tissue slides.

The public names, each with an example in its docstring, are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "CellDataModule": "spatial_ipa.placing.command",
    "EncoderDataModule": "spatial_ipa.encoder.datamodule",
    "EncoderModule": "spatial_ipa.encoder.module",
    "PlacementOptions": "spatial_ipa.placing.options",
    "Placer": "spatial_ipa.placing.placer",
    "Slide": "spatial_ipa.data.slide",
    "SlideDataModule": "spatial_ipa.training.datamodule",
    "SlideKeys": "spatial_ipa.data.keys",
    "SpatialIPAModule": "spatial_ipa.training.module",
    "fit": "spatial_ipa.pipeline.fit",
    "load": "spatial_ipa.placing.load",
    "read_slide": "spatial_ipa.data.read",
}

__all__ = [
    "CellDataModule",
    "EncoderDataModule",
    "EncoderModule",
    "PlacementOptions",
    "Placer",
    "Slide",
    "SlideDataModule",
    "SlideKeys",
    "SpatialIPAModule",
    "fit",
    "load",
    "pl",
    "read_slide",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name == "pl":
        return import_module("spatial_ipa.pl")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
