"""Identifiability report: how far expression fixes position, and how error radii held.

    FOLDER/identifiability.json             all numbers, by slide
    FOLDER/identifiability.md               the same as two short tables
    FOLDER/identifiability_<slide>.png      where on the slide, and the symmetry indices

Quantities are defined in :mod:`spatial_ipa.confidence.identifiability` and
:mod:`spatial_ipa.confidence.calibration`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files.atomic import atomic_path
from common.report.figures import save_figure
from common.report.tables import markdown_table, number, without_nan
from spatial_ipa.confidence.identifiability import slide_identifiability
from spatial_ipa.evaluation.plots.identifiability import identifiability_figure

Values = Mapping[str, float | str]

_COLUMNS = (
    "role",
    "ambiguity",
    "ambiguity_floor",
    "multimodal",
    "mirror_index",
    "half_turn_index",
    "verdict",
)


@dataclass(frozen=True, eq=False)
class JudgedSlide:
    """A slide of known positions: embeddings ``h`` (n, d), coordinates ``xy`` (n, 2)."""

    name: str
    role: str
    h: np.ndarray
    xy: np.ndarray


def write_identifiability(
    slides: Sequence[JudgedSlide], radii: Mapping[str, Mapping[str, float]], folder: Path
) -> str:
    """Judge slides and write the report.

    Args:
        slides: with different names.
        radii: :func:`~spatial_ipa.confidence.calibration.radius_check` by sample; may be empty.
        folder: must exist.

    Returns:
        The text of the tables.
    """
    reports: dict[str, Values] = {}
    for slide in slides:
        found = slide_identifiability(slide.h, slide.xy)
        reports[slide.name] = {"role": slide.role, **found.summary()}
        figure = identifiability_figure(slide.name, slide.xy, found)
        save_figure(figure, folder / f"identifiability_{slide.name.replace('/', '_')}.png")
    text = _table("slide", _COLUMNS, reports) + "\n"
    if radii:
        text += _table("error radii", tuple(next(iter(radii.values()))), radii)
    else:
        text += "No error radii: they need validation slides and at least as many draws.\n"
    content = without_nan({"slides": reports, "radii": radii})
    for name, written in (
        ("identifiability.json", json.dumps(content, indent=1)),
        ("identifiability.md", text),
    ):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(written)
    return text


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Values]) -> str:
    cells = (
        [name, *(v if isinstance(v := row[c], str) else number(v, 2, "nan") for c in columns)]
        for name, row in rows.items()
    )
    return markdown_table([corner, *columns], cells) + "\n"
