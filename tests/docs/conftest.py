"""The folder in which the pages are tried, built once and copied for each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from workplace import build, make_small


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_small(patch, folder)
        build(folder)
    return folder


@pytest.fixture
def workplace(built: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of that folder, which is the working directory of the test."""
    folder = tmp_path / "work"
    shutil.copytree(built, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_small(patch, folder)
        yield folder
