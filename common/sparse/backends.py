"""Which implementation runs: the table of backends, and the choice among an operation's forms.

``reference`` is plain PyTorch on edge lists, ``torch`` works by blocks with little memory on any
device, ``cpp`` is the compiled CPU extension and ``triton`` the kernels for CUDA devices.  By
default, CPU tensors go to ``cpp`` where it was built, CUDA tensors to ``triton`` where it is
installed, and all others to ``torch``.

The variable EDGEWISE_BACKEND (``--backend`` on the command line) chooses for the whole process, on
the devices that the chosen one runs on; the others keep their default.  :func:`use_backend` chooses
for a block of code, and fails on a device that it cannot use.

Every operation has a table of its own, ``FORMS``: backend -> :class:`Form`.  A form that cannot
take some calls says so in ``serves``; block-wise PyTorch takes these.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from common.errors import CannotRun, UserError
from common.sparse.extension import BUILD, extension_loaded

Backend = Literal["reference", "torch", "cpp", "triton"]


class Entry(NamedTuple):
    """One backend: where it runs, where it is the default, and why it may be missing."""

    devices: Callable[[], tuple[str, ...] | None]  # None: any
    default_on: tuple[str, ...] | None  # None: any
    missing: Callable[[], str | None]  # None: can be used in this process
    cannot: str = ""  # told with the device, where that is not among ``devices``
    without: str | None = None  # the warning where it would be the default and is missing


def triton_installed() -> bool:
    """Whether Triton can be imported; it is not imported here."""
    return importlib.util.find_spec("triton") is not None


def triton_interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def _no_extension() -> str | None:
    return None if extension_loaded() else f"needs the compiled extension: run {BUILD}"


def _no_triton() -> str | None:
    return None if triton_installed() else "needs Triton: run `pip install triton` (Linux)"


def _anywhere() -> None:
    return None


# In order of preference: the first that is the default on a device and is not missing runs there.
BACKENDS: Mapping[Backend, Entry] = {
    "triton": Entry(
        devices=lambda: ("cuda", "cpu") if triton_interpreted() else ("cuda",),
        default_on=("cuda",),
        missing=_no_triton,
        cannot=(
            "needs CUDA tensors, got a tensor on {device}; to run its kernels on CPU, slowly, set "
            "TRITON_INTERPRET=1 in the environment before Python starts"
        ),
    ),
    "cpp": Entry(
        devices=lambda: ("cpu",),
        default_on=("cpu",),
        missing=_no_extension,
        cannot="needs CPU tensors, got a tensor on {device}",
        without=(
            "the sparse extension is not built, so block-wise PyTorch is used on CPU (several "
            f"times slower); build it with {BUILD}"
        ),
    ),
    "torch": Entry(devices=_anywhere, default_on=None, missing=_anywhere),
    "reference": Entry(devices=_anywhere, default_on=(), missing=_anywhere),
}

BACKEND_VARIABLE = "EDGEWISE_BACKEND"
BACKEND_CHOICES = ("auto", *BACKENDS)

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
    if name not in BACKENDS:
        raise UserError(f"backend must be one of {', '.join(get_args(Backend))}, got {name!r}")
    missing = BACKENDS[name].missing()
    if missing is not None:
        raise CannotRun(f"backend {name!r} {missing}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def chosen_backend() -> Backend | None:
    """What EDGEWISE_BACKEND chooses for the whole process; None where it is unset or ``auto``.

    Raises:
        UserError: on an unknown name, or a backend that is missing here.
    """
    return _checked_choice(os.environ.get(BACKEND_VARIABLE, "auto"))


@cache
def _checked_choice(name: str) -> Backend | None:
    if name in ("auto", ""):
        return None
    for backend, entry in BACKENDS.items():
        if backend == name:
            missing = entry.missing()
            if missing is not None:
                raise CannotRun(f"--backend {name} {missing}")
            return backend
    choices = ", ".join(BACKEND_CHOICES)
    raise UserError(f"--backend and {BACKEND_VARIABLE} must be one of {choices}, got {name!r}")


def backend_for(tensor: Tensor) -> Backend:
    """The backend that an operation on ``tensor`` will use.

    Raises:
        RuntimeError: if a backend was asked for that cannot run on the device of ``tensor``.
    """
    return _backend_on(tensor.device.type)


def _backend_on(device: str) -> Backend:
    forced = _forced.get()
    if forced is not None:
        served = BACKENDS[forced].devices()
        if served is not None and device not in served:
            raise CannotRun(f"backend {forced!r} {BACKENDS[forced].cannot.format(device=device)}")
        return forced
    chosen = chosen_backend()
    if chosen is not None:
        served = BACKENDS[chosen].devices()
        if served is None or device in served:
            return chosen
    for name, entry in BACKENDS.items():
        if entry.default_on is not None and device not in entry.default_on:
            continue
        if entry.missing() is None:
            return name
        if entry.without is not None:
            _warn_once(entry.without)
    raise AssertionError("block-wise PyTorch runs anywhere")


# torch.compile takes the answer as a constant: what it compiled keeps its backend.  This is what
# torch.compiler.assume_constant_result sets, which would import the compiler, and Triton, here.
_backend_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _everything(*_: Any) -> str | None:
    return None


class Form(NamedTuple):
    """One implementation of an operation."""

    run: Callable[..., Any]
    serves: Callable[..., str | None] = _everything  # why it cannot take a call; None: it can
    half: bool = False  # reads half precision itself; others get it widened to float32


def form_for(forms: Mapping[Backend, Form], tensor: Tensor, *call: Any) -> Form:
    """The form that takes a call: that of the backend of ``tensor``, or block-wise PyTorch.

    ``call`` is what ``serves`` of the operation's forms is asked with.
    """
    form = forms[backend_for(tensor)]
    return form if form.serves(*call) is None else forms["torch"]
