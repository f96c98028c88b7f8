"""The layering: `common` imports no model, no model imports another; `common` is this one."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import common

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("spatial_ipa", "protein_cvae")
FORBIDDEN = {
    "common": {*MODELS, "pytorch_lightning"},
    "spatial_ipa": {"protein_cvae", "pytorch_lightning"},
    "protein_cvae": {"spatial_ipa", "pytorch_lightning"},
}


def imported(file: Path) -> set[str]:
    """Top-level names of all imports of a file, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(file): imported(file) & FORBIDDEN[package] for file in files}
    assert not {file: names for file, names in wrong.items() if names}


def test_common_is_ours():
    """`common` is a crowded name: another distribution must not shadow it."""
    assert Path(str(common.__file__)).resolve().parent == ROOT / "common"


@pytest.mark.parametrize("file", sorted((ROOT / "common/bootstrap").glob("*.py")), ids=str)
def test_bootstrap_needs_only_the_standard_library(file):
    names = imported(file) | imported(ROOT / "common" / "__init__.py")
    assert names - {"common"} <= sys.stdlib_module_names
    # -S -I: no site-packages and no environment; the only path is the repository.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import common.bootstrap.{file.stem}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
