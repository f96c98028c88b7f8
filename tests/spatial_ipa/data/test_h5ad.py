"""Fields added to a copy of a file."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from slide_files import N, dense, make, save

from spatial_ipa.data.anndata_file import earlier_prediction, write_prediction
from spatial_ipa.data.read import read_slide


def predict(path_in: Path, path_out: Path, **fields: object) -> Path:
    return write_prediction(path_in, path_out, **fields)  # type: ignore[arg-type]


def test_prediction_is_added_and_all_else_kept(tmp_path: Path) -> None:
    data = make()
    data.uns["note"] = {"a": 1}
    data.layers["raw"] = data.X.copy()
    path_in = save(data, tmp_path / "in.h5ad")
    before = path_in.read_bytes()
    rng = np.random.default_rng(1)
    xy, spread = rng.normal(size=(N, 2)).astype(np.float32), rng.random(N)
    graph = sp.random(N, N, density=0.1, random_state=rng)
    path_out = write_prediction(
        path_in,
        tmp_path / "out.h5ad",
        obsm={"X_spatial_ipa": xy},
        obs={"spread": spread, "empty": spread > 0.5},
        obsp={"gate": graph},
        uns={"spatial_ipa": {"draws": 4}},
    )
    assert path_in.read_bytes() == before
    out = ad.read_h5ad(path_out)
    np.testing.assert_array_equal(out.obsm["X_spatial_ipa"], xy)
    assert out.obsm["X_spatial_ipa"].dtype == np.float32
    np.testing.assert_array_equal(out.obs["spread"], spread)
    np.testing.assert_array_equal(out.obs["empty"], spread > 0.5)
    np.testing.assert_array_equal(out.obsp["gate"].toarray(), graph.toarray())
    assert out.uns["spatial_ipa"]["draws"] == 4
    assert out.uns["note"]["a"] == 1
    assert list(out.obs["patient"]) == ["P1"] * N
    np.testing.assert_array_equal(out.X.toarray(), dense(data))
    np.testing.assert_array_equal(out.layers["raw"].toarray(), dense(data))
    np.testing.assert_array_equal(out.obsm["spatial"], data.obsm["spatial"])
    again = read_slide(path_out, require_spatial=True)
    assert again.content_hash == read_slide(path_in, require_spatial=True).content_hash
    assert sorted(tmp_path.iterdir()) == [path_in, path_out]


def test_outputs_are_never_overwritten_unasked(tmp_path: Path) -> None:
    path_in, path_out = save(make(), tmp_path / "in.h5ad"), tmp_path / "out.h5ad"
    xy = np.zeros((N, 2))
    predict(path_in, path_out, obsm={"p": xy})
    with pytest.raises(FileExistsError, match=r"out\.h5ad exists"):
        predict(path_in, path_out, obsm={"p": xy})
    predict(path_in, path_out, obsm={"p": xy + 1}, overwrite=True)
    np.testing.assert_array_equal(ad.read_h5ad(path_out).obsm["p"], xy + 1)
    (tmp_path / "link.h5ad").symlink_to(path_in)
    for same in (path_in, tmp_path / "link.h5ad"):
        with pytest.raises(ValueError, match="path_out is the input file"):
            predict(path_in, same, obsm={"p": xy}, overwrite=True)
    with pytest.raises(ValueError, match=r"obsm\['spatial'\] exists already"):
        predict(path_in, tmp_path / "new.h5ad", obsm={"spatial": xy})
    with pytest.raises(ValueError, match=r"obs\['patient'\] exists already"):
        predict(path_in, tmp_path / "new.h5ad", obs={"patient": np.zeros(N)})
    with pytest.raises(FileNotFoundError, match="of path_out does not exist"):
        predict(path_in, tmp_path / "no" / "new.h5ad", obsm={"p": xy})
    assert not (tmp_path / "new.h5ad").exists()


def test_no_field_of_an_earlier_prediction_is_left_beside_a_new_one(tmp_path: Path) -> None:
    data = make()
    fields = {
        "obsm": {"X_spatial_ipa": np.zeros((N, 2))},
        "obs": {"spatial_ipa_radius": np.ones(N), "spatial_ipa_abstain": np.ones(N, bool)},
        "obsp": {"spatial_ipa_gate": sp.eye(N)},
        "uns": {"spatial_ipa": {"num_draws": 4}},
    }
    path_in = save(data, tmp_path / "in.h5ad")
    assert earlier_prediction(path_in) == []
    first = predict(path_in, tmp_path / "first.h5ad", **fields)
    assert earlier_prediction(first) == [
        "obsm['X_spatial_ipa']", "obs['spatial_ipa_abstain']", "obs['spatial_ipa_radius']",
        "obsp['spatial_ipa_gate']", "uns['spatial_ipa']",
    ]  # fmt: skip
    new = {"obsm": {"X_spatial_ipa": np.ones((N, 2))}}
    with pytest.raises(ValueError, match="exists already"):
        predict(first, tmp_path / "second.h5ad", **new)
    second = predict(first, tmp_path / "second.h5ad", overwrite=True, **new)
    assert earlier_prediction(second) == ["obsm['X_spatial_ipa']"]
    read = ad.read_h5ad(second)
    assert (read.obsm["X_spatial_ipa"] == 1).all()
    assert list(read.obs.columns) == list(data.obs.columns)
    np.testing.assert_array_equal(read.obsm["spatial"], data.obsm["spatial"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"obsm": {"p": np.zeros((N - 1, 2))}}, r"obsm\['p'\] must start with shape \(60,\)"),
        ({"obs": {"q": np.zeros(3)}}, r"obs\['q'\] must start with shape \(60,\), got \(3,\)"),
        ({"obsp": {"g": sp.eye(5)}}, r"obsp\['g'\] must start with shape \(60, 60\)"),
    ],
)
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path_in, path_out = save(make(), tmp_path / "in.h5ad"), tmp_path / "out.h5ad"
    with pytest.raises(ValueError, match=message):
        predict(path_in, path_out, **fields)
    path_out.write_text("older result")
    with pytest.raises(ValueError, match=message):
        predict(path_in, path_out, overwrite=True, **fields)
    assert path_out.read_text() == "older result"
    assert sorted(tmp_path.iterdir()) == [path_in, path_out]
