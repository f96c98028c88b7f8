"""Gene panels and variable genes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import rankdata
from scipy.stats.contingency import expected_freq

from spatial_ipa.data.panels import gene_panel, reindex, rows_with_counts, select_genes
from spatial_ipa.data.slide import Slide


def slide(name: str, counts: np.ndarray, genes: list[str], is_logged: bool = False) -> Slide:
    return Slide.build(name, counts, genes, None, is_logged=is_logged)


def planted(seed: int, num_genes: int = 60, variable: int = 8) -> np.ndarray:
    """(200, G) counts of genes of very different abundance; the first ones follow a gradient."""
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.uniform(-0.5, 2.5, num_genes)) * np.ones((200, 1))
    mean[:, :variable] *= np.exp(2.0 * np.linspace(-1, 1, 200))[:, None]
    return rng.poisson(mean * rng.lognormal(0, 0.3, (200, 1)))


def names(num: int) -> list[str]:
    return [f"g{i}" for i in range(num)]


def test_panel_is_the_intersection_in_the_first_slides_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = np.ones((3, 4))
    slides = [slide("a", one, list("dcba")), slide("b", one, list("abce"))]
    # Lightning's own logger: it shows INFO on the first process without any configuration.
    logger = logging.getLogger("lightning.pytorch")
    assert logger.isEnabledFor(logging.INFO)
    logger.addHandler(caplog.handler)
    try:
        assert gene_panel(slides, min_genes=3) == ("c", "b", "a")
    finally:
        logger.removeHandler(caplog.handler)
    assert "3 genes are shared by 2 slides" in caplog.text


def test_small_panels_are_refused_with_each_overlap() -> None:
    one = np.ones((3, 4))
    slides = [
        slide("human", one, ["GFAP", "MBP", "ACTB", "X"]),
        slide("mouse", one, ["Gfap", "Mbp", "Actb", "X"]),
    ]
    with pytest.raises(ValueError, match=r"1 genes .*human: 4 of 4, mouse: 1 of 4 \(4 if case"):
        gene_panel(slides, min_genes=2)
    ensembl = slide("ensembl", one, ["ENSG01", "ENSG02", "ENSG03", "ENSG04"])
    told = r"human: GFAP, MBP, ACTB; ensembl: ENSG01, ENSG02, ENSG03.*symbols, Ensembl ids"
    with pytest.raises(ValueError, match=told):
        gene_panel([slides[0], ensembl])
    with pytest.raises(ValueError, match="slides is empty"):
        gene_panel([])


def test_reindex_equals_dense_indexing_and_reports_missing_genes() -> None:
    counts = planted(0)
    source = slide("a", counts, names(60))
    panel = ["g7", "new", "g0", "g59", "other", "g3"]
    matrix, missing = reindex(source, panel)
    assert missing == ["new", "other"]
    expected = np.zeros((200, 6))
    expected[:, [0, 2, 3, 5]] = counts[:, [7, 0, 59, 3]]
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.dtype == np.float32
    assert matrix.has_canonical_format
    with pytest.raises(
        ValueError, match=r"'a' lacks 2 of the 6 .*new, other; its own are called g0"
    ):
        reindex(source, panel, max_missing=0.2)
    with pytest.raises(ValueError, match="panel must hold unique gene names"):
        reindex(source, ["g1", "g1"])


def test_rows_with_counts_are_those_of_the_panel_alone() -> None:
    counts = np.array([[0, 0, 3, 0], [0, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 5]])
    one = slide("one", counts, list("abcd"))
    assert rows_with_counts(one, ["d", "b", "gone"]).tolist() == [False, True, False, True]
    dense = reindex(one, ["d", "b", "gone"])[0].toarray()
    assert rows_with_counts(one, ["d", "b", "gone"]).tolist() == dense.any(1).tolist()
    with pytest.raises(ValueError, match="lacks 2 of the 3 genes"):
        rows_with_counts(one, ["a", "x", "y"])


def test_gene_order_does_not_matter() -> None:
    counts = planted(1)
    order = np.random.default_rng(2).permutation(60)
    a = slide("a", counts, names(60))
    b = slide("b", counts[:, order], [f"g{i}" for i in order])
    panel = names(60)[5:50]
    one, two = reindex(a, panel)[0], reindex(b, panel)[0]
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(one, part), getattr(two, part))
    shuffled = [panel[i] for i in np.random.default_rng(3).permutation(len(panel))]
    assert select_genes([a], panel, 20) == select_genes([b], shuffled, 20)


def test_ranking_equals_dense_pearson_residuals() -> None:
    """Reference: SciPy's expected frequencies of the contingency table, dense."""
    slides, total = [], np.zeros(60)
    for seed in (0, 1):
        counts = planted(seed).astype(float)
        slides.append(slide(str(seed), counts, names(60)))
        mean = expected_freq(counts)
        residual = (counts - mean) / np.sqrt(mean + mean**2 / 100)
        total += rankdata(np.clip(residual, -np.sqrt(200), np.sqrt(200)).var(axis=0))
    expected = sorted(range(60), key=lambda gene: (-total[gene], f"g{gene}"))
    assert select_genes(slides, names(60), 60) == tuple(f"g{gene}" for gene in expected)


