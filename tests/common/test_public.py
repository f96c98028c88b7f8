"""Public names of the packages: all there, and none imported before it is used."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from common.bootstrap.environment import our_packages
from common.public import lazy_names

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [name for name in our_packages(ROOT) if name != "common"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_resolves_and_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_nothing_heavy(package: str) -> None:
    heavy = "{'torch', 'lightning', 'scipy', 'numpy', 'anndata', 'matplotlib', 'jsonargparse'}"
    code = f"import sys, {package}; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_refused_as_python_does(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        importlib.import_module(package).nothing  # noqa: B018


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "lazy_toy"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "inside.py").write_text("value = object()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    package = importlib.import_module("lazy_toy")
    resolve, names = lazy_names("lazy_toy", {"value": "inside", "inside": ""})
    assert {"value", "inside"} <= set(names())
    assert resolve("inside") is sys.modules["lazy_toy.inside"]
    assert resolve("value") is package.value is sys.modules["lazy_toy.inside"].value
