"""The environment: every change of what is installed shows."""

import json
import re
import shutil
import sys
from pathlib import Path
from venv import EnvBuilder

import pytest

from common.bootstrap import environment
from common.bootstrap.environment import (
    Venv,
    find_compiler,
    is_current,
    make_venv,
    requirements,
)
from common.bootstrap.steps import StepFailed


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "pyproject.toml").write_text("[project]\nname = 'x'\n"),
        lambda root: (root / "setup.py").unlink(),
        lambda root: (root / "common/sparse/csrc/kernel.cpp").write_text("int g();"),
        lambda root: (root / "common/sparse/csrc/other.h").write_text(""),
        lambda root: (root / "common/sparse/_C.so").unlink(),
        lambda root: (root / ".venv/edgewise-stamp.json").unlink(),
        lambda root: (root / ".venv/bin/python").unlink(),
        lambda root: next(root.glob(".venv/lib/*/*/torch/version.py")).write_text(
            "__version__ = '2.14.0'"
        ),
    ],
)
def test_any_change_of_what_is_installed_shows(project, change):
    venv = Venv(project / ".venv")
    assert is_current(venv, project, "torch", [])
    change(project)
    assert not is_current(venv, project, "torch", [])


def test_another_torch_shows(project):
    assert not is_current(Venv(project / ".venv"), project, "torch==2.12.1", [])


def test_stamp_is_readable(project):
    stamp = json.loads((project / ".venv" / "edgewise-stamp.json").read_text())
    assert stamp["extensions"] == ["common/sparse/_C.so"]


def test_the_log_of_a_failed_environment_is_kept(project, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(StepFailed) as failed:
        make_venv(Venv(tmp_path / "new"), tmp_path)
    (named,) = re.findall(r"Full log: (.*)", str(failed.value))
    assert Path(named).exists()


def test_extras_that_are_not_there_show(project):
    venv = Venv(project / ".venv")
    assert is_current(venv, project, "torch", ["pyg"])
    assert not is_current(venv, project, "torch", ["pyg", "test"])


@pytest.mark.parametrize(
    ("then", "now", "current"),
    [(None, "g++", False), (None, None, True), ("g++", "g++", True)],
    ids=["a compiler came", "still none", "it failed before"],
)
def test_kernels_are_compiled_once_there_is_a_compiler(project, monkeypatch, then, now, current):
    venv = Venv(project / ".venv")
    (project / "common" / "sparse" / "_C.so").unlink()
    monkeypatch.setattr(environment, "find_compiler", lambda: then)
    environment.write_stamp(venv, project, "torch", [])
    monkeypatch.setattr(environment, "find_compiler", lambda: now)
    assert is_current(venv, project, "torch", []) == current


def test_requirements_are_those_of_the_project(project):
    assert requirements(project) == ["numpy", "scipy"]
    assert requirements(project, ["test", "pyg"]) == ["numpy", "scipy", "torch-scatter", "pytest"]


def test_the_compiler_may_be_named(monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -flag")
    assert find_compiler() == sys.executable
    monkeypatch.setenv("CXX", "there-is-none")
    assert find_compiler() is None


def test_an_environment_that_was_stopped_in_the_middle_does_not_work(tmp_path):
    """SIGTERM while it is made leaves a Python without pip; setting up again makes it anew."""
    half, whole = Venv(tmp_path / "half"), Venv(tmp_path / "whole")
    for venv, pip in ((half, False), (whole, True)):
        EnvBuilder(with_pip=pip, symlinks=True).create(venv.folder)
    assert not half.works()
    assert whole.works()
