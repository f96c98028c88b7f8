"""Text to ensembles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protein_cvae.ensemble import Ensemble
from protein_cvae.io import read_structure


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Ensemble]:
    def write_and_read(text: str | bytes, name: str = "x.pdb", **options: object) -> Ensemble:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_structure(path, **options)  # type: ignore[arg-type]

    return write_and_read
