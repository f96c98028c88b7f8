"""The compiled CPU library: loading it, and what happens once it is loaded.

Its operators appear under ``torch.ops.edgewise``.  Gradients and fake shapes are attached from
Python: the ``compiled.py`` of every operation names its function with :func:`after_loading`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

BUILD = "`python setup.py build_ext --inplace`"

_waiting: list[Callable[[], None]] = []


@cache
def extension_loaded() -> bool:
    """Load the library if it was built, at the first call; False where it is missing or broken."""
    spec = importlib.util.find_spec("common.sparse._C")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return False
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        warnings.warn(
            f"the sparse extension {spec.origin} does not load ({error}); build it again with "
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
