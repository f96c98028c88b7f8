"""The simulated tissue: reproducible, count-like, spatial and alike between slides."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy.spatial import cKDTree, procrustes
from sklearn.decomposition import PCA

from spatial_ipa.data.expression import normalise
from spatial_ipa.data.panels import gene_panel
from spatial_ipa.data.read import read_slide, read_slides
from spatial_ipa.data.simulation.files import (
    Tissue,
    TissueSpec,
    ensure_tissue,
    main,
    simulate_tissue,
    write_tissue,
)

SMALL = TissueSpec(num_slides=2, spots_per_slide=80, num_genes=60, num_cells=50)


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return simulate_tissue(TissueSpec())


def neighbour_recall(features: np.ndarray, xy: np.ndarray, k: int = 20) -> float:
    """Share of the k nearest in space that are among the k nearest in features."""
    found, true = (cKDTree(a).query(a, k + 1)[1][:, 1:] for a in (features, xy))
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


def components(*matrices: np.ndarray) -> list[np.ndarray]:
    """10 principal components of the first, applied to all."""
    pca = PCA(10, random_state=0).fit(matrices[0])
    return [pca.transform(matrix) for matrix in matrices]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    one, two = (write_tissue(SMALL, tmp_path / name) for name in "ab")
    for a, b in zip(one.every, two.every, strict=True):
        assert a.read_bytes() == b.read_bytes()
    other = write_tissue(replace(SMALL, seed=1), tmp_path / "c")
    hashes = [read_slide(p.slides[0], require_spatial=True) for p in (one, other)]
    assert hashes[0].expression_hash != hashes[1].expression_hash
    assert hashes[0].xy_hash != hashes[1].xy_hash


def test_many_cells_come_in_blocks_of_one_tissue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks share the batch effect and the map: gene means differ by sampling alone."""
    spec = replace(SMALL, num_slides=1, num_cells=2000)
    whole = simulate_tissue(spec)
    monkeypatch.setattr("spatial_ipa.data.simulation.tissue._CELLS_AT_ONCE", 300)
    blocks = simulate_tissue(spec)
    assert np.array_equal(whole.scrna_true_xy, blocks.scrna_true_xy)
    assert np.array_equal(whole.slides[0].X.toarray(), blocks.slides[0].X.toarray())
    assert blocks.scrna.shape == whole.scrna.shape
    one, two = (t.scrna.X.toarray().astype(float) for t in (whole, blocks))
    assert not np.array_equal(one, two)
    error = np.sqrt((one.var(axis=0) + two.var(axis=0)) / len(one))
    assert (np.abs(one.mean(axis=0) - two.mean(axis=0)) < 5 * error).all()


def test_a_slide_does_not_depend_on_the_number_of_slides() -> None:
    more = simulate_tissue(replace(SMALL, num_slides=3))
    few = simulate_tissue(SMALL)
    for a, b in zip(few.slides, more.slides[:2], strict=True):
        assert (a.X != b.X).nnz == 0
        np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])
    assert (few.scrna.X != more.scrna.X).nnz == 0


@pytest.mark.parametrize("dispersion", [0.0, 0.3, 1.0])
def test_counts_are_negative_binomial(dispersion: float) -> None:
    """Without structure or depth spread: variance mu + phi mu^2, zeros (1 + phi mu)^(-1/phi).

    Both in the pooled form over 200 genes; over 8 seeds the estimate of phi spread by 0.02 or less.
    """
    spec = TissueSpec(
        num_slides=1,
        spots_per_slide=1000,
        num_genes=200,
        num_cells=0,
        depth_spread=0.0,
        programme_strength=0.0,
        state_strength=0.0,
        dispersion=dispersion,
    )
    x = simulate_tissue(spec).slides[0].X.toarray()
    mean, variance = x.mean(0), x.var(0, ddof=1)
    assert np.sum(variance - mean) / np.sum(mean**2) == pytest.approx(dispersion, abs=0.05)
    zeros = np.exp(-mean) if dispersion == 0 else (1 + dispersion * mean) ** (-1 / dispersion)
    np.testing.assert_allclose((x == 0).mean(0), zeros, atol=0.07)
    assert x.sum(1).mean() == pytest.approx(1500 * np.exp(0.2 * _slide_depth(spec)), rel=0.03)


def _slide_depth(spec: TissueSpec) -> float:
    """Log depth of slide 0 in units of its spread, recovered from a slide without spread."""
    plain = replace(spec, slide_depth_spread=0.0, dispersion=0.0)
    spread = replace(spec, slide_depth_spread=1.0, dispersion=0.0)
    sums = [simulate_tissue(s).slides[0].X.sum() for s in (plain, spread)]
    return float(np.log(sums[1] / sums[0]))


