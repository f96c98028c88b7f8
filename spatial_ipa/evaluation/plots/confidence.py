"""Maps of how well positions are known, from the fields of a prediction.

``obs`` and ``settings`` are ``obs`` and ``uns["spatial_ipa"]`` of
:mod:`spatial_ipa.placing.result`; ``placed`` (n,) bool are the cells that have coordinates, in the
order of the maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spatial_ipa.evaluation.plots.layouts import CellMap

TISSUE = "RMS radii of the tissue"
LAYOUT = "RMS radii of the layout"


def layout_scale(settings: Mapping[str, Any]) -> float:
    """RMS radii of the tissue in one of the layout, as calibrated; 1 without calibration."""
    return float(settings.get("calibration", {}).get("scale", 1.0))


def radius_map(
    obs: Mapping[str, Any],
    settings: Mapping[str, Any],
    placed: np.ndarray,
    scale: float = 1.0,
    unit: str = LAYOUT,
) -> CellMap | None:
    """Error radii in ``unit``, ``scale`` of which are one of the layout; None without any."""
    if "spatial_ipa_radius" not in obs:
        return None
    coverage = settings.get("calibration", {}).get("coverage")
    title = "error radius" if coverage is None else f"error radius that holds {coverage:.0%}"
    values = scale * np.asarray(obs["spatial_ipa_radius"])[placed]
    return CellMap(title, values, unit, np.asarray(obs["spatial_ipa_abstain"])[placed].astype(bool))


def spread_map(obs: Mapping[str, Any], placed: np.ndarray) -> CellMap:
    """Spread of each cell over draws."""
    values = np.asarray(obs["spatial_ipa_uncertainty"])[placed]
    return CellMap("spread over draws", values, LAYOUT)


def confidence_maps(
    obs: Mapping[str, Any], settings: Mapping[str, Any], placed: np.ndarray
) -> list[CellMap]:
    """Error radius, spread over draws and ambiguity of expression: those that there are."""
    maps = [radius_map(obs, settings, placed), spread_map(obs, placed)]
    if "spatial_ipa_ambiguity" in obs:
        values = np.asarray(obs["spatial_ipa_ambiguity"])[placed]
        maps.append(CellMap("ambiguity of expression", values, "0: one place, 1: anywhere"))
    return [shown for shown in maps if shown is not None]
