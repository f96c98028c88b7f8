"""No slide is both learned from and judged on, whatever it is called."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spatial_ipa.encoder_data import EncoderDataModule, without_coordinates
from spatial_ipa.slide import Slide
from spatial_ipa.split import Split, check_split


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
    check_split(split, [A], [without_coordinates(C), without_coordinates(D)])


def test_dissociated_samples_have_no_coordinates_in_common() -> None:
    first, second = without_coordinates(A), without_coordinates(B)
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
    with pytest.raises(ValueError, match="version 2"):
        Split.from_json(split.to_json().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="version 2"):
        check_split(dataclasses.replace(split, version=2), [A], [C])
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
    data = EncoderDataModule([], mode="transductive")
    data.declare([A, B], [C])
    (seen,) = data.seen_heldout
    assert seen.xy is None
    assert seen.expression_hash == C.expression_hash
    assert data.split.mode == "transductive"
