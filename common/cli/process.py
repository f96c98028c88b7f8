"""Settings of the whole process, applied in one place before any work starts.

``lightning``, ``edgewise`` and ``python -m spatial_ipa.pipeline`` all come through
:func:`prepare_process`.  The backend is left in the environment, so that processes started from
here (stages, ranks, loader workers) choose the same.
"""

from __future__ import annotations

import os

import torch

from common.sparse.backends import BACKEND_VARIABLE, chosen_backend


def prepare_process(backend: str | None = None, threads: int | None = None) -> None:
    """Apply what was asked for on the command line, or by variables of the environment.

    Args:
        backend: of the sparse operations; None leaves EDGEWISE_BACKEND as it is.
        threads: compute threads of this process alone; None leaves them as they are.

    Raises:
        UserError: on an unknown backend, or one that cannot be used here.
    """
    if backend is not None:
        os.environ[BACKEND_VARIABLE] = backend
    chosen_backend()
    if threads is not None:
        torch.set_num_threads(threads)