def test_depth_is_that_of_real_spots_and_differs_between_slides(tissue: Tissue) -> None:
    medians = [float(np.median(np.asarray(s.X.sum(1)))) for s in tissue.slides]
    assert 1000 < np.median(medians) < 2200
    assert max(medians) / min(medians) > 1.1


def test_neighbours_in_expression_are_neighbours_in_space(tissue: Tissue) -> None:
    """Far above chance (20/299), yet far from solved; without programmes, chance."""
    for slide in tissue.slides:
        (features,) = components(normalise(slide.X))
        assert 0.25 < neighbour_recall(features, slide.obsm["spatial"]) < 0.7
    flat = simulate_tissue(TissueSpec(num_slides=1, programme_strength=0.0, num_cells=0)).slides[0]
    (features,) = components(normalise(flat.X))
    assert neighbour_recall(features, flat.obsm["spatial"]) < 0.10


def test_slides_share_one_identifiable_anatomy(tissue: Tissue) -> None:
    """Expression of one slide locates the spots of another.

    The anatomical position is the mean of the 10 nearest in expression; in a symmetric tissue it
    would be ambiguous.  Chance is an error of about 0.7, the root mean square radius.
    """
    first, *rest = (normalise(slide.X) for slide in tissue.slides)
    for index, matrix in enumerate(rest, start=1):
        known, asked = components(first, matrix)
        nearest = cKDTree(known).query(asked, 10)[1]
        error = tissue.anatomy[0][nearest].mean(1) - tissue.anatomy[index]
        assert np.sqrt((error**2).sum(1).mean()) < 0.35


def test_each_slide_has_its_own_frame_and_a_small_deformation(tissue: Tissue) -> None:
    for slide, anatomy in zip(tissue.slides, tissue.anatomy, strict=True):
        disparity = procrustes(anatomy, slide.obsm["spatial"])[2]
        assert 1e-5 < disparity < 0.01
    rigid = simulate_tissue(replace(SMALL, deformation=0.0))
    orientation = []
    for slide, anatomy in zip(rigid.slides, rigid.anatomy, strict=True):
        assert procrustes(anatomy, slide.obsm["spatial"])[2] < 1e-9
        fit = np.linalg.lstsq(np.c_[anatomy, np.ones(80)], slide.obsm["spatial"], rcond=None)[0]
        orientation.append(np.arctan2(fit[0, 1], fit[0, 0]))
    assert abs(orientation[0] - orientation[1]) > 0.1


def test_some_slides_are_mirrored() -> None:
    tissue = simulate_tissue(replace(SMALL, num_slides=8, deformation=0.0))
    signs = set()
    for slide, anatomy in zip(tissue.slides, tissue.anatomy, strict=True):
        fit = np.linalg.lstsq(np.c_[anatomy, np.ones(80)], slide.obsm["spatial"], rcond=None)[0]
        signs.add(np.sign(np.linalg.det(fit[:2])))
    assert signs == {-1.0, 1.0}


def test_spots_lie_on_a_jittered_grid(tissue: Tissue) -> None:
    """Nearest-neighbour distances are narrow around one spacing, unlike those of random points."""
    for slide in tissue.slides:
        nearest = cKDTree(slide.obsm["spatial"]).query(slide.obsm["spatial"], 2)[0][:, 1]
        assert 0.05 < nearest.std() / nearest.mean() < 0.2  # 0.52 for a Poisson process
        assert 60 < nearest.mean() < 140


def test_cells_have_no_coordinates_but_a_known_place(tissue: Tissue) -> None:
    cells = tissue.scrna
    assert not cells.obsm
    assert list(cells.obs) == ["slide_id", "patient"]
    assert tissue.scrna_true_xy.shape == (cells.n_obs, 2)
    (features,) = components(normalise(cells.X))
    assert neighbour_recall(features, tissue.scrna_true_xy) > 0.13  # chance 0.05


def test_cells_vary_more_in_depth_and_drop_out(tissue: Tissue) -> None:
    def spread(data: object) -> float:
        return float(np.log(np.asarray(data.X.sum(1))).std())  # type: ignore[attr-defined]

    assert spread(tissue.scrna) > 1.4 * max(spread(slide) for slide in tissue.slides)
    kept = simulate_tissue(replace(TissueSpec(num_slides=1), dropout_half=1e-9)).scrna.X
    lost = tissue.scrna.X
    assert lost.nnz < 0.9 * kept.nnz
    # The counts that are lost belong to lowly expressed genes.
    abundance = np.asarray(kept.mean(0)).ravel()
    survival = np.asarray((lost > 0).sum(0)).ravel() / np.maximum(kept.getnnz(axis=0), 1)
    rank = np.argsort(abundance)
    assert survival[rank[:100]].mean() < survival[rank[-100:]].mean() - 0.2


