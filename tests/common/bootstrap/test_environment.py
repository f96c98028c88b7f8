"""The environment: every change of what is installed shows."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from common.bootstrap.environment import Venv, is_current, make_venv
from common.bootstrap.steps import StepFailed
from common.bootstrap.wheels import COMPILED


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
    assert is_current(venv, project, "torch", COMPILED)
    change(project)
    assert not is_current(venv, project, "torch", COMPILED)


def test_another_torch_shows(project):
    assert not is_current(Venv(project / ".venv"), project, "torch==2.12.1", COMPILED)


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


def test_other_compiled_packages_show(project):
    assert not is_current(Venv(project / ".venv"), project, "torch", ("torch-scatter==9",))
