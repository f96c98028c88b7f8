"""Whether a source holds several sections, and which column tells them apart.

Coordinates of sections lie on top of each other, or side by side in no order; neighbours across
them would be none.  A column with several values need not name sections, so the data are asked
(:mod:`spatial_ipa.data.overlap`), in this order:

1. ``obs["library_id"]``, as squidpy has it, and the region key of SpatialData name sections.
2. Columns called batch, sample, slide, fov and the like: if their groups lie among each other or,
   but for fields of view, in clouds far apart.
3. Array positions (``array_row``, ``array_col``) or coordinates that occur several times, but once
   for each value of a column; grids that are laid over each other.
4. Any other column with few values, and beginnings and ends of ``obs_names``: if its groups lie
   among each other and expression is related to that of neighbours within, not across.

Images of several sections in ``uns["spatial"]`` alone are left over of sections that were cut off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from common.errors import UserError
from spatial_ipa.data.keys import ONE_SECTION
from spatial_ipa.data.overlap import (
    expression_scores,
    grid_spacing,
    is_grid,
    large_groups,
    lie_apart,
    middle_rows,
    neighbour_correlation,
    sample_rows,
    surrounded,
)
from spatial_ipa.data.parts import SlideParts
from spatial_ipa.data.positions import coincident, position_pairs

_NAMES = {
    "batch", "batches", "batchid", "sample", "samples", "sampleid", "samplename", "library",
    "libraryid", "lib", "section", "sections", "sectionid", "slide", "slides", "slideid",
    "slidename", "slice", "fov", "fovs", "fovid", "image", "imageid", "img", "puck", "chip",
    "capture", "core", "tma", "dataset", "experiment", "run", "replicate", "rep", "orig", "bregma",
    "donor", "patient", "subject", "individual", "mouse", "animal", "specimen", "embryo",
}  # fmt: skip
_NO_NAMES = {
    "size", "type", "depth", "score", "quality", "cluster", "count", "counts", "row", "region",
    "layer", "class", "celltype", "annotation",
}  # fmt: skip
_AMONG_NAMED, _AMONG, _AMONG_ANY = 0.15, 0.3, 0.4  # of the spots
_RELATED = 0.2  # of the correlation within, that across sections stays below
_NOTED = 0.04  # correlation that can be told from noise


@dataclass(frozen=True)
class Sections:
    """Sections found: their names, the column that tells them apart (None for none), and why."""

    names: list[str]
    column: str | None
    reason: str

    def refusal(self, source: str) -> str:
        """What to say to the user."""
        shown = ", ".join(self.names[:5]) + (", ..." if len(self.names) > 5 else "")
        if self.column is None:
            return (
                f"{source}: holds several sections: {self.reason}; write one file per section or "
                "a column of obs that tells them apart, to be named with section_key, or, if all "
                f"lie in one frame, say section_key={ONE_SECTION}"
            )
        return (
            f"{source}: holds {len(self.names)} sections ({shown}) by obs[{self.column!r}]: "
            f"{self.reason}; read each as a slide with section_key={self.column}, write one file "
            f"per section or, if all lie in one frame, say section_key={ONE_SECTION}"
        )


def distinct(column: Any) -> list[str]:
    """The values of a stored column that are not missing, sorted."""
    values = pd.Series(np.asarray(column, dtype=object)).dropna()
    return sorted({str(value) for value in values})


def _with_missing(column: Any) -> list[str]:
    """Its values, and that some rows have none."""
    missing = bool(pd.Series(np.asarray(column, dtype=object)).isna().any())
    return distinct(column) + ["no value"] * missing


def split_rows(parts: SlideParts, columns: Sequence[str], source: str) -> dict[str, np.ndarray]:
    """Row numbers of each section, by its name: the values of its columns, sorted.

    Raises:
        ValueError: if a column is missing, or a row has no value.
    """
    absent = [name for name in columns if name not in parts.obs]
    if absent:
        raise UserError(
            f"{source}: obs has no column {absent[0]!r} to split by (section_key); it has "
            f"{', '.join(parts.obs) or 'none'}"
        )
    texts = [pd.Series(np.asarray(parts.obs[name], dtype=object)) for name in columns]
    missing = int(np.any([text.isna() for text in texts], axis=0).sum())
    if missing:
        raise UserError(
            f"{source}: {missing} rows have no value in obs[{', '.join(map(repr, columns))}], by "
            "which sections are told apart (section_key)"
        )
    labels = np.array([" ".join(map(str, row)) for row in zip(*texts, strict=True)])
    return {str(name): np.flatnonzero(labels == name) for name in np.unique(labels)}


def find_sections(
    parts: SlideParts, xy: np.ndarray, counts: sp.csr_matrix, logged: bool
) -> tuple[Sections | None, str]:
    """The sections that a source holds, if it holds several; and what to say if it does not.

    Args:
        parts: of the source, with the columns of ``obs``.
        xy: (n, 2) positions.
        counts: (n, G) expression.
        logged: whether it is logged.
    """
    for name in ("library_id", parts.region_key):
        if name is not None and name in parts.obs and len(found := distinct(parts.obs[name])) > 1:
            what = "the region of each row" if name == parts.region_key else "its library"
            return Sections(found, name, f"it names {what}"), ""
    every, rows = _groups(parts.obs), sample_rows(len(xy))
    groups = {name: codes[rows] for name, codes in every.items()}
    sections = _named(parts, xy[rows], groups) or _repeated(parts, xy, every)
    if sections is None:
        scores: list[np.ndarray] = []

        def score() -> np.ndarray:
            if not scores:
                scores.append(expression_scores(counts[rows], logged))
            return scores[0]

        sections = _unrelated(parts, xy[rows], groups, score, rows)
    if sections is not None:
        return sections, ""
    beside = [name for name in groups if _is_named(name)]
    notes = [
        f"obs[{name!r}] has {len(distinct(parts.obs[name]))} values side by side, taken as one "
        f"section (section_key={name} splits them)"
        for name in beside
    ]
    told = any(_is_named(name) and len(distinct(parts.obs[name])) == 1 for name in parts.obs)
    if len(parts.images) > 1 and not told:
        notes.append(
            f"uns['spatial'] has images of {len(parts.images)} sections, but nothing else tells "
            "sections apart: taken as one"
        )
    return None, "; ".join(notes)


def _named(parts: SlideParts, xy: np.ndarray, groups: Mapping[str, np.ndarray]) -> Sections | None:
    """By a column that is called like sections are."""
    for name in filter(_is_named, groups):
        share = surrounded(xy, groups[name])
        of_view = bool(_words(name) & {"fov", "fovs", "fovid"})  # these may overlap at their edges
        if share > (_AMONG if of_view else _AMONG_NAMED):
            reason = f"{share:.0%} of the spots lie among those of another value"
            if of_view and (common := _common_frame(parts.obs)):
                reason += f" (positions in one frame are in obs: spatial_key={common})"
            return Sections(_with_missing(parts.obs[name]), name, reason)
        if not of_view and lie_apart(xy, groups[name]):
            return Sections(distinct(parts.obs[name]), name, "they are clouds far apart")
    return None


def _repeated(
    parts: SlideParts, xy: np.ndarray, groups: Mapping[str, np.ndarray]
) -> Sections | None:
    """By positions that occur once for each value, or by grids laid over each other."""
    array = _array_positions(parts.obs)
    positions = {"array positions": array, "positions": xy}
    for what, place in positions.items():
        if place is None:
            continue
        size = coincident(place)
        repeats = float((size > 1).mean())
        if repeats < 0.05:
            continue
        reason = f"{repeats:.0%} of the {what} occur more than once"
        for name in sorted(groups, key=_is_named, reverse=True):
            # Cells of one spot differ in type, too, but types are more than cells of a spot.
            if not _is_named(name) and groups[name].max() >= size.max():
                continue
            within = np.column_stack([place, groups[name]])
            if (coincident(within) > 1).mean() < 0.1 * repeats:
                return Sections(distinct(parts.obs[name]), name, f"{reason}, once in each")
        if what != "positions":
            return Sections([], None, reason)
    block = middle_rows(xy)
    spacing = grid_spacing(xy[block])
    if spacing is None:
        return None
    reason = f"grids of spacing {spacing:.3g} lie over each other"
    for name, every in groups.items():
        codes = every[block]
        if all(is_grid(xy[block][codes == group], spacing) for group in large_groups(codes)):
            return Sections(distinct(parts.obs[name]), name, reason)
    return Sections([], None, reason)


def _unrelated(
    parts: SlideParts,
    xy: np.ndarray,
    groups: Mapping[str, np.ndarray],
    score: Callable[[], np.ndarray],
    rows: np.ndarray,
) -> Sections | None:
    """By expression that is related within groups, and not across them."""
    ends = {name: codes[rows] for name, codes in _parts_of_names(parts.obs_names)}
    for name, codes in {**groups, **ends}.items():
        if len(np.unique(codes)) > 50 or surrounded(xy, codes) <= _AMONG_ANY:
            continue
        within, across = neighbour_correlation(xy, codes, score())
        if within - across > _NOTED and across < _RELATED * within:
            reason = "expression is related to that of neighbours of the same value, not of others"
            if name in ends:
                return Sections([], None, f"by the {name}, {reason}")
            return Sections(distinct(parts.obs[name]), name, reason)
    return None


def _common_frame(obs: Mapping[str, Any]) -> str:
    """Columns with the positions of all fields of view in one frame, as ``spatial_key`` has it."""
    return next((pair for pair in position_pairs(list(obs)) if "global" in pair.lower()), "")


def _groups(obs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns with few values, as codes (n,); negative where there is no value."""
    found = {}
    for name, column in obs.items():
        values = np.asarray(column)
        if values.ndim != 1 or (values.dtype.kind == "f" and not _is_named(name)):
            continue
        texts = pd.Series(values.astype(object))
        # Rows of a section that was joined without the column have no value.
        codes, unique = pd.factorize(
            texts.where(texts.notna(), "no value") if _is_named(name) else texts
        )
        if _few(codes, len(unique)):
            found[name] = codes
    return found