def test_written_tissue_reads_back_and_keeps_the_truth_apart(tmp_path: Path) -> None:
    paths = write_tissue(SMALL, tmp_path / "t")
    tissue = simulate_tissue(SMALL)
    slides = read_slides([tmp_path / "t" / "slides"])
    assert [slide.name for slide in slides] == ["slide_0", "slide_1"]
    assert [slide.patient for slide in slides] == ["donor_0", "donor_1"]
    assert len(gene_panel(slides, min_genes=60)) == 60
    np.testing.assert_array_equal(slides[1].xy, tissue.slides[1].obsm["spatial"])
    np.testing.assert_array_equal(slides[1].counts.toarray(), tissue.slides[1].X.toarray())
    with pytest.raises(ValueError, match=r"scrna\.h5ad: coordinates obsm\['spatial'\] are missing"):
        read_slide(paths.scrna, require_spatial=True)
    cells = read_slide(paths.scrna, require_spatial=False)
    truth = read_slide(paths.truth, require_spatial=True)
    assert cells.expression_hash == truth.expression_hash
    np.testing.assert_array_equal(truth.xy, tissue.scrna_true_xy)
    with pytest.raises(FileExistsError, match="set overwrite=True"):
        write_tissue(SMALL, tmp_path / "t")


def test_ensure_writes_once_and_again_for_another_spec(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    first = ensure_tissue(SMALL, folder)
    written = first.scrna.stat().st_mtime_ns
    assert ensure_tissue(SMALL, folder) == first
    assert first.scrna.stat().st_mtime_ns == written
    other = ensure_tissue(replace(SMALL, num_slides=1), folder)
    assert list((folder / "slides").iterdir()) == list(other.slides)
    other.truth.unlink()
    assert ensure_tissue(replace(SMALL, num_slides=1), folder).truth.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scrna.h5ad").write_text("not simulated")
    with pytest.raises(FileExistsError, match=r"scrna\.h5ad exists"):
        ensure_tissue(SMALL, tmp_path / "mine")


def test_an_interrupted_simulation_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "t"
    for patched in ((ad.AnnData, "write_h5ad"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(*patched, fail)
            with pytest.raises(KeyboardInterrupt):
                ensure_tissue(SMALL, folder)
        assert not list(tmp_path.rglob("*.h5ad"))
    assert all(path.exists() for path in ensure_tissue(SMALL, folder).every)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".t.lock", "t"]


def test_a_simulation_interrupted_while_files_are_moved_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file, moved = Path.replace, []

    def fail_at_the_third(self: Path, target: Path) -> Path:
        moved.append(target)
        if len(moved) == 3:
            raise KeyboardInterrupt
        return replace_file(self, target)

    folder = tmp_path / "t"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            ensure_tissue(SMALL, folder)
    assert len(list(folder.rglob("*.h5ad"))) == 1
    paths = ensure_tissue(SMALL, folder)
    assert sorted(folder.rglob("*.h5ad")) == sorted(paths.every)


def test_processes_that_start_at_once_write_one_tissue(tmp_path: Path) -> None:
    command = (
        "import sys; from spatial_ipa.data.simulation.files import *;"
        f"ensure_tissue({SMALL!r}, sys.argv[1])"
    )
    root = Path(__file__).resolve().parents[3]
    both = [
        subprocess.Popen([sys.executable, "-c", command, str(tmp_path / "t")], cwd=root)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    stamp = (tmp_path / "t" / "tissue.json").stat().st_mtime_ns
    ensure_tissue(SMALL, tmp_path / "t")
    assert (tmp_path / "t" / "tissue.json").stat().st_mtime_ns == stamp


def test_command_line_writes_the_files_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--slides", "1", "--spots", "60", "--genes", "50", "--cells", "55", "--seed", "3"]
    main(["--out", str(tmp_path / "t"), *sizes])
    printed = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in printed] == ["slide_0.h5ad", "scrna.h5ad", "scrna_truth.h5ad"]
    assert read_slide(printed[0], require_spatial=True).counts.shape == (60, 50)
    assert read_slide(printed[1], require_spatial=False).counts.shape == (55, 50)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_slides", 0), ("spots_per_slide", -1), ("dispersion", -0.1), ("spot_depth", 0.0),
     ("cell_depth", float("nan"))],
)  # fmt: skip
def test_impossible_specs_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"TissueSpec\.{field} must be at least"):
        replace(SMALL, **{field: value})  # type: ignore[arg-type]
