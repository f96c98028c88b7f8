"""May this output be written?  Folders are made where asked, unusable places refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ExistingFile, MissingFile
from common.files.outputs import check_name, check_output, prepare_folder, prepare_output


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


def test_check_alone_makes_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "out.pt", "output", overwrite=False)
    with pytest.raises(MissingFile, match=r"folder .*/a of output does not exist"):
        check_output(tmp_path / "a" / "out.pt", "output")
    assert not list(tmp_path.iterdir())


def test_a_name_alone_needs_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "out.pt"
    check_name(path, "output", overwrite=False, inputs=[tmp_path / "in.pt"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is an input file"):
        check_name(path, "output", inputs=[path])
    with pytest.raises(ValueError, match="output must name a file"):
        check_name(tmp_path, "output")
    path.parent.mkdir()
    path.write_bytes(b"old")
    with pytest.raises(ExistingFile, match=r"choose another output or .*overwrite: true"):
        check_name(path, "output", overwrite=False)


def test_an_existing_file_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "out.pt"
    path.write_bytes(b"old")
    check_output(path, "data.output")
    with pytest.raises(ExistingFile, match=r"out\.pt exists; choose another data\.output or allow"):
        check_output(path, "data.output", overwrite=False)
    with pytest.raises(ExistingFile, match=r"another data\.output or set data\.overwrite$"):
        check_output(path, "data.output", overwrite=False, allow="set data.overwrite")


def test_an_input_is_never_an_output(tmp_path: Path) -> None:
    path, link = tmp_path / "in.pt", tmp_path / "link.pt"
    path.write_bytes(b"input")
    link.symlink_to(path)
    for name in (path, link, tmp_path / "." / "in.pt"):
        for overwrite in (True, False):
            with pytest.raises(ValueError, match="is an input file"):
                check_output(name, "output", overwrite=overwrite, inputs=[path])
    check_output(tmp_path / "other.pt", "output", inputs=[path])


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="output: no permission to write in the folder"):
        check_output(tmp_path / "out.pt", "output")
    with pytest.raises(ValueError, match="output: no permission"):
        prepare_folder(tmp_path / "new", "output")


def test_a_folder_of_results(tmp_path: Path) -> None:
    for _ in range(2):
        prepare_folder(tmp_path / "a" / "b", "out")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="out: cannot make the folder"):
        prepare_folder(tmp_path / "file", "out")
