"""What is written about placed cells: the graph, the lengths of its edges, and their names."""

from __future__ import annotations

from dataclasses import replace

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


def test_each_hypothesis_is_an_entry_of_obsm() -> None:
    several = np.random.default_rng(1).normal(size=(7, 3, 2)).astype(np.float32)
    weight = np.random.default_rng(2).dirichlet(np.ones(3), 7)
    columns = {f"weight_{m + 1}": weight[:, m] for m in range(3)}
    placed = np.arange(9) != 4
    placed[0] = False
    made = replace(prediction(), hypotheses=several, columns=columns).over(placed)
    adata = ad.AnnData(np.zeros((9, 1), dtype=np.float32))
    made.write_into(adata)
    assert set(adata.obsm) == {"X_spatial_ipa", *(f"X_spatial_ipa_{m}" for m in (1, 2, 3))}
    for m in range(3):
        found = adata.obsm[f"X_spatial_ipa_{m + 1}"]
        np.testing.assert_array_equal(found[placed], several[:, m])
        assert np.isnan(found[~placed]).all()
        column = adata.obs[f"spatial_ipa_weight_{m + 1}"].to_numpy()
        np.testing.assert_array_equal(column[placed], weight[:, m])
    prediction(9).write_into(adata)  # nothing of the earlier one stays
    assert set(adata.obsm) == {"X_spatial_ipa"}
    assert not [name for name in adata.obs if "weight" in name]
