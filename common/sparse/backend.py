"""Which implementation runs: ``reference``, ``torch``, ``cpp`` or ``triton``.

``reference`` is plain PyTorch on edge lists, ``torch`` works by blocks with little memory on any
device, ``cpp`` is the compiled CPU extension and ``triton`` the kernels for CUDA devices.  By
default, CPU tensors go to ``cpp`` where it was built, CUDA tensors to ``triton`` where it is
installed, and all others to ``torch``.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from common.errors import UserError
from common.sparse import compiled

Backend = Literal["reference", "torch", "cpp", "triton"]

_forced: ContextVar[Backend | None] = ContextVar("sparse_backend", default=None)


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Run the sparse operations of the ``with`` body on one backend.

    What torch.compile has compiled keeps the backend of that moment.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: for ``cpp`` when the extension was not built, and for ``triton`` when it is
            not installed.
    """
    if name not in get_args(Backend):
        raise UserError(f"backend must be one of {', '.join(get_args(Backend))}, got {name!r}")
    if name == "cpp" and not extension_loaded():
        raise RuntimeError(
            "backend 'cpp' needs the compiled extension: run `python setup.py build_ext --inplace`"
        )
    if name == "triton" and not triton_installed():
        raise RuntimeError("backend 'triton' needs Triton: run `pip install triton` (Linux)")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def backend_for(tensor: Tensor) -> Backend:
    """The backend that an operation on ``tensor`` will use.

    Raises:
        RuntimeError: if ``triton`` was asked for and cannot run on the device of ``tensor``.
    """
    return _backend_on(tensor.device.type)


def _backend_on(kind: str) -> Backend:
    forced = _forced.get()
    if forced == "triton" and not (kind == "cuda" or (kind == "cpu" and triton_interpreted())):
        raise RuntimeError(
            f"backend 'triton' needs CUDA tensors, got a tensor on {kind}; to run its "
            "kernels on CPU, slowly, set TRITON_INTERPRET=1 in the environment before Python starts"
        )
    if forced is not None:
        return forced
    if kind == "cuda" and triton_installed():
        return "triton"
    if kind != "cpu":
        return "torch"
    if extension_loaded():
        return "cpp"
    _warn_once()
    return "torch"


# torch.compile takes the answer as a constant: what it compiled keeps its backend.  This is what
# torch.compiler.assume_constant_result sets, which would import the compiler, and Triton, here.
_backend_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
def triton_installed() -> bool:
    """Whether Triton can be imported; it is not imported here."""
    return importlib.util.find_spec("triton") is not None


def triton_interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@cache
def _warn_once() -> None:
    warnings.warn(
        "the sparse extension is not built, so block-wise PyTorch is used on CPU (several times "
        "slower); build it with `python setup.py build_ext --inplace`",
        RuntimeWarning,
        stacklevel=4,
    )