@pytest.mark.parametrize("logged", [False, True])
def test_planted_genes_are_found_whatever_their_abundance(logged: bool) -> None:
    slides = []
    for seed in range(3):
        counts = planted(seed).astype(float)
        if logged:
            counts = np.log1p(1e3 * counts / counts.sum(1, keepdims=True))
        slides.append(slide(str(seed), counts, names(60), is_logged=logged))
    found = select_genes(slides, names(60), 8)
    assert len({f"g{i}" for i in range(8)}.intersection(found)) >= (6 if logged else 8)
    assert select_genes(slides[::-1], names(60), 8) == found


def test_ties_and_silent_genes_are_ordered_by_name() -> None:
    counts = np.zeros((10, 5))
    counts[:5, :2] = 3  # d and b vary alike
    counts[:, 2] = 4
    genes = ["d", "b", "e", "c", "a"]
    ranked = select_genes([slide("a", counts, genes)], genes, 5)
    assert [gene for gene in ranked if gene != "e"] == ["b", "d", "a", "c"]


def test_selection_refuses_what_it_cannot_rank() -> None:
    source = slide("a", planted(0), names(60))
    with pytest.raises(ValueError, match=r"n_top must lie in \[1, 60\].*got 61"):
        select_genes([source], names(60), 61)
    with pytest.raises(ValueError, match="lacks 1 of the 61 genes"):
        select_genes([source], [*names(60), "x"], 5)
    with pytest.raises(ValueError, match="slides is empty"):
        select_genes([], names(60), 5)


def test_slides_hash_their_content_and_not_its_storage() -> None:
    counts = sp.csr_matrix(planted(0).astype(np.float32))
    messy = counts.copy()
    for row in range(messy.shape[0]):  # reverse the order within each row
        part = slice(messy.indptr[row], messy.indptr[row + 1])
        messy.indices[part] = messy.indices[part][::-1].copy()
        messy.data[part] = messy.data[part][::-1].copy()
    messy.has_sorted_indices = False
    stored_zeros = counts + sp.csr_matrix(([1.0], ([0], [0])), counts.shape, dtype=np.float32)
    stored_zeros[0, 0] -= 1.0
    one = Slide.build("a", counts, names(60), None)
    for same in (messy, stored_zeros):
        assert Slide.build("b", same, names(60), None).content_hash == one.content_hash
    assert Slide.build("a", 2 * counts, names(60), None).content_hash != one.content_hash
    logged = Slide.build("a", counts, names(60), None, is_logged=True)
    assert logged.expression_hash != one.expression_hash


@pytest.mark.parametrize(
    ("genes", "xy", "message"),
    [
        (["a"], None, "1 genes"),
        (["a", "a"], None, "gene names must be unique"),
        (["a", "b"], np.zeros((2, 2)), r"xy must be \(3, 2\), got \(2, 2\)"),
    ],
)
def test_slides_refuse_arrays_that_disagree(
    genes: list[str], xy: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Slide.build("s", np.ones((3, 2)), genes, xy)
