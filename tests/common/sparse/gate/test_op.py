"""Edge gate: every backend against the plain form, values and all gradients."""

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

from common.sparse.gate import compiled
from common.sparse.gate.inputs import GateParts

NAMES = ["edge_gate"]


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
    """The compiled operator; PyTorch's products for the node-wise parts stay outside."""
    problem = Problem((301, 40000, 4, 32, 2, 32, 16), torch.float32)
    w_in, at_dst, at_src = problem.draw(16, 64), problem.draw(301, 16), problem.draw(301, 16)
    parts = GateParts(at_dst, at_src, problem.h, w_in, *problem.layers[2:])
    same_bits_for_every_thread_count(
        {"edge_gate": (lambda: [compiled.gate_of_parts(parts, problem.edges)], list(parts))}
    )
