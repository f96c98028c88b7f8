"""Triton: never imported where it is not used, and its kernels in the interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from triton_problems import INTERPRETED, needs_triton

from common.graph.edges import EdgeList
from common.sparse import backend_for, spmm, use_backend

pytestmark = needs_triton


@pytest.mark.skipif(INTERPRETED, reason="already inside the process that this test starts")
def test_interpreted_kernels() -> None:
    """The cases of every operation, on CPU; none may be skipped there."""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    files = sorted(str(file) for file in Path(__file__).parent.glob("*/test_triton.py"))
    assert len(files) == 3
    run = subprocess.run(
        [*command, *files],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    summary = run.stdout.strip().splitlines()[-1]
    assert "passed" in summary, run.stdout
    assert "skipped" not in summary, run.stdout


@pytest.mark.skipif(INTERPRETED, reason="about processes that do not interpret")
def test_not_on_cpu_without_the_interpreter() -> None:
    edges = EdgeList.from_edge_index(torch.tensor([[0], [1]]), 2)
    with (
        use_backend("triton"),
        pytest.raises(
            RuntimeError, match=r"needs CUDA tensors, got a tensor on cpu; .*INTERPRET=1"
        ),
    ):
        spmm(torch.ones(1), edges, torch.ones(2, 3))


@pytest.mark.skipif(INTERPRETED, reason="about processes that do not interpret")
def test_not_imported_with_the_package() -> None:
    code = "import sys, common.sparse; assert 'triton' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.sparse.backends.triton_installed", lambda: False)
    with pytest.raises(RuntimeError, match="needs Triton"), use_backend("triton"):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no CUDA device")
def test_not_asked_for_on_cuda_it_still_runs() -> None:
    assert importlib.util.find_spec("triton") is not None
    assert backend_for(torch.ones(1, device="cuda")) == "triton"
