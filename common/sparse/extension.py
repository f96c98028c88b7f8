"""The compiled CPU library: loading it, and what happens once it is loaded.

Its operators appear under ``torch.ops.edgewise``.  Gradients and fake shapes are attached from
Python: the ``compiled.py`` of every operation names its function with :func:`after_loading`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

BUILD = "`python setup.py build_ext --inplace`"
# The one file that setup.py builds, for every torch from 2.10 and every Python; a library of
# another name beside it is not looked at.
LIBRARY = Path(__file__).with_name("_C.abi3.so")

_waiting: list[Callable[[], None]] = []


@cache
def extension_loaded() -> bool:
    """Load the library if it was built, at the first call; False where it is missing or broken."""
    if not LIBRARY.is_file():
        return False
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        warnings.warn(
            f"the sparse extension {LIBRARY} does not load with torch {torch.__version__} "
            f"({error}); it needs torch 2.10 or newer: update torch, or build it again with "
            f"{BUILD}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    while _waiting:
        _waiting.pop(0)()
    return True


def after_loading(register: Callable[[], None]) -> None:
    """Call ``register`` once, when the library has been loaded; call this before it is."""
    _waiting.append(register)