def _few(codes: np.ndarray, number: int) -> bool:
    """Whether values can name sections: few, and most rows in groups of ten or more."""
    if not 2 <= number <= max(2, len(codes) // 10):
        return False
    sizes = np.bincount(codes[codes >= 0], minlength=number)
    return int((sizes >= 10).sum()) > 1 and sizes[sizes >= 10].sum() >= 0.5 * len(codes)


def _parts_of_names(names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """What joining leaves in ``obs_names``: ends, beginnings (at - or _), or names repeated."""
    for what, pattern in (("ends", r".*[-_](.+)"), ("beginnings", r"([^-_]+)[-_].*")):
        found = [re.fullmatch(pattern, name) for name in names]
        if all(found):
            codes, unique = pd.factorize(np.array([m[1] for m in found if m], dtype=object))
            if _few(codes, len(unique)):
                yield f"{what} of obs_names", codes
    times = pd.Series(list(names)).groupby(list(names)).cumcount().to_numpy()
    if _few(times, int(times.max()) + 1):
        yield "repeats of obs_names", times


def _array_positions(obs: Mapping[str, Any]) -> np.ndarray | None:
    """(n, 2) rows and columns of spots on their array."""
    if not {"array_row", "array_col"} <= set(obs):
        return None
    columns = [pd.to_numeric(pd.Series(np.asarray(obs[c])), errors="coerce") for c in
               ("array_row", "array_col")]  # fmt: skip
    place = np.column_stack(columns).astype(np.float64)
    return None if np.isnan(place).any() else place


def _words(name: str) -> set[str]:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return set(re.split(r"[^a-z0-9]+", apart.lower()))


def _is_named(name: str) -> bool:
    """Whether a column is called like what tells sections apart."""
    words = _words(name)
    return bool(words & _NAMES) and not words & _NO_NAMES
