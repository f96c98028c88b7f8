"""The table of backends and the choice among an operation's forms."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from common.graph.edges import EdgeList
from common.sparse import Backend, backend_for, backends, spmm, use_backend
from common.sparse.attention import op as attention
from common.sparse.backends import BACKENDS, Form, form_for
from common.sparse.gate import op as gate
from common.sparse.segments import op as segments

EDGES = EdgeList.from_edge_index(torch.tensor([[0, 1, 2, 2], [1, 0, 0, 2]]), 4)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_backend_choice() -> None:
    with pytest.raises(ValueError, match="backend must be one of"), use_backend("gpu"):  # type: ignore[arg-type]
        pass
    with use_backend("torch"):
        assert backend_for(draw(1)) == "torch"
        with use_backend("reference"):
            assert backend_for(draw(1)) == "reference"
        assert backend_for(draw(1)) == "torch"


def test_without_the_extension_one_warning_and_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = spmm(draw(4), EDGES, draw(4, 2))
    monkeypatch.setattr(backends, "extension_loaded", lambda: False)
    backends._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="extension is not built"):
        first = spmm(draw(4), EDGES, draw(4, 2))
    spmm(draw(4), EDGES, draw(4, 2))  # a second warning would be an error here
    torch.testing.assert_close(first, expected)
    with pytest.raises(RuntimeError, match="needs the compiled extension"), use_backend("cpp"):
        pass


def test_every_backend_has_a_row_and_every_operation_a_form_for_it() -> None:
    names = set(get_args(Backend))
    assert set(BACKENDS) == names
    for forms in (attention.FORMS, gate.FORMS, segments.SPMM, segments.LOG_SOFTMAX):
        assert set(forms) == names


def test_a_call_that_a_form_cannot_take_goes_to_blockwise_pytorch() -> None:
    small = Form(lambda: "plain", serves=lambda n: None if n < 3 else "takes fewer than 3")
    forms = {"reference": small, "torch": Form(lambda: "blocks")}
    with use_backend("reference"):
        assert form_for(forms, draw(1), 2).run() == "plain"  # type: ignore[arg-type]
        assert form_for(forms, draw(1), 3).run() == "blocks"  # type: ignore[arg-type]


def test_a_forced_backend_names_the_device_that_it_cannot_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "extension_loaded", lambda: True)
    with use_backend("cpp"), pytest.raises(RuntimeError, match=r"'cpp' needs CPU tensors, .* meta"):
        backend_for(torch.empty(1, device="meta"))


def test_the_environment_chooses_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the devices that the chosen one runs on; a block of code may still choose otherwise."""
    monkeypatch.setenv("EDGEWISE_BACKEND", "reference")
    assert backend_for(draw(1)) == "reference"
    with use_backend("torch"):
        assert backend_for(draw(1)) == "torch"
    assert backend_for(torch.empty(1, device="meta")) == "reference"


@pytest.mark.parametrize("name", ["gpu", "CPP"])
def test_an_unknown_choice_names_the_choices(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("EDGEWISE_BACKEND", name)
    with pytest.raises(ValueError, match="must be one of auto, triton, cpp, torch, reference, got"):
        backend_for(draw(1))


def test_a_choice_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "extension_loaded", lambda: False)
    backends._checked_choice.cache_clear()
    monkeypatch.setenv("EDGEWISE_BACKEND", "cpp")
    with pytest.raises(RuntimeError, match="--backend cpp needs the compiled extension"):
        backends.chosen_backend()


def test_auto_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = backend_for(draw(1))
    for name in ("auto", ""):
        monkeypatch.setenv("EDGEWISE_BACKEND", name)
        assert backends.chosen_backend() is None
        assert backend_for(draw(1)) == expected
