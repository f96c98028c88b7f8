"""Normalised expression: the input of the encoder (specification, section 1).

For counts x of one slide, library sizes t_i and target sum S,

    y_ig = log(1 + S x_ig / t_i),        z_ig = (y_ig - mean_i y_ig) / sigma_g,

with the mean over the slide's own non-empty rows, and sigma_g either 1 or the standard deviation
of gene g over the training slides.  Values that are logged already enter as y.  A row without
counts has no expression: its z is 0, the slide's mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from common.errors import UserError


def normalise(
    counts: sp.csr_matrix,
    *,
    totals: np.ndarray | None = None,
    target_sum: float = 1e4,
    logged: bool = False,
    gene_std: np.ndarray | None = None,
) -> np.ndarray:
    """Library size to ``target_sum``, log1p, centred per slide, optionally scaled per gene.

    Args:
        counts: (n, G) non-negative, one slide.
        totals: (n,) library sizes t; the row sums of ``counts`` if None.  Leave it None where
            slides have different gene panels: sums over the shared genes are comparable between
            them, sums over all genes are not.
        target_sum: S.
        logged: the values are log-normalised already and are only centred and scaled.
        gene_std: (G,) positive sigma from :func:`gene_scale` on the training slides.

    Returns:
        (n, G) float32, dense, finite; rows without counts are 0.

    Raises:
        ValueError: if a shape disagrees, ``target_sum`` or a ``gene_std`` is not positive, or a
            row with counts has no library size.
    """
    num_rows, num_genes = counts.shape
    if not target_sum > 0:
        raise UserError(f"target_sum must be positive, got {target_sum}")
    row_sums = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    filled = row_sums > 0
    values = counts.toarray().astype(np.float32, copy=False)
    if not logged:
        sizes = row_sums if totals is None else np.asarray(totals, dtype=np.float64)
        if sizes.shape != (num_rows,):
            raise UserError(f"totals must have shape ({num_rows},), got {sizes.shape}")
        if not (sizes[filled] > 0).all():
            raise UserError("totals must be positive in every row that has counts")
        # A row that has counts, but none of these genes, is expression 0 and not an empty row.
        filled = sizes > 0
        factor = np.where(filled, target_sum / np.where(filled, sizes, 1.0), 0.0)
        values = np.log1p(values * factor[:, None].astype(np.float32))
    if filled.any():
        values -= values[filled].mean(axis=0, dtype=np.float64).astype(np.float32)
    values[~filled] = 0.0
    if gene_std is not None:
        if gene_std.shape != (num_genes,) or not (gene_std > 0).all():
            raise UserError(
                f"gene_std must be ({num_genes},) and positive, got shape {gene_std.shape} with "
                f"minimum {gene_std.min(initial=np.inf):.4g}"
            )
        values /= gene_std.astype(np.float32)
    return values


def gene_scale(slides: Sequence[np.ndarray]) -> np.ndarray:
    """(G,) float32 standard deviation of each gene over the training slides, each centred.

    Args:
        slides: (n_s, G) outputs of :func:`normalise` without ``gene_std``, training slides only.

    Returns:
        sqrt of the mean square over all rows.  A gene that never varies gets 1, which leaves its
        zeros at zero.

    Raises:
        ValueError: if there are no rows or the slides differ in the number of genes.
    """
    widths = {slide.shape[1] for slide in slides}
    num_rows = sum(slide.shape[0] for slide in slides)
    if len(widths) != 1 or num_rows == 0:
        raise UserError(
            f"slides must have rows and one number of genes, got {num_rows} rows and {widths}"
        )
    square = sum(np.square(slide, dtype=np.float64).sum(axis=0) for slide in slides) / num_rows
    return np.where(square > 0, np.sqrt(square), 1.0).astype(np.float32)
