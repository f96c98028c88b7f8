"""A stand-in for a repository with a complete environment."""

import sys

import pytest

from common.bootstrap.environment import Venv, write_stamp


@pytest.fixture
def project(tmp_path):
    """A stand-in for a repository with a complete environment."""
    site = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages" / "torch"
    site.mkdir(parents=True)
    (site / "version.py").write_text("from typing import Optional\n__version__ = '2.13.0+cpu'\n")
    (tmp_path / ".venv" / "bin").mkdir()
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    source = tmp_path / "common" / "sparse" / "csrc"
    source.mkdir(parents=True)
    (source / "kernel.cpp").write_text("int f();")
    (tmp_path / "common" / "sparse" / "_C.so").write_bytes(b"")
    (tmp_path / "pyproject.toml").write_text(
        "[project]\ndependencies = ['numpy', 'scipy']\n"
        "[project.optional-dependencies]\ntest = ['pytest']\npyg = ['torch-scatter']\n"
    )
    (tmp_path / "setup.py").write_text("")
    venv = Venv(tmp_path / ".venv")
    write_stamp(venv, tmp_path, "torch", ["pyg"])
    return tmp_path
