"""What of a source is refused, left out or mended before anything is computed from it.

What cannot be used is refused by name; what is left out, changed or decided is said, one line for
each slide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from common.errors import UserError
from spatial_ipa.data.genes import genes_only, unique_genes
from spatial_ipa.data.keys import ONE_SECTION, SlideKeys
from spatial_ipa.data.matrices import canonical_csr
from spatial_ipa.data.parts import SlideParts
from spatial_ipa.data.positions import checked_xy, in_plane, without_coincident
from spatial_ipa.data.sections import distinct, find_sections
from spatial_ipa.data.tissue_mask import off_tissue
from spatial_ipa.data.values import judge_values


@dataclass(frozen=True)
class CheckedParts:
    """What a slide is built of.

    Attributes:
        counts: (n, G) float32 canonical CSR.
        genes: G unique names.
        xy: (n, 2) float32; None for cells without coordinates.
        obs_names: n names.
        rows: (n,) their rows in the source.
        is_logged: whether ``counts`` holds log-normalised values.
        patient: the one patient of the source.
        notes: what was left out, changed or decided, a phrase each.
    """

    counts: sp.csr_matrix
    genes: list[str]
    xy: np.ndarray | None
    obs_names: list[str]
    rows: np.ndarray
    is_logged: bool
    patient: str | None
    notes: tuple[str, ...]

    def take(self, keep: np.ndarray, note: str) -> CheckedParts:
        """Only the rows for which ``keep`` (n,) is true; ``note`` says why, unless all are."""
        if keep.all():
            return self
        return replace(
            self,
            counts=self.counts[np.flatnonzero(keep)],
            xy=None if self.xy is None else self.xy[keep],
            obs_names=[name for name, yes in zip(self.obs_names, keep, strict=True) if yes],
            rows=self.rows[keep],
            notes=(*self.notes, note),
        )


def check_parts(
    parts: SlideParts,
    source: str,
    keys: SlideKeys,
    *,
    require_spatial: bool,
    min_spots: int,
    logged: bool | None,
) -> CheckedParts:
    """Check what a reader gave; the arguments are those of ``Slide.all_from_parts``.

    Raises:
        ValueError: on what cannot be used, naming ``source``.
    """
    counts = checked_counts(parts.matrix, parts.where, parts.others)
    genes, counts, others = genes_only(parts.genes, counts, parts.kinds)
    stated = keys.values == "logged" if keys.values is not None else logged
    judged = judge_values(counts) if stated is None else None
    is_logged = judged.logged if judged is not None else bool(stated)
    notes = [others]
    if judged is not None and not judged.certain:
        what, other = ("log-normalised", "counts") if is_logged else ("counts", "logged")
        notes.append(
            f"{parts.where.removeprefix(f'{source}: ')} is taken as {what}: {judged.reason} (if "
            f"not, state values={other}; {parts.others})"
        )
    genes, counts, summed = unique_genes(genes, counts, source, is_logged)
    rows = np.arange(counts.shape[0]) if parts.rows is None else parts.rows
    checked = CheckedParts(
        counts, genes, None, parts.obs_names, rows, is_logged, None, (*notes, summed)
    )
    off = None if keys.keep_off_tissue else off_tissue(parts.obs)
    if require_spatial:
        checked = _as_slide(checked, parts, source, keys, off)
    elif off is not None:
        checked = replace(
            checked,
            counts=canonical_csr(sp.diags((~off[1]).astype(np.float32)) @ counts),
            notes=(*checked.notes, _off_note(*off)),
        )
    if len(checked.rows) < min_spots:
        raise UserError(
            f"{source}: {len(checked.rows)} spots with counts, at least {min_spots} are needed; "
            "leave this file out"
        )
    patient = patient_of(parts.obs.get("patient"), source, one_only=require_spatial)
    return replace(checked, patient=patient, notes=tuple(note for note in checked.notes if note))


def _as_slide(
    checked: CheckedParts,
    parts: SlideParts,
    source: str,
    keys: SlideKeys,
    off: tuple[str, np.ndarray] | None,
) -> CheckedParts:
    """With coordinates, and only the spots that a slide is trained on."""
    where, total = f"{source}: {parts.xy_at}", len(checked.rows)
    keep = np.ones(total, dtype=bool) if off is None else ~off[1]
    if not keep.any():
        raise UserError(
            f"{source}: obs[{off[0] if off else ''!r}] says that no spot lies on the tissue; keep "
            "them all with keep_off_tissue"
        )
    kept = parts if keep.all() else parts.take(np.flatnonzero(keep))
    checked = checked.take(keep, "" if off is None else _off_note(*off))
    xy, note = in_plane(kept.xy)
    checked = replace(
        checked, xy=checked_xy(xy, where, len(checked.rows)), notes=(*checked.notes, note)
    )
    assert checked.xy is not None
    filled = np.diff(checked.counts.indptr) > 0
    if keys.section_key != ONE_SECTION:
        some = kept if filled.all() else kept.take(np.flatnonzero(filled))
        sections, note = find_sections(
            some, checked.xy[filled], checked.counts[np.flatnonzero(filled)], checked.is_logged
        )
        if sections is not None:
            raise UserError(sections.refusal(source))
        checked = replace(checked, notes=(*checked.notes, note))
    empty = int((~filled).sum())
    checked = checked.take(filled, f"dropped {empty} of {filled.size} spots without any count")
    assert checked.xy is not None
    if len(checked.xy):
        own, note = without_coincident(checked.xy, where, drop=keys.drop_coincident)
        checked = checked.take(own, note)
    return checked


def _off_note(column: str, off: np.ndarray) -> str:
    return (
        f"left out {int(off.sum())} of {off.size} spots beside the tissue (obs[{column!r}]; "
        "keep_off_tissue keeps them)"
    )


def checked_counts(matrix: Any, where: str, others: str) -> sp.csr_matrix:
    """(n, G) float32 canonical CSR of finite, non-negative values, not all zero."""
    dtype = getattr(matrix, "dtype", np.dtype(object))
    if dtype.kind not in "iuf":
        raise UserError(f"{where} must hold numbers, got dtype {dtype}; raw counts wanted")
    if sp.issparse(matrix):
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise UserError(f"{where} is damaged: {error}") from error
    with np.errstate(over="ignore"):  # an overflow to float32 is reported as non-finite below
        counts = canonical_csr(matrix)
    if not np.isfinite(counts.data).all():
        bad = int((~np.isfinite(counts.data)).sum())
        raise UserError(f"{where} has {bad} values that are NaN, infinite or beyond float32")
    if counts.nnz == 0:
        raise UserError(f"{where} is zero everywhere; no spot has a count")
    if counts.data.min() < 0:
        raise UserError(
            f"{where} has negative values (minimum {counts.data.min():.4g}), as scaled data has; "
            f"raw counts wanted ({others})"
        )
    return counts


def patient_of(column: Any, source: str, *, one_only: bool) -> str | None:
    """The one patient that a column of ``obs`` names; None if it names none, or several."""
    if column is None:
        return None
    patients = distinct(column)
    if len(patients) > 1 and one_only:
        raise UserError(
            f"{source}: obs['patient'] names {len(patients)} patients ({', '.join(patients[:5])}); "
            "read the slide of each apart with section_key=patient, or write one file per slide, "
            "so that splits can keep patients apart"
        )
    return patients[0] if len(patients) == 1 else None
