"""Classes by path, also by one of an earlier layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.files.identity import resolve_class


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "moved_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "def __getattr__(name):\n"
        "    if name != 'Thing':\n        raise AttributeError(name)\n"
        "    from moved_package.place import Thing\n    return Thing\n"
    )
    (folder / "place.py").write_text("class Thing: pass\nnumber = 3\n")
    (folder / "broken.py").write_text("import no_such_library\nclass Other: pass\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_class_is_found_wherever_it_was(package: None) -> None:
    found = resolve_class("moved_package.place.Thing")
    assert found is not None
    assert found.__module__ == "moved_package.place"
    for earlier in ("moved_package.Thing", "moved_package.old.Thing", "moved_package.a.b.Thing"):
        assert resolve_class(earlier) is found


@pytest.mark.parametrize(
    "path", ["moved_package.place.Gone", "moved_package.place.number", "no_package.Thing", "Thing"]
)
def test_what_is_no_class_any_more(package: None, path: str) -> None:
    assert resolve_class(path) is None


def test_a_module_that_fails_to_import_is_a_defect(package: None) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        resolve_class("moved_package.broken.Other")
