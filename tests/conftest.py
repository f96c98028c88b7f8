"""Fixtures of all tests."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Of small operators several threads mostly wait for each other; before torch is imported, and for
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floating memory from ``torch.empty`` and the like holds NaN: what nobody writes shows."""

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(make)
        def call(*args: Any, **options: Any) -> Tensor:
            tensor = make(*args, **options)
            with torch.no_grad():
                return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return call

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, filled(getattr(owner, name)))


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """A script of ``benchmarks/`` as a module, by its path there, such as ``spatial/table``."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
        module_name = "benchmarks." + name.replace("/", ".")
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their module up
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(path.parent)  # as a script finds those beside it
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch on two threads, whatever it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
