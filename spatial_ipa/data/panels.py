"""Which genes several slides share, which of them vary, and one slide's matrix on a given panel.

Variable genes are ranked per slide by the variance of their analytic Pearson residuals (Lause,
Berens & Kobak, Genome Biol. 22:258, 2021, eqs. 1-3): with row sums r_i, column sums c_g, total N,

    mu_ig = r_i c_g / N,    z_ig = (x_ig - mu_ig) / sqrt(mu_ig + mu_ig^2 / theta),

theta = 100 and z limited to +-sqrt(n), as published.  Logged slides have no count noise model:
their genes are ranked by the log of variance over mean of exp(x) - 1, standardised among genes of
similar mean (Satija et al., Nat. Biotechnol. 33:495, 2015).  Ranks, not values, are averaged over
slides, so that neither depth nor scale lets one slide decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from lightning.pytorch.utilities import rank_zero_info
from scipy.stats import rankdata

from common.errors import UserError
from spatial_ipa.data.matrices import column_map
from spatial_ipa.data.slide import Slide

MIN_GENES = 100
"""Fewer genes do not place cells."""

_CHUNK = 512  # genes made dense at a time


def gene_panel(slides: Sequence[Slide], min_genes: int = MIN_GENES) -> tuple[str, ...]:
    """Genes that every slide has, in the order of the first slide; their number is shown.

    Raises:
        ValueError: if there is no slide, or fewer than ``min_genes`` genes remain; the message
            gives each slide's overlap with the first.
    """
    if not slides:
        raise UserError("slides is empty: a gene panel needs at least one slide")
    shared = set(slides[0].genes).intersection(*(slide.genes for slide in slides[1:]))
    panel = tuple(gene for gene in slides[0].genes if gene in shared)
    rank_zero_info(f"{len(panel)} genes are shared by {len(slides)} slides")
    if len(panel) < min_genes:
        first = set(slides[0].genes)
        overlaps = ", ".join(
            f"{slide.name}: {len(first.intersection(slide.genes))} of {len(slide.genes)}"
            for slide in slides
        )
        raise UserError(
            f"{len(panel)} genes are shared by all slides, at least min_genes={min_genes} are "
            f"needed; shared with {slides[0].name}: {overlaps}{_case_hint(slides)}. "
            f"{_kinds_hint(slides)}"
        )
    return panel


def select_genes(slides: Sequence[Slide], panel: Sequence[str], n_top: int) -> tuple[str, ...]:
    """The ``n_top`` most variable genes of the panel, most variable first.

    Give it the training slides only: choosing genes on a held-out slide leaks it.  Equal ranks are
    ordered by name, so neither the order of the genes nor of the slides matters.

    Raises:
        ValueError: if there is no slide, ``n_top`` is not in [1, len(panel)], or a slide lacks a
            gene of the panel.
    """
    if not slides:
        raise UserError("slides is empty: variable genes are chosen on the training slides")
    if not 1 <= n_top <= len(panel):
        raise UserError(f"n_top must lie in [1, {len(panel)}], the size of the panel; got {n_top}")
    ranks = np.zeros(len(panel))
    for slide in slides:
        counts, _ = reindex(slide, panel, max_missing=0.0)
        spread = _log_dispersion(counts) if slide.is_logged else _residual_variance(counts)
        ranks += rankdata(spread)
    order = sorted(range(len(panel)), key=lambda gene: (-ranks[gene], panel[gene]))
    return tuple(panel[gene] for gene in order[:n_top])


def panel_columns(slide: Slide, panel: Sequence[str], max_missing: float = 0.5) -> np.ndarray:
    """Where the panel's genes are among the slide's.

    Args:
        slide: n rows.
        panel: P unique gene names.
        max_missing: largest fraction of the panel that the slide may lack.

    Returns:
        (P,) int64 column of each gene in the slide, -1 where it is missing.

    Raises:
        ValueError: if the panel is empty or repeats a gene, or too many genes are missing.
    """
    if not panel or len(set(panel)) < len(panel):
        raise UserError(
            f"panel must hold unique gene names, got {len(panel)}, {len(set(panel))} unique"
        )
    column_of = {gene: column for column, gene in enumerate(slide.genes)}
    missing = [gene for gene in panel if gene not in column_of]
    if len(missing) > max_missing * len(panel):
        raise UserError(
            f"slide {slide.name!r} lacks {len(missing)} of the {len(panel)} genes of the panel "
            f"(at most {max_missing:.0%} may be missing), among them {', '.join(missing[:3])}; "
            f"its own are called {', '.join(slide.genes[:3])}. {_SAME_KIND}"
        )
    return np.array([column_of.get(gene, -1) for gene in panel])


def reindex(
    slide: Slide, panel: Sequence[str], max_missing: float = 0.5
) -> tuple[sp.csr_matrix, list[str]]:
    """The slide's matrix with the panel's genes as columns.

    Args:
        slide, panel, max_missing: see :func:`panel_columns`.

    Returns:
        (n, P) float32 canonical CSR, zero where a gene is missing, and the missing genes in the
        panel's order.

    Raises:
        ValueError: as :func:`panel_columns`.
    """
    columns = panel_columns(slide, panel, max_missing)
    counts = on_panel(slide.counts, gather_matrix(slide, columns))
    return counts, [gene for gene, column in zip(panel, columns, strict=True) if column < 0]


def gather_matrix(slide: Slide, columns: np.ndarray) -> sp.csr_matrix:
    """(G, P) of ones, which brings a slide's genes to a panel; columns of :func:`panel_columns`."""
    return sp.csr_matrix(column_map(columns, len(slide.genes)).T)


