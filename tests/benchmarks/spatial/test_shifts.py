"""What is done to slides: the same each time, and by the stated definitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import chisquare

from spatial_ipa.data.slide import Slide

N, GENES = 90, 70


@pytest.fixture(scope="module")
def shifts(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("spatial/shifts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    data = ad.AnnData(sp.csr_matrix(rng.poisson(6.0, (N, GENES)).astype(np.float32)))
    data.obs_names = [f"spot{i}" for i in range(N)]
    data.var_names = [f"Gene{i}" for i in range(GENES)]
    data.obsm["spatial"] = rng.random((N, 2)) * [300.0, 900.0] + 50.0
    path = tmp_path_factory.mktemp("slides")
    data.write_h5ad(path / "one.h5ad")
    return path


def rows_of(slide: Slide) -> np.ndarray:
    return np.array([int(name.removeprefix("spot")) for name in slide.obs_names])


def test_a_part_without_change_is_the_file(shifts: ModuleType, folder: Path) -> None:
    slide = shifts.Part("one.h5ad").read(folder)
    assert (slide.name, len(slide)) == ("one", N)
    assert rows_of(slide).tolist() == list(range(N))


def test_halves_share_no_spot_and_leave_none_out(shifts: ModuleType, folder: Path) -> None:
    whole, low, high = (
        shifts.Part("one.h5ad", region).read(folder) for region in ("whole", "low", "high")
    )
    assert [low.name, high.name] == ["one low", "one high"]
    assert sorted([*rows_of(low), *rows_of(high)]) == list(range(N))
    # The tissue is long along y.
    assert low.xy[:, 1].max() <= np.median(whole.xy[:, 1]) < high.xy[:, 1].min()
    assert np.array_equal(whole.counts[rows_of(low)].toarray(), low.counts.toarray())
    assert np.array_equal(whole.xy[rows_of(high)], high.xy)


def test_spots_at_the_median_go_to_the_low_half(shifts: ModuleType) -> None:
    xy = np.array([[x, 0.1 * y] for x in (0.0, 1.0, 2.0) for y in range(3)], dtype=np.float32)
    assert shifts.region_rows(xy, "low").tolist() == [0, 1, 2, 3, 4, 5]
    assert shifts.region_rows(xy, "high").tolist() == [6, 7, 8]


def test_a_patch_is_the_third_about_the_middle_of_the_low_half(
    shifts: ModuleType, folder: Path
) -> None:
    whole = shifts.Part("one.h5ad").read(folder)
    patch = shifts.Part("one.h5ad", "patch").read(folder)
    assert len(patch) == N // 3
    middle = shifts.Part("one.h5ad", "low").read(folder).xy.astype(np.float64).mean(axis=0)
    distance = np.linalg.norm(whole.xy - middle, axis=1)
    assert sorted(rows_of(patch)) == sorted(np.argsort(distance)[: N // 3])


def test_thinned_counts_are_binomial(shifts: ModuleType, folder: Path) -> None:
    whole = shifts.Part("one.h5ad").read(folder).counts.toarray()
    thin = shifts.Part("one.h5ad", depth=0.25).read(folder)
    found = thin.counts.toarray()
    assert thin.name == "one depth 0.25"
    assert (found <= whole).all()
    # Of c counts c / 4 are left with variance 3 c / 16.
    assert found.sum() / whole.sum() == pytest.approx(0.25, abs=0.01)
    assert ((found - whole / 4) ** 2 / np.maximum(whole, 1)).sum() / (whole > 0).sum() == (
        pytest.approx(3 / 16, rel=0.05)
    )


def test_spots_left_without_counts_are_dropped(shifts: ModuleType, folder: Path) -> None:
    thin = shifts.Part("one.h5ad", depth=0.003).read(folder)
    assert 0 < len(thin) < N
    assert not thin.is_empty.any()
    whole = shifts.Part("one.h5ad").read(folder)
    assert np.array_equal(thin.xy, whole.xy[rows_of(thin)])


def test_shuffled_rows_keep_their_place(shifts: ModuleType, folder: Path) -> None:
    whole = shifts.Part("one.h5ad").read(folder)
    slide = shifts.Part("one.h5ad", shuffled=True).read(folder)
    rows = rows_of(slide)
    assert sorted(rows) == list(range(N))
    assert rows.tolist() != list(range(N))
    assert np.array_equal(slide.xy, whole.xy[rows])
    assert np.array_equal(slide.counts.toarray(), whole.counts[rows].toarray())


def test_mixed_counts_are_multinomial_about_own_and_common_profile(shifts: ModuleType) -> None:
    """Two kinds of spots without a gene in common: m of the counts come from both."""
    counts = np.zeros((400, 4), dtype=np.float32)
    counts[:200, :2], counts[200:, 2:] = [30, 10], [20, 20]
    rng = np.random.default_rng(1)
    mixed = shifts.mixed_counts(sp.csr_matrix(counts), 0.2, rng).toarray()
    assert np.array_equal(mixed.sum(axis=1), counts.sum(axis=1))
    common = counts.sum(axis=0) / counts.sum()
    for rows, own in ((slice(0, 200), [0.75, 0.25, 0, 0]), (slice(200, 400), [0, 0, 0.5, 0.5])):
        expected = 8000 * (0.2 * common + 0.8 * np.array(own))
        assert chisquare(mixed[rows].sum(axis=0), expected).pvalue > 1e-3


def test_the_same_each_time_and_another_for_each_change(shifts: ModuleType, folder: Path) -> None:
    part = shifts.Part("one.h5ad", "patch", depth=0.5, mixed=0.1, shuffled=True)
    assert part.name == "one patch depth 0.5 mixed 0.1 shuffled"
    assert part.read(folder).content_hash == part.read(folder).content_hash
    other = shifts.Part("one.h5ad", "patch", depth=0.5, mixed=0.2, shuffled=True)
    assert other.read(folder).obs_names != part.read(folder).obs_names


@pytest.mark.parametrize("given", [{"depth": 0.0}, {"depth": 1.5}, {"mixed": 1.0}])
def test_shares_out_of_range(shifts: ModuleType, given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must lie in .* got"):
        shifts.Part("one.h5ad", **given)


@pytest.mark.filterwarnings("ignore:.*log-normalised")
def test_logarithms_are_not_thinned(shifts: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = ad.AnnData(sp.csr_matrix(np.log1p(rng.poisson(3.0, (N, GENES)) * 1.37)))
    data.var_names = [f"Gene{i}" for i in range(GENES)]
    data.obsm["spatial"] = rng.random((N, 2))
    data.write_h5ad(tmp_path / "logged.h5ad")
    with pytest.raises(ValueError, match="logarithms; counts are needed"):
        shifts.Part("logged.h5ad", depth=0.5).read(tmp_path)
