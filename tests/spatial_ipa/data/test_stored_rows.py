"""Slides whose counts stay in their files: what is read, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from slide_files import N, dense, make, save
from torch.utils.data import DataLoader

from spatial_ipa.data.expression import Expression, Normalisation, Transform
from spatial_ipa.data.keys import SlideKeys
from spatial_ipa.data.run import read_run
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.stored_rows import stored_mb
from spatial_ipa.encoder.views import ViewDataset, ViewSettings


def awkward(kind: str) -> ad.AnnData:
    """Two genes of one name, an antibody of that name, an empty spot and one beside the tissue."""
    data = make(1)
    counts = dense(data)
    counts[7] = 0
    data.var_names = ["G0", "G1", "G0", "G0", *data.var_names[4:]]
    data.var["feature_types"] = (
        ["Gene Expression"] * 3 + ["Antibody Capture"] + ["Gene Expression"] * (data.n_vars - 4)
    )
    data.obs["in_tissue"] = [int(row != 9) for row in range(N)]
    make_matrix = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind]
    data.X = make_matrix(counts.astype(np.int32))
    data.layers["twice"] = make_matrix(2.0 * counts)
    return data


def both(path: Path, keys: SlideKeys = SlideKeys(), *, cells: bool = False) -> list[list[Slide]]:
    """The slides of a file in memory, and streamed."""
    found = []
    for memory_mb in (None, 0):
        if cells:
            # A run has a slide, too.
            other = save(make(), path.parent / "other.h5ad")
            read = read_run(other, scrna=path, keys=SlideKeys(), scrna_keys=keys,
                            memory_mb=memory_mb)  # fmt: skip
            found.append(read.samples)
        else:
            found.append(read_run(path, keys=keys, memory_mb=memory_mb).train)
    return found


def assert_same(held: Slide, streamed: Slide) -> None:
    assert (held.is_streamed, streamed.is_streamed) == (False, True)
    for name in ("name", "genes", "obs_names", "notes", "content_hash", "is_logged", "patient"):
        assert getattr(held, name) == getattr(streamed, name), name
    np.testing.assert_array_equal(held.is_empty, streamed.is_empty)
    rng = np.random.default_rng(0)
    some = rng.permutation(len(held))[: len(held) // 2]
    for rows in (None, some, np.sort(some), some[:1], some[:0], np.repeat(some[:3], 2)):
        a, b = held.matrix.read(rows), streamed.matrix.read(rows)
        assert a.shape == b.shape
        assert a.dtype == b.dtype == np.float32
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part), part)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.parametrize("layer", [None, "twice"])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_rows_are_those_of_the_slide_in_memory(
    kind: str, layer: str | None, cells: bool, tmp_path: Path
) -> None:
    path = save(awkward(kind), tmp_path / "a.h5ad")
    (held,), (streamed,) = both(path, SlideKeys(layer), cells=cells)
    assert len(held) == (N if cells else N - 2)
    assert len(held.genes) == 28
    assert_same(held, streamed)
    assert streamed.is_empty.sum() == (2 if cells else 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sections_of_one_file_are_streamed_apart(tmp_path: Path) -> None:
    """Their rows alternate in the file."""
    data = ad.concat({"one": make(0), "two": make(1)}, label="section", index_unique="-")
    data = data[np.arange(2 * N).reshape(2, N).T.ravel()].copy()
    held, streamed = both(save(data, tmp_path / "a.h5ad"), SlideKeys(section_key="section"))
    assert [s.name for s in held] == ["a/one", "a/two"]
    for one, other, seed in zip(held, streamed, range(2), strict=True):
        assert_same(one, other)
        np.testing.assert_array_equal(other.counts.toarray(), dense(make(seed)))


def test_genes_of_the_raw_matrix(tmp_path: Path) -> None:
    data = make()
    data.raw = data
    data = data[:, :10].copy()
    (held,), (streamed,) = both(save(data, tmp_path / "a.h5ad"), SlideKeys("raw.X"))
    assert len(held.genes) == 30
    assert_same(held, streamed)


@pytest.mark.parametrize("transform", ["sqrt", "freeman_tukey", "log"])
def test_expression_is_that_of_memory(transform: Transform, tmp_path: Path) -> None:
    """Bit by bit: all of it, some rows, a subset of it, and with weights."""
    (held,), (streamed,) = both(save(make(), tmp_path / "a.h5ad"))
    panel = [*held.genes[::-1][:20], "absent"]
    a, b = (Expression.of_slide(s, panel, Normalisation(transform)) for s in (held, streamed))
    weights = np.linspace(0, 2, len(panel))
    rows = np.array([5, 3, 40])
    components = np.random.default_rng(0).normal(size=(len(panel), 4))
    for change in (
        lambda x: x,
        lambda x: x.loaded(),
        lambda x: x.subset(np.arange(0, N, 3)[::-1]),
        lambda x: x.subset(np.arange(10, 60)).weighted(weights).subset(np.arange(1, 47)),
    ):
        one, other = change(a), change(b)
        assert len(one) == len(other)
        np.testing.assert_array_equal(one.mean, other.mean)
        np.testing.assert_array_equal(one.filled, other.filled)
        np.testing.assert_array_equal(one.project(components), other.project(components))
        if len(one) > 40:
            np.testing.assert_array_equal(one.rows(rows), other.rows(rows))
        np.testing.assert_array_equal(
            np.concatenate(list(one.blocks(7))), np.concatenate(list(other.blocks(7)))
        )


def test_draws_of_loader_processes_are_those_of_memory(tmp_path: Path) -> None:
    """Also where this process has read the files before its workers are forked."""
    for seed in range(3):
        save(make(seed), tmp_path / f"{seed}.h5ad")
    held, streamed = (read_run(tmp_path, memory_mb=mb).train for mb in (None, 0))
    assert [s.counts.nnz for s in held] == [s.counts.nnz for s in streamed]
    sets = [
        ViewDataset(s, held[0].genes, Normalisation("sqrt"), 20, ViewSettings(), 5)
        for s in (held, streamed)
    ]
    loader = DataLoader(
        sets[1], None, sampler=range(8), num_workers=2, multiprocessing_context="fork"
    )
    for index, batch in enumerate(loader):
        for part, wanted in zip(batch, sets[0][index], strict=True):
            assert part.domain == wanted.domain
            for view, reference in zip(part.views, wanted.views, strict=True):
                np.testing.assert_array_equal(view.numpy(), reference.numpy())


def test_counts_beyond_the_budget_are_streamed(tmp_path: Path) -> None:
    files = [save(make(seed), tmp_path / f"{seed}.h5ad") for seed in range(2)]
    data = make()
    data.X = data.X.toarray()
    whole = save(data, tmp_path / "dense.h5ad")
    counts = [make(seed).X.nnz for seed in range(2)]
    for file, count in zip([*files, whole], [*counts, N * 30], strict=True):
        assert stored_mb(file, SlideKeys()) == pytest.approx(count * 8e-6)
    assert stored_mb(whole, SlideKeys("absent")) == 0
    total = sum(counts) * 8e-6
    for memory_mb, expected in ((total * 0.999, True), (total * 1.001, False), (None, False)):
        read = read_run(files[0], files[1], memory_mb=memory_mb)
        assert [s.is_streamed for s in (*read.train, *read.validation)] == [expected] * 2
    with pytest.raises(ValueError, match="memory_mb must not be negative, got -1"):
        read_run(files, memory_mb=-1)


@pytest.mark.parametrize("how", ["rewritten", "replaced", "touched"])
def test_a_file_that_has_changed_is_refused(how: str, tmp_path: Path) -> None:
    path = save(make(), tmp_path / "a.h5ad")
    slide = read_run(path, memory_mb=0).train[0]
    before = path.stat()
    if how == "rewritten":
        save(make(1), path)
    elif how == "replaced":  # of the same size and time
        shutil.copy2(path, tmp_path / "b.h5ad")
        os.replace(tmp_path / "b.h5ad", path)
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(ValueError, match=r"a\.h5ad: has changed since this run read it.*memory_mb"):
        slide.matrix.read(np.arange(3))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = save(make(), tmp_path / "a.h5ad")
    slide = read_run(path, memory_mb=0).train[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.h5ad: no such file"):
        _ = slide.counts


@pytest.mark.filterwarnings("ignore:.*zarr.*")
def test_other_formats_stay_in_memory_and_say_so(tmp_path: Path) -> None:
    make().write_zarr(tmp_path / "z.zarr")
    file = save(make(1), tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match=r"counts of z stay in memory: .*memory_mb=0 .*write_h5ad"):
        read = read_run([file, tmp_path / "z.zarr"], memory_mb=0)
    assert [s.is_streamed for s in read.train] == [True, False]
