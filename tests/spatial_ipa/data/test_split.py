"""No slide is both learned from and judged on, whatever it is called."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spatial_ipa.data.slide import Slide
from spatial_ipa.data.split import SlideIdentity, Split, check_split, row_sketch, shared_rows
from spatial_ipa.encoder.datamodule import EncoderDataModule
from spatial_ipa.encoder.settings import DrawSettings


def make_slide(name: str, seed: int, xy_seed: int | None = None) -> Slide:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3.0, (60, 120))
    xy = np.random.default_rng(seed if xy_seed is None else xy_seed).random((60, 2))
    return Slide.build(name, counts, [f"g{i}" for i in range(120)], xy)


A, B, C, D = (make_slide(name, seed) for seed, name in enumerate("ABCD"))
A_RENAMED = make_slide("new", 0)
A_OTHER_COUNTS = make_slide("renormalised", 7, xy_seed=0)
A_MOVED = make_slide("turned", 0, xy_seed=7)


@pytest.mark.parametrize("copy", [A, A_RENAMED, A_OTHER_COUNTS, A_MOVED])
def test_copies_of_a_training_slide_are_refused_when_declared(copy: Slide) -> None:
    with pytest.raises(ValueError, match=r"same (expression|coordinates) as 'A'"):
        Split.declare([A, B], [C, copy])


@pytest.mark.parametrize("copy", [A, A_RENAMED, A_OTHER_COUNTS, A_MOVED])
def test_later_stages_refuse_copies_of_training_slides(copy: Slide) -> None:
    split = Split.declare([A, B], [C])
    with pytest.raises(ValueError, match="the encoder's training slides"):
        check_split(split, [B], [copy])


def test_later_stages_refuse_unknown_training_slides() -> None:
    split = Split.declare([A, B], [C])
    with pytest.raises(ValueError, match="D were not among the encoder's training slides"):
        check_split(split, [A, D], [C])
    with pytest.raises(ValueError, match="C were not among"):
        check_split(split, [A, C], [])


def test_a_slide_in_both_lists_of_a_later_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="the encoder's training slides"):
        check_split(Split.declare([A, B], []), [A], [A_MOVED])


def test_what_fits_is_accepted() -> None:
    split = Split.declare([A, B], [C])
    check_split(split, [B, A], [C])
    check_split(split, [A], [D])  # not declared, but never seen either
    check_split(split, [A], [C.without_coordinates(), D.without_coordinates()])


def test_dissociated_samples_have_no_coordinates_in_common() -> None:
    first, second = A.without_coordinates(), B.without_coordinates()
    split = Split.declare([C], [D], [first, second])
    assert {s.xy_hash for s in split.scrna} == {""}
    with pytest.raises(ValueError, match="scRNA"):
        check_split(split, [C], [A])


def test_duplicates_within_a_list_are_refused() -> None:
    with pytest.raises(ValueError, match="train_slides"):
        Split.declare([A, B, A_RENAMED], [])
    with pytest.raises(ValueError, match="at least one training slide"):
        Split.declare([], [A])
    with pytest.raises(ValueError, match="mode must be"):
        Split.declare([A], [], mode="both")  # type: ignore[arg-type]


def test_record_survives_json_and_other_versions_are_refused() -> None:
    split = Split.declare([A, B], [C], mode="transductive")
    assert Split.from_json(split.to_json()) == split
    with pytest.raises(ValueError, match="version 3"):
        Split.from_json(split.to_json().replace('"version": 2', '"version": 3'))
    with pytest.raises(ValueError, match="version 3"):
        check_split(dataclasses.replace(split, version=3), [A], [C])
    with pytest.raises(ValueError, match="damaged"):
        Split.from_json(split.to_json().replace('"mode"', '"mood"'))


def test_held_out_slides_leave_nothing_behind_in_the_inductive_mode() -> None:
    """Panel, components and data are the same with and without held-out slides."""
    with_held_out, without = EncoderDataModule([]), EncoderDataModule([])
    narrow = Slide.build("narrow", C.counts[:, :110], C.genes[:110], C.xy)
    with_held_out.declare([A, B], [narrow, D])
    without.declare([A, B], [])
    assert with_held_out.panel == without.panel
    assert with_held_out.seen_heldout == []
    kept = [v for v in vars(with_held_out).values() if isinstance(v, Slide)]
    kept += [s for v in vars(with_held_out).values() if isinstance(v, list) for s in v
             if isinstance(s, Slide)]  # fmt: skip
    assert {s.name for s in kept} == {"A", "B"}


def test_transductive_mode_keeps_expression_and_no_coordinates() -> None:
    data = EncoderDataModule([], draws=DrawSettings("transductive"))
    data.declare([A, B], [C])
    (seen,) = data.seen_heldout
    assert seen.xy is None
    assert seen.expression_hash == C.expression_hash
    assert data.split.mode == "transductive"


def rows_of(slide: Slide, rows: np.ndarray, name: str = "part") -> Slide:
    """A slide of some rows, in the order given, at other coordinates."""
    xy = np.random.default_rng(99).random((len(rows), 2))
    return Slide.build(name, slide.counts[rows], slide.genes, xy, patient="P1")


ROWS = np.arange(60)
PARTS = {
    "another order of spots": rows_of(A, np.random.default_rng(0).permutation(60)),
    "without one spot": rows_of(A, ROWS[1:]),
    "a tenth of the spots": rows_of(A, ROWS[::10]),
    "another order of genes": Slide.build("part", A.counts[:, ::-1], A.genes[::-1], None),
    "one more gene, undetected": Slide.build(
        "part", np.hstack([A.counts.toarray(), np.zeros((60, 1))]), (*A.genes, "new"), None
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_rearranged_and_partial_copies_are_refused(name: str) -> None:
    split = Split.declare([A, B], [C])
    with pytest.raises(ValueError, match=r"'part' .*shares about 100% of the spots with 'A'"):
        check_split(split, [B], [PARTS[name]])
    with pytest.raises(ValueError, match="shares about 100%"):
        Split.declare([PARTS[name], A], [])


def test_mixed_slides_are_refused_by_their_share_of_spots() -> None:
    def mixed(number: int) -> Slide:
        counts = np.vstack([A.counts[:number].toarray(), D.counts[number:].toarray()])
        return Slide.build("mixed", counts, A.genes, None)

    split = Split.declare([A], [])
    with pytest.raises(ValueError, match="shares about 50%"):
        check_split(split, [], [mixed(30)])
    check_split(split, [], [mixed(1)])


def test_sketch_estimates_the_share_of_rows_in_large_slides() -> None:
    """Against the exact share, on slides far larger than the sketch."""
    rng = np.random.default_rng(1)
    pool = Slide.build("pool", rng.poisson(2.0, (4000, 40)), [f"g{i}" for i in range(40)], None)
    first = row_sketch(rows_of(pool, np.arange(2000)))
    assert len(first) == 256
    assert list(first) == sorted(set(first))
    for start, exact in ((0, 1.0), (1000, 0.5), (1600, 0.2), (2000, 0.0)):
        share = shared_rows(first, row_sketch(rows_of(pool, np.arange(start, start + 2000))))
        assert share == pytest.approx(exact, abs=0.1)
    assert shared_rows(first, row_sketch(rows_of(pool, np.arange(100, 400)))) == 1.0


def test_sketch_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with rows in between that do not enter."""
    counts = A.counts.toarray()
    counts[[0, 7, 8, 59], 9:] = 0
    slide = Slide.build("gaps", counts, A.genes, None)
    whole = row_sketch(slide)
    kept = np.setdiff1d(ROWS, [0, 7, 8, 59])
    assert whole == row_sketch(rows_of(A, kept))
    monkeypatch.setattr("spatial_ipa.data.split._BLOCK_ENTRIES", 400)
    assert row_sketch(slide) == whole


def test_rows_that_coincide_by_chance_do_not_count() -> None:
    counts = np.zeros((60, 120))
    counts[:, :9] = 1
    first = Slide.build("first", counts, A.genes, None)
    counts[0, 0] = 2
    second = Slide.build("second", counts, A.genes, None)
    check_split(Split.declare([first], []), [], [second])


def test_the_record_names_patients() -> None:
    part = rows_of(D, ROWS)
    assert SlideIdentity.of(part).patient == "P1"
    assert '"patient": "P1"' in Split.declare([part], []).to_json()
