"""Which implementation runs: ``reference``, ``torch`` or ``cpp``.

``reference`` is plain PyTorch on edge lists, ``torch`` works by blocks with little memory on any
device, and ``cpp`` is the compiled CPU extension.  By default, CPU tensors go to
``cpp`` where it was built and to ``torch`` otherwise.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from common.sparse import compiled

Backend = Literal["reference", "torch", "cpp"]

_forced: ContextVar[Backend | None] = ContextVar("sparse_backend", default=None)


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Run the sparse operations of the ``with`` body on one backend.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: for ``cpp`` when the extension was not built.
    """
    if name not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {name!r}")
    if name == "cpp" and not extension_loaded():
        raise RuntimeError(
            "backend 'cpp' needs the compiled extension: run `python setup.py build_ext --inplace`"
        )
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def backend_for(tensor: Tensor) -> Backend:
    """The backend that an operation on ``tensor`` will use."""
    forced = _forced.get()
    if forced is not None:
        return forced
    if tensor.device.type != "cpu":
        return "torch"
    if extension_loaded():
        return "cpp"
    _warn_once()
    return "torch"


@cache
def extension_loaded() -> bool:
    """Load the extension if it was built; its operators appear under ``torch.ops.edgewise``."""
    spec = importlib.util.find_spec("common.sparse._C")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return False
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        warnings.warn(
            f"the sparse extension {spec.origin} does not load ({error}); build it again with "
            "`python setup.py build_ext --inplace`",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    compiled.register()
    return True


@cache
def _warn_once() -> None:
    warnings.warn(
        "the sparse extension is not built, so block-wise PyTorch is used on CPU (several times "
        "slower); build it with `python setup.py build_ext --inplace`",
        RuntimeWarning,
        stacklevel=4,
    )
