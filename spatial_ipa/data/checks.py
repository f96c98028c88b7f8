"""What a reader gives, and what of it is refused or mended before anything is computed from it.

What cannot be used is refused by name; what is changed (duplicate genes summed) is warned about
with its count.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from common.errors import UserError

LOGGED_BELOW = 20.0
"""log1p of 4.8e8; raw or depth-normalised counts with decimals go far beyond."""


class SlideParts(NamedTuple):
    """What is read of a slide, as stored but for gene names, which are stripped."""

    matrix: Any
    genes: list[str]
    obs_names: list[str]
    patient: Any  # obs["patient"], None without it
    sections: list[str]  # empty where the source does not say, and without coordinates
    xy: Any  # None where coordinates were not asked for
    where: str  # what to call the matrix in a message
    others: str  # which other matrices there are, for a message about this one


def canonical_csr(counts: sp.spmatrix | np.ndarray) -> sp.csr_matrix:
    """A float32 CSR copy with sorted indices, duplicates summed and stored zeros removed."""
    matrix = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def check_shape(parts: SlideParts, source: str, names_at: str) -> None:
    """Refuse a matrix whose shape is not that of the names.

    Raises:
        ValueError: if so.
    """
    shape = np.shape(parts.matrix)
    if len(shape) != 2:
        raise UserError(f"{source}: {parts.where} must be (spots, genes), got shape {shape}")
    if shape != (len(parts.obs_names), len(parts.genes)):
        raise UserError(
            f"{source}: {parts.where} has shape {shape}, but there are {len(parts.obs_names)} "
            f"obs_names and {len(parts.genes)} {names_at}"
        )
    if 0 in shape:
        raise UserError(f"{source}: empty, {parts.where} has shape {shape}")


def gene_names(column: Any, source: str, where: str) -> list[str]:
    """Names without surrounding white space, of a list, an array or a column as pandas has it."""
    missing = column.isna() if hasattr(column, "isna") else [False] * len(column)
    genes = ["" if no else str(name).strip() for name, no in zip(column, missing, strict=True)]
    if "" in genes:
        raise UserError(f"{source}: {genes.count('')} of {len(genes)} {where} are empty")
    return genes


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


def looks_logged(counts: sp.csr_matrix) -> bool:
    """Whether values are log-normalised: not all whole numbers, and all below 20."""
    values = counts.data
    return bool(values.max() < LOGGED_BELOW and (values != np.floor(values)).any())


def unique_genes(
    genes: list[str], counts: sp.csr_matrix, source: str, logged: bool
) -> tuple[list[str], sp.csr_matrix]:
    """Sum the columns of genes that share a name, in the order of first appearance."""
    unique = list(dict.fromkeys(genes))
    extra = len(genes) - len(unique)
    if extra == 0:
        return genes, counts
    if logged:
        raise UserError(
            f"{source}: {extra} duplicate gene names in logged values, which cannot be summed; raw "
            "counts wanted, or unique names"
        )
    warnings.warn(
        f"{source}: {extra} duplicate gene names; counts of genes of one name were summed "
        f"({len(unique)} genes remain)",
        stacklevel=4,
    )
    column_of = {gene: column for column, gene in enumerate(unique)}
    target = [column_of[gene] for gene in genes]
    ones = np.ones(len(genes), dtype=np.float32)
    gather = sp.csr_matrix((ones, (np.arange(len(genes)), target)), (len(genes), len(unique)))
    return unique, counts @ gather


def distinct(column: Any) -> list[str]:
    """The values of a stored column that are not missing, sorted."""
    known = column.dropna() if hasattr(column, "dropna") else column[column == column]
    return sorted({str(value) for value in known})


def refuse_several_sections(sections: Sequence[str], source: str) -> None:
    """Coordinates of sections lie on top of each other; neighbours across them would be none."""
    if len(sections) > 1:
        raise UserError(
            f"{source}: holds {len(sections)} sections ({', '.join(sections[:5])}), by "
            "obs['library_id'] or uns['spatial']; write one file per section, or, if all lie in "
            "one frame, set obs['library_id'] to one value"
        )


def patient_of(column: Any, source: str, *, one_only: bool) -> str | None:
    """The one patient that a column of ``obs`` names; None if it names none, or several."""
    if column is None:
        return None
    patients = distinct(column)
    if len(patients) > 1 and one_only:
        raise UserError(
            f"{source}: obs['patient'] names {len(patients)} patients ({', '.join(patients[:5])}); "
            "write one file per slide, so that splits can keep patients apart"
        )
    return patients[0] if len(patients) == 1 else None


def checked_xy(xy: Any, source: str, key: str, num_rows: int) -> np.ndarray:
    """(n, 2) float32, finite."""
    where = f"{source}: obsm[{key!r}]"
    array = np.asarray(xy)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{where} must hold numbers, got dtype {array.dtype}")
    if array.shape != (num_rows, 2):
        hint = ""
        if array.ndim == 2 and array.shape[1] == 3:
            hint = "; three columns are ambiguous (a volume? a section index?): store the two "
            hint += "in-plane coordinates of one section"
        raise UserError(f"{where} must have shape ({num_rows}, 2), got {array.shape}{hint}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = int((~np.isfinite(array)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"{where} has {bad} spots with NaN or infinite coordinates; drop them from the file"
        )
    return array
