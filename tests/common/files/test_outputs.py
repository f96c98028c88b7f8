"""Output folders are made, unusable ones refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.files.outputs import prepare_output


def test_folder_is_made_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.pt"
    for _ in range(2):
        prepare_output(path, "export")
    assert path.parent.is_dir()
    assert not path.exists()


def test_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.pt"
    path.write_bytes(b"old")
    prepare_output(path, "export")
    assert path.read_bytes() == b"old"


def test_unusable_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export must name a file"):
        prepare_output(tmp_path, "export")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="output: cannot make the folder"):
        prepare_output(tmp_path / "file" / "out.pt", "output")