def on_panel(counts: sp.csr_matrix, gather: sp.csr_matrix) -> sp.csr_matrix:
    """(n, P) canonical CSR of rows (n, G) of a slide, by the matrix of :func:`gather_matrix`."""
    found = sp.csr_matrix(counts @ gather)
    found.sort_indices()
    return found


def rows_with_counts(slide: Slide, panel: Sequence[str], max_missing: float = 0.5) -> np.ndarray:
    """(n,) bool, rows with counts on the panel, without building the matrix of :func:`reindex`."""
    columns = panel_columns(slide, panel, max_missing)
    wanted = np.zeros(len(slide.genes), dtype=np.float32)
    wanted[columns[columns >= 0]] = 1
    return np.asarray(slide.counts @ wanted > 0)


def _residual_variance(counts: sp.csr_matrix, theta: float = 100.0) -> np.ndarray:
    """(G,) variance of the analytic Pearson residuals; 0 for genes without counts."""
    columns = counts.tocsc()
    row_sums = np.asarray(counts.sum(axis=1, dtype=np.float64))  # (n, 1)
    gene_sums = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()  # (G,)
    limit = np.sqrt(counts.shape[0])
    variance = np.zeros(counts.shape[1])
    for start in range(0, counts.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        mean = row_sums * (gene_sums[part] / max(gene_sums.sum(), 1.0))  # (n, chunk)
        spread = np.sqrt(mean + mean**2 / theta)
        residual = (columns[:, part].toarray() - mean) / np.where(spread > 0, spread, 1.0)
        variance[part] = np.clip(residual, -limit, limit).var(axis=0)
    return variance


def _log_dispersion(logged: sp.csr_matrix, num_bins: int = 20) -> np.ndarray:
    """(G,) log(variance/mean) of exp(x) - 1, standardised within bins of the mean; least if 0."""
    values = logged.astype(np.float64).expm1()
    mean = np.asarray(values.mean(axis=0)).ravel()
    square = np.asarray(values.multiply(values).mean(axis=0)).ravel()
    variance = square - mean**2
    used = np.flatnonzero((mean > 0) & (variance > 0))
    score = np.full(mean.size, -np.inf)
    dispersion = np.log(variance[used] / mean[used])
    by_mean = np.argsort(mean[used], kind="stable")
    for members in np.array_split(by_mean, min(num_bins, max(1, used.size // 10))):
        group = dispersion[members]
        if group.size:
            score[used[members]] = (group - group.mean()) / (group.std() or 1.0)
    return score


_SAME_KIND = (
    "If species are the same and kinds of name are not (symbols, Ensembl ids, ids with versions), "
    "name a column of var that holds names of the other's kind (keys.gene_key; of scRNA beside "
    "slides, scrna_keys.gene_key), or set var_names"
)


def _kinds_hint(slides: Sequence[Slide]) -> str:
    names = "; ".join(f"{slide.name}: {', '.join(slide.genes[:3])}" for slide in slides[:4])
    return f"Genes are called {names}. {_SAME_KIND}"


def _case_hint(slides: Sequence[Slide]) -> str:
    folded = set.intersection(*({gene.upper() for gene in slide.genes} for slide in slides))
    return f" ({len(folded)} if case were ignored, which it is not)"
