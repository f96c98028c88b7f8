"""The frozen encoder: embeddings, files, hashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tissue_expression import make_tissue_slide

from spatial_ipa.data.expression import Expression, Normalisation, normalise
from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import Split
from spatial_ipa.encoder.eigenmaps import fit_eigenmaps
from spatial_ipa.encoder.frozen import (
    FrozenEncoder,
    ScRNAAdapter,
    SharedEncoder,
    load_encoder,
    save_encoder,
)
from spatial_ipa.encoder.settings import StartSettings

LOG = Normalisation("log")


def make_slide(name: str, n: int = 60, num_genes: int = 40, seed: int = 0) -> Slide:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1.0, 2.0, num_genes), (n, num_genes))
    counts[3] = 0  # a row without counts
    genes = [f"g{i}" for i in range(num_genes)]
    return Slide.build(name, counts, genes, rng.random((n, 2)))


def make_frozen(slide: Slide, adapter: ScRNAAdapter | None = None) -> FrozenEncoder:
    encoder = SharedEncoder(len(slide.genes), 8, (32, 20), 0.3)
    return FrozenEncoder(encoder, adapter, slide.genes, Split.declare([slide], []), LOG)


@pytest.mark.parametrize("logged", [False, True])
def test_sparse_normalisation_equals_the_dense_one(logged: bool) -> None:
    counts = make_slide("a").counts
    x = Expression.of_counts(counts, LOG, logged)
    dense = normalise(counts, target_sum=1e4, logged=logged)
    np.testing.assert_allclose(x.rows(slice(None)), dense, atol=2e-6)
    np.testing.assert_allclose(np.concatenate(list(x.blocks(7))), x.rows(slice(None)))
    directions = np.random.default_rng(0).normal(size=(counts.shape[1], 3))
    np.testing.assert_allclose(x.project(directions), dense @ directions, atol=1e-4)


def test_embedding_is_centred_per_slide() -> None:
    """With a linear trunk the mean of H over the filled rows of any slide is 0."""
    slide, other = make_slide("a"), make_slide("b", seed=5)
    encoder = SharedEncoder(40, 8, (32, 20))
    encoder.set_linear(torch.randn(40, 8), torch.Generator().manual_seed(0))
    frozen = FrozenEncoder(encoder, None, slide.genes, Split.declare([slide], []), LOG)
    h = frozen.embed(other, "st")
    assert h.dtype == np.float32
    assert np.abs(h[~other.is_empty].mean(axis=0)).max() < 1e-4
    np.testing.assert_allclose(h[other.is_empty], 0, atol=1e-6)


def test_embedding_does_not_depend_on_gene_order_or_depth() -> None:
    slide = make_slide("a")
    frozen = make_frozen(slide)
    h = frozen.embed(slide, "st")
    order = np.random.default_rng(2).permutation(40)
    genes = [slide.genes[i] for i in order]
    shuffled = Slide.build("b", slide.counts[:, order], genes, None)
    np.testing.assert_allclose(frozen.embed(shuffled, "st"), h, atol=1e-6)
    deeper = Slide.build("c", slide.counts * 3, slide.genes, None)
    np.testing.assert_allclose(frozen.embed(deeper, "st"), h, atol=1e-5)


def test_embedding_of_any_slide_has_unit_variance_over_its_filled_rows() -> None:
    slide = make_slide("a")
    frozen = make_frozen(slide)
    for other in (slide, make_slide("b", 200, seed=7)):
        h = frozen.embed(other, "st")[~other.is_empty]
        assert h.var(axis=0).mean() == pytest.approx(1, rel=1e-5)
    one = Slide.build("one", slide.counts[:1], slide.genes, None)  # nothing to scale by
    assert np.isfinite(frozen.embed(one, "st")).all()


def test_embedding_permutes_with_the_spots() -> None:
    slide = make_slide("a")
    frozen, order = make_frozen(slide), np.random.default_rng(2).permutation(60)
    moved = Slide.build("b", slide.counts[order], slide.genes, None)
    np.testing.assert_allclose(
        frozen.embed(moved, "st"), frozen.embed(slide, "st")[order], rtol=1e-5, atol=1e-6
    )


def test_embedding_ignores_coordinates_and_extra_genes() -> None:
    slide = make_slide("a")
    frozen = make_frozen(slide)
    extra = np.concatenate([slide.counts.toarray(), np.full((60, 5), 9.0)], axis=1)
    bigger = Slide.build("b", extra, [*slide.genes, *"vwxyz"], np.random.rand(60, 2))  # noqa: NPY002
    filled = ~slide.is_empty
    np.testing.assert_array_equal(
        frozen.embed(bigger, "st")[filled], frozen.embed(slide, "st")[filled]
    )


def test_embedding_refuses_a_foreign_panel_and_kind() -> None:
    slide = make_slide("a")
    frozen = make_frozen(slide)
    foreign = Slide.build("b", slide.counts, [f"mouse{i}" for i in range(40)], None)
    with pytest.raises(ValueError, match="lacks 40 of the 40 genes"):
        frozen.embed(foreign, "st")
    with pytest.raises(ValueError, match="kind must be"):
        frozen.embed(slide, "bulk")  # type: ignore[arg-type]


def test_save_and_load_is_bitwise(tmp_path: Path) -> None:
    slide = make_slide("a")
    adapter = ScRNAAdapter(40, 4)
    torch.nn.init.normal_(adapter.up, generator=torch.Generator().manual_seed(3))
    frozen = make_frozen(slide, adapter)
    path = tmp_path / "deep" / "encoder.pt"
    save_encoder(frozen, path)
    loaded = load_encoder(path)
    assert loaded.weights_hash == frozen.weights_hash
    assert loaded.split == frozen.split
    assert loaded.panel == frozen.panel
    for kind in ("st", "scrna"):
        assert np.array_equal(loaded.embed(slide, kind), frozen.embed(slide, kind))
    assert not np.array_equal(loaded.embed(slide, "st"), loaded.embed(slide, "scrna"))
    assert [p.name for p in path.parent.iterdir()] == ["encoder.pt"]  # nothing temporary left


def test_hash_covers_weights_panel_and_preprocessing() -> None:
    slide = make_slide("a")
    frozen = make_frozen(slide)
    split = frozen.split
    others = [
        FrozenEncoder(SharedEncoder(40, 8, (32, 20)), None, slide.genes[::-1], split, LOG),
        *(
            FrozenEncoder(SharedEncoder(40, 8, (32, 20)), None, slide.genes, split, how)
            for how in (Normalisation("log", 1e3), Normalisation("sqrt"))
        ),
        FrozenEncoder(
            SharedEncoder(40, 8, (32, 20), generator=torch.Generator().manual_seed(9)),
            None, slide.genes, split, LOG,
        ),
        make_frozen(slide, ScRNAAdapter(40, 4)),
    ]  # fmt: skip
    assert len({frozen.weights_hash, *(o.weights_hash for o in others)}) == 6
    assert make_frozen(slide).weights_hash == frozen.weights_hash


def make_kernel_frozen(smooth: int = 4) -> tuple[FrozenEncoder, Slide]:
    """A kernel trunk on two small tissues, and a slide it has not seen."""
    slides = [make_tissue_slide(seed) for seed in (0, 1)]
    sqrt, panel = Normalisation("sqrt"), slides[0].genes
    trunk = fit_eigenmaps(
        [Expression.of_slide(s, panel, sqrt) for s in slides],
        [s.xy for s in slides if s.xy is not None],
        StartSettings("eigenmaps", rank=20, num_neighbours=8, smooth=smooth),
        8,
    )
    split = Split.declare(slides, [])
    return FrozenEncoder(trunk, None, panel, split, sqrt), make_tissue_slide(5)


def test_a_kernel_trunk_is_saved_loaded_and_told_apart(tmp_path: Path) -> None:
    frozen, slide = make_kernel_frozen()
    save_encoder(frozen, tmp_path / "e.pt")
    loaded = load_encoder(tmp_path / "e.pt")
    assert loaded.weights_hash == frozen.weights_hash
    assert np.array_equal(loaded.embed(slide, "st"), frozen.embed(slide, "st"))
    assert loaded.normalisation == Normalisation("sqrt")
    assert make_kernel_frozen(smooth=0)[0].weights_hash != frozen.weights_hash
    state = frozen.state()
    del state["tensors"]["encoder.targets"]
    with pytest.raises(ValueError, match="damaged"):
        FrozenEncoder.from_state(state)


def test_blocks_of_rows_and_coordinates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, slide = make_kernel_frozen()
    whole = frozen.embed(slide, "st")
    filled = ~slide.is_empty
    assert whole[filled].var(axis=0).mean() == pytest.approx(1, rel=1e-5)
    norms = np.linalg.norm(whole, axis=1)
    np.testing.assert_allclose(norms[filled], norms[0], rtol=1e-5)
    assert not whole[~filled].any()
    monkeypatch.setattr("spatial_ipa.encoder.frozen._BLOCK_ELEMENTS", 7 * 3 * 178)  # 7 rows
    np.testing.assert_allclose(frozen.embed(slide, "st"), whole, atol=1e-5)
    cells = Slide.build("cells", slide.counts, slide.genes, None)
    np.testing.assert_allclose(frozen.embed(cells, "st"), whole, atol=1e-5)


def test_an_encoder_of_version_2_is_still_read() -> None:
    """It was written before the transform was recorded: the logarithm."""
    slide = make_slide("a")
    state = make_frozen(slide).state()
    del state["transform"]
    state["version"] = 2
    loaded = FrozenEncoder.from_state(state)
    assert loaded.normalisation == LOG
    assert np.array_equal(loaded.embed(slide, "st"), make_frozen(slide).embed(slide, "st"))
    assert loaded.weights_hash == make_frozen(slide).weights_hash


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="lightning fit"):
        load_encoder(tmp_path / "none.pt")
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(ValueError, match="not an encoder file"):
        load_encoder(text)
    torch.save({"version": 99}, tmp_path / "future.pt")
    with pytest.raises(ValueError, match="got 99"):
        load_encoder(tmp_path / "future.pt")
    slide = make_slide("a")
    state = make_frozen(slide).state()
    del state["tensors"]["encoder.third.weight"]
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="damaged"):
        load_encoder(tmp_path / "cut.pt")
    torch.save({"version": make_slide}, tmp_path / "code.pt")  # a pickled function
    with pytest.raises(ValueError, match="not an encoder file"):
        load_encoder(tmp_path / "code.pt")
