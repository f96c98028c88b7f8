"""A file is replaced as a whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.files.atomic import atomic_path


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def write_half_folder(path: Path) -> None:
    with atomic_path(path) as temporary:
        (temporary / "inner").mkdir(parents=True)
        raise RuntimeError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # a rename does not cross file systems
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failure_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "a.txt", RuntimeError)
    assert names(tmp_path) == []


def test_leftovers_are_not_written_into(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        leftover = temporary
        temporary.write_text("first")
    leftover.write_text("of a killed process")
    with atomic_path(tmp_path / "a.txt") as temporary:
        assert not temporary.exists()
        temporary.write_text("second")
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_written_the_same_way(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half_folder(tmp_path / "made")
    assert names(tmp_path) == []
    with atomic_path(tmp_path / "made") as temporary:
        temporary.mkdir()
        (temporary / "a.txt").write_text("a")
    assert names(tmp_path / "made") == ["a.txt"]


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
