"""What the contracts of import-linter in pyproject.toml do not cover.

Imports inside functions and under TYPE_CHECKING count here too: no circle of files hides in them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import common
from common.bootstrap.environment import our_packages

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = our_packages(ROOT)


def module_name(file: Path, root: Path = ROOT) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> set[str]:
    """Dotted names of all imports of a file; ``from a import b`` is ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top_level(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def file_graph(root: Path, package: str) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports anywhere."""
    files = {module_name(file, root): file for file in (root / package).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        # `from a.b import c` names the module a.b.c, or something inside a.b.
        known = {n if n in files else n.rpartition(".")[0] for n in imported(file)}
        graph[name] = known & files.keys()
    return graph


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_files(package: str) -> None:
    graph = file_graph(ROOT, package)
    assert graph
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_a_circle_inside_functions_is_found(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "a.py").write_text("from pack.b import thing\n")
    (tmp_path / "pack" / "b.py").write_text("def f():\n    from pack import a\n")
    graph = file_graph(tmp_path, "pack")
    assert graph == {"pack": set(), "pack.a": {"pack.b"}, "pack.b": {"pack.a"}}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


def test_what_is_installed_is_what_is_listed() -> None:
    """setuptools takes every folder with an ``__init__.py``."""
    assert {folder.parent.name for folder in ROOT.glob("*/__init__.py")} == set(PACKAGES)


def test_every_list_of_packages_in_the_contracts_is_the_same() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {c["id"]: c for c in settings["tool"]["importlinter"]["contracts"]}
    layers = re.split(r"[ |]+", " ".join(contracts["packages"]["layers"]))
    assert sorted(layers) == sorted(PACKAGES)
    ancestors = [name for package in PACKAGES for name in (package, f"{package}.**")]
    assert sorted(contracts["circles"]["ancestors"]) == sorted(ancestors)


def test_what_a_package_offers_is_declared() -> None:
    """Configurations go into the wheel, commands to ``edgewise``."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = settings["tool"]["setuptools"]["data-files"]
    folders = sorted(str(f.parent.relative_to(ROOT)) for f in ROOT.glob("configs/*/*.yaml"))
    assert sorted(files) == sorted({f"share/edgewise/{folder}" for folder in folders})
    points = settings["project"]["entry-points"]["edgewise.commands"]
    with_commands = {file.parent.name for file in ROOT.glob("*/commands.py")}
    assert points == {name: f"{name}.commands:COMMANDS" for name in with_commands}


@pytest.mark.parametrize("package", PACKAGES)
def test_one_module_tree_of_lightning(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    assert not [file for file in files if "pytorch_lightning" in top_level(file)]


def test_common_is_ours() -> None:
    """`common` is a crowded name: another distribution must not shadow it."""
    assert Path(str(common.__file__)).resolve().parent == ROOT / "common"


@pytest.mark.parametrize("file", sorted((ROOT / "common/bootstrap").glob("*.py")), ids=str)
def test_bootstrap_needs_only_the_standard_library(file: Path) -> None:
    names = top_level(file) | top_level(ROOT / "common" / "__init__.py")
    assert names - {"common"} <= sys.stdlib_module_names
    # -S -I: no site-packages and no environment; the only path is the repository.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import common.bootstrap.{file.stem}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
