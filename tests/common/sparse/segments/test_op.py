"""Softmax over rows and spmm: every backend against the plain forms, values and gradients."""

from __future__ import annotations

import pytest
import torch
from sparse_problems import (
    BACKENDS,
    SIZES,
    Problem,
    blocks_do_not_change_the_result,
    float32_stays_within_its_rounding,
    gradients_match_finite_differences,
    int32_gives_the_same_bits,
    matches_the_plain_form,
    needs_extension,
    same_bits_for_every_thread_count,
)

from common.sparse import edge_softmax, use_backend

NAMES = ["spmm", "softmax", "log_softmax of heads"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_the_plain_form(backend: str, size: tuple[int, ...]) -> None:
    matches_the_plain_form(backend, size, NAMES)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_int32_indices_give_the_same_bits(backend: str) -> None:
    int32_gives_the_same_bits(backend, NAMES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES[3:], ids=str)
def test_float32_stays_within_its_rounding(backend: str, size: tuple[int, ...]) -> None:
    float32_stays_within_its_rounding(backend, size, NAMES)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_gradients_match_finite_differences(backend: str) -> None:
    gradients_match_finite_differences(backend, NAMES)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks_do_not_change_the_result(monkeypatch, NAMES)


@needs_extension
def test_same_bits_for_every_run_and_thread_count() -> None:
    problem = Problem((301, 40000, 4, 32, 2, 32, 16), torch.float32)
    same_bits_for_every_thread_count({n: problem.operations()[n] for n in NAMES})


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_rows_without_weight_give_zero(backend: str) -> None:
    problem = Problem((9, 193, 4, 32, 2, 128, 64))
    edges = problem.edges
    closed = edges.dst == 2
    assert closed.any()
    gate = problem.edge_logit.detach().masked_fill(closed, -torch.inf)
    with use_backend(backend):  # type: ignore[arg-type]
        assert (edge_softmax(gate, edges)[closed] == 0).all()
