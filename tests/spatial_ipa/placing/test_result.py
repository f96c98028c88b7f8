"""What is written about placed cells: the graph, the lengths of its edges, and their names."""

from __future__ import annotations

import anndata as ad
import numpy as np
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from spatial_ipa.placing.result import CellPrediction


def prediction(n: int = 7) -> CellPrediction:
    rng = np.random.default_rng(0)
    graph = sp.random(n, n, 0.4, "csr", np.float32, rng)
    empty = np.zeros(n, dtype=bool)
    xy = rng.normal(size=(n, 2)).astype(np.float32)
    return CellPrediction(xy, np.ones(n), empty, graph, {"num_candidates": 3})


def test_every_edge_has_its_length_in_the_layout() -> None:
    made = prediction()
    assert made.graph is not None
    obsp = made.fields()["obsp"]
    lengths = obsp["spatial_ipa_distances"]
    np.testing.assert_array_equal(lengths.indices, made.graph.indices)
    np.testing.assert_array_equal(lengths.indptr, made.graph.indptr)
    rows, columns = lengths.nonzero()
    expected = cdist(made.xy, made.xy)[rows, columns]
    np.testing.assert_allclose(np.asarray(lengths[rows, columns]).ravel(), expected, rtol=1e-6)


def test_cells_that_were_not_placed_have_no_edges() -> None:
    placed = np.ones(9, dtype=bool)
    placed[[2, 5]] = False
    lengths = prediction().over(placed).fields()["obsp"]["spatial_ipa_distances"]
    assert lengths.shape == (9, 9)
    assert np.isfinite(lengths.data).all()
    assert not np.diff(lengths.indptr)[[2, 5]].any()
    assert not lengths[:, [2, 5]].nnz


def test_the_entry_for_scanpy_names_what_is_there() -> None:
    adata = ad.AnnData(np.zeros((7, 1), dtype=np.float32))
    prediction().write_into(adata)
    entry = adata.uns["spatial_ipa_neighbors"]
    for key in ("connectivities_key", "distances_key"):
        assert entry[key] in adata.obsp
    assert entry["params"]["n_neighbors"] == 3
