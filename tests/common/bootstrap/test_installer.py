"""uv and pip: the same requirements, the same package index."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from common.bootstrap import installer
from common.bootstrap.environment import Venv
from common.bootstrap.steps import Step, StepFailed


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Programs that were started; uv fails, pip does not."""
    seen: list[list[str]] = []

    def run(
        steps: list[Step], logs: Path, cwd: Path, environment: Mapping[str, str] | None = None
    ) -> dict[str, float]:
        seen.append([step.command[0] for step in steps])
        if any(step.command[0].endswith("uv") for step in steps):
            raise StepFailed("no index")
        return {step.name: 1.0 for step in steps}

    monkeypatch.setattr(installer, "run_steps", run)
    return seen


def test_pip_goes_on_where_uv_fails(
    ran: list[list[str]], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = Venv(project / ".venv")
    seconds = installer.run_install({"install a": ["a"], "install b": ["b"]}, venv, "uv", project)
    assert ran == [["uv", "uv"], [venv.python, venv.python]]
    assert list(seconds) == ["install a", "install b"]
    assert "pip goes on" in capsys.readouterr().err


@pytest.fixture
def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)


def test_uv_of_the_machine_is_taken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer.shutil, "which", lambda name: f"/bin/{name}")
    venv = Venv(project / ".venv")
    assert installer.choose("auto", venv, project) == "/bin/uv"
    assert installer.choose("pip", venv, project) == "pip"


@pytest.mark.usefixtures("without_uv")
def test_pip_brings_uv(project: Path, ran: list[list[str]]) -> None:
    venv = Venv(project / ".venv")
    uv = project / ".venv" / "bin" / "uv"
    assert installer.choose("auto", venv, project) == str(uv)
    assert ran == [[venv.python]]
    uv.touch()
    assert installer.choose("uv", venv, project) == str(uv)
    assert len(ran) == 1, "once"


@pytest.mark.usefixtures("without_uv")
def test_what_cannot_be_had(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise StepFailed("no index")

    monkeypatch.setattr(installer, "run_steps", fail)
    venv = Venv(project / ".venv")
    assert installer.choose("auto", venv, project) == "pip"
    assert "pip installs instead" in capsys.readouterr().err
    with pytest.raises(StepFailed, match="no index"):
        installer.choose("uv", venv, project)
    with pytest.raises(StepFailed, match="'conda'; choose auto, uv, pip"):
        installer.choose("conda", venv, project)


def test_uv_asks_the_index_that_pip_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = (
        ":env:.timeout='180'\nglobal.index-url='https://first/simple'\n"
        "global.extra-index-url='https://a/simple https://b/simple'\n"
        "install.find-links='/wheels /more'\nglobal.cert='/ca.crt'\n"
    )

    def answer(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout=listed)

    monkeypatch.setattr(installer.subprocess, "run", answer)
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_INDEX_STRATEGY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/mine.crt")
    assert installer._uv_settings(Venv(Path(".venv"))) == {
        "UV_DEFAULT_INDEX": "https://first/simple",
        "UV_INDEX": "https://a/simple https://b/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
