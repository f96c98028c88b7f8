"""The command: its arguments, set-up without work, checks."""

import subprocess
from pathlib import Path

import pytest

from common.bootstrap import __main__ as bootstrap
from common.bootstrap import wheels
from common.bootstrap.environment import Venv
from common.bootstrap.steps import StepFailed


def test_a_complete_environment_is_left_alone(project, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("nothing may run")

    monkeypatch.setattr(bootstrap, "run_steps", refuse)
    assert bootstrap.setup("torch", project).folder == project / ".venv"


def test_missing_compiler_is_said_before_any_work(project, monkeypatch, tmp_path):
    (project / ".venv" / "edgewise-stamp.json").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(wheels.shutil, "which", lambda name: None)
    monkeypatch.setattr(bootstrap, "run_steps", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(StepFailed, match=r"no C\+\+ compiler found .*apt-get install g\+\+"):
        bootstrap.setup("torch", project)


@pytest.mark.parametrize(
    ("argv", "command", "forwarded"),
    [
        (["run", "--config", "a.yaml", "--fast"], "run", ["--config", "a.yaml", "--fast"]),
        (["run", "--torch", "torch==2.9", "x"], "run", ["x"]),
        (["run", "--help"], "run", ["--help"]),
        (["test"], "test", []),
        (["test", "--", "-k", "edges", "--torch"], "test", ["-k", "edges", "--torch"]),
    ],
)
def test_arguments(argv, command, forwarded):
    options, rest = bootstrap.parse(argv)
    assert (options.command, rest) == (command, forwarded)


@pytest.mark.parametrize("argv", [["test", "-k", "x"], ["setup", "x"], ["build"], []])
def test_bad_arguments(argv):
    with pytest.raises(SystemExit) as stop:
        bootstrap.parse(argv)
    assert stop.value.code == 2


def test_torch_from_the_environment(monkeypatch):
    monkeypatch.setenv(bootstrap.TORCH_VARIABLE, "torch==2.12.1")
    assert bootstrap.parse(["run"])[0].torch == "torch==2.12.1"
    assert bootstrap.parse(["run", "--torch", "torch"])[0].torch == "torch"


@pytest.mark.parametrize("failing", [(), ("ruff",), ("lint-imports",), ("mypy", "pytest")])
def test_all_checks_run_and_any_failure_counts(monkeypatch, failing):
    ran: list[list[str]] = []

    def record(command: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
        program, *rest = command[2:] if command[1:2] == ["-m"] else [Path(command[0]).name]
        ran.append([program, *rest])
        return subprocess.CompletedProcess(command, int(program in failing))

    monkeypatch.setattr(bootstrap.subprocess, "run", record)
    assert bootstrap.run_checks(Venv(Path(".venv")), ["-k", "x"]) == int(bool(failing))
    assert [command[0] for command in ran] == ["ruff", "ruff", "mypy", "lint-imports", "pytest"]
    assert ran[-1] == ["pytest", "-k", "x"]


def test_old_python_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "MINIMUM_PYTHON", (99, 0))
    assert bootstrap.main(["setup"]) == 1
    assert "Python 99.0 or newer is needed" in capsys.readouterr().err
