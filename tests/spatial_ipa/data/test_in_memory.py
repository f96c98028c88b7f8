"""AnnData in memory is read as a file of it would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.read import Source, as_slides, read_slide
from spatial_ipa.data.slide import Slide


def make() -> ad.AnnData:
    rng = np.random.default_rng(0)
    data = ad.AnnData(sp.csr_matrix(rng.poisson(2.0, (60, 20)).astype(np.float32)))
    data.var_names = [f" g{i} " for i in range(20)]
    data.obs_names = [f"spot{i}" for i in range(60)]
    data.var["symbol"] = [f"s{i}" for i in range(20)]
    data.obs["patient"] = ["P1"] * 60
    data.obsm["spatial"] = rng.random((60, 2))
    data.obsm["xy"] = rng.random((60, 2))
    data.layers["counts"] = data.X * 2
    data.raw = data
    return data


KEYS = [
    SlideKeys(),
    SlideKeys("counts", "symbol", "xy"),
    SlideKeys("raw.X", "var_names"),
    SlideKeys("X"),
]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.filterwarnings("ignore:.*dropped")
def test_it_equals_the_file(keys: SlideKeys, spatial: bool, tmp_path: Path) -> None:
    data = make()
    counts = data.X.toarray()
    counts[5] = 0
    data.X = sp.csr_matrix(counts)
    before = data.copy()
    data.write_h5ad(tmp_path / "a.h5ad")
    slide = Slide.from_anndata(data, keys, name="a", require_spatial=spatial)
    wanted = read_slide(tmp_path / "a.h5ad", keys, require_spatial=spatial)
    for name in ("content_hash", "genes", "obs_names", "patient", "is_logged", "name"):
        assert getattr(slide, name) == getattr(wanted, name), name
    assert (data.X != before.X).nnz == 0
    assert list(data.var_names) == list(before.var_names)


def without(part: str, key: str) -> Callable[[ad.AnnData], None]:
    def change(data: ad.AnnData) -> None:
        del getattr(data, part)[key]

    return change


def two_sections(data: ad.AnnData) -> None:
    data.obs["library_id"] = ["a", "b"] * 30


def negative(data: ad.AnnData) -> None:
    data.X = -data.X


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        (without("obsm", "spatial"), SlideKeys(), r"obsm\['spatial'\] are missing .*spatial_key"),
        (without("layers", "counts"), SlideKeys("counts"), r"has no layers\['counts'\]; other"),
        (lambda data: None, SlideKeys(gene_key="name"), "var has no column 'name'"),
        (two_sections, SlideKeys(), "holds 2 sections"),
        (negative, SlideKeys(), "negative values"),
    ],
)
def test_what_a_file_is_refused_for_is_refused(
    change: Callable[[ad.AnnData], None], keys: SlideKeys, message: str
) -> None:
    data = make()
    change(data)
    with pytest.raises(ValueError, match=f"^mine: .*{message}"):
        Slide.from_anndata(data, keys, name="mine")


def test_backed_data_are_read(tmp_path: Path) -> None:
    make().write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    slide = Slide.from_anndata(backed)
    assert slide.content_hash == read_slide(tmp_path / "a.h5ad").content_hash
    backed.file.close()


def test_any_source_becomes_slides(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make().write_h5ad(tmp_path / f"{name}.h5ad")

    def names(sources: Source | list[Source]) -> list[str]:
        return [slide.name for slide in as_slides(sources, SlideKeys(), "n")]

    slide = Slide.from_anndata(make(), name="own")
    assert names([make(), tmp_path / "b.h5ad", slide]) == ["n_0", "b", "own"]
    assert names(str(tmp_path / "a.h5ad")) == ["a"]  # one is a list of one
    assert names(str(tmp_path / "*.h5ad")) == names(tmp_path) == ["a", "b"]
    assert names(make()) == ["n_0"]
    assert as_slides(slide, SlideKeys(), "n") == [slide]
    assert as_slides([], SlideKeys(), "n") == []
    with pytest.raises(FileNotFoundError, match="no such file"):
        names(str(tmp_path / "c.h5ad"))


def test_keys_fall_back_on_others_and_spell_themselves() -> None:
    keys = SlideKeys("counts", None, "xy", drop_coincident=True)
    assert SlideKeys(gene_key="symbol").or_else(keys) == SlideKeys("counts", "symbol", "xy")
    assert keys.flags("data.keys") == [
        "--data.keys.layer=counts", "--data.keys.gene_key=null", "--data.keys.spatial_key=xy",
        "--data.keys.section_key=null", "--data.keys.values=null",
        "--data.keys.keep_off_tissue=false", "--data.keys.drop_coincident=true",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="values must be counts, logged or null, got 'log'"):
        SlideKeys(values="log")
    assert SlideKeys("None") == SlideKeys()  # as jsonargparse reads --keys.layer=null
