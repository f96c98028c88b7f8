"""The bootstrap without installing anything: keys, cache, checks, and how failures read."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.bootstrap import __main__ as bootstrap
from common.bootstrap import steps
from common.bootstrap.__main__ import Venv
from common.bootstrap.steps import Step, StepFailed, run_steps


def python(name: str, code: str) -> Step:
    return Step(name, (sys.executable, "-c", code), "try something else")


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
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "setup.py").write_text("")
    venv = Venv(tmp_path / ".venv")
    bootstrap.write_stamp(venv, tmp_path, "torch")
    return tmp_path


def test_steps_run_at_the_same_time_and_keep_logs(tmp_path):
    """Each waits for a file that the other makes: one after the other, they would not end."""
    wait = (
        "import pathlib, time\npathlib.Path('{0}').touch()\n"
        "while not pathlib.Path('{1}').exists(): time.sleep(0.01)\nprint('saw {1}')"
    )
    run_steps(
        [python("step a", wait.format("a", "b")), python("step b", wait.format("b", "a"))],
        tmp_path / "logs",
        tmp_path,
    )
    assert (tmp_path / "logs" / "step-a.log").read_text() == "saw b\n"


def test_a_failure_stops_the_others_and_shows_the_end_of_its_log(tmp_path):
    fail = "print('first'); print('\\n' * 40); print('the reason'); raise SystemExit(3)"
    sleep = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(StepFailed) as failed:
        run_steps([python("sleep", sleep), python("fail", fail)], tmp_path, tmp_path)
    message = str(failed.value)
    assert "fail failed with status 3" in message
    assert "the reason" in message
    assert "first" not in message
    assert "try something else" in message
    assert str(tmp_path / "fail.log") in message
    pid = (tmp_path / "sleep.log").read_text().strip()
    if pid:  # it may have been stopped before it could write
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_heartbeat(tmp_path, monkeypatch):
    """Beats show the last line of the log; the step ends only once one has."""
    monkeypatch.setattr(steps, "HEARTBEAT_SECONDS", 0.0)
    gate = tmp_path / "gate"
    said = []

    def say(text: str) -> None:
        said.append(text)
        if text.endswith("so far | halfway"):
            gate.touch()

    monkeypatch.setattr(steps, "say", say)
    code = (
        f"import os, time\nprint('halfway', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    )
    run_steps([python("slow", code)], tmp_path, tmp_path)
    assert said[0] == "slow ..."
    assert said[-1].startswith("slow: done in")


def test_a_complete_environment_is_left_alone(project, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("nothing may run")

    monkeypatch.setattr(bootstrap, "run_steps", refuse)
    assert bootstrap.setup("torch", project).folder == project / ".venv"


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
    assert bootstrap.is_current(venv, project, "torch")
    change(project)
    assert not bootstrap.is_current(venv, project, "torch")


def test_another_torch_shows(project):
    assert not bootstrap.is_current(Venv(project / ".venv"), project, "torch==2.12.1")


def test_stamp_is_readable(project):
    stamp = json.loads((project / ".venv" / "edgewise-stamp.json").read_text())
    assert stamp["extensions"] == ["common/sparse/_C.so"]


def test_the_log_of_a_failed_environment_is_kept(project, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(StepFailed) as failed:
        bootstrap.make_venv(Venv(tmp_path / "new"), tmp_path)
    (named,) = re.findall(r"Full log: (.*)", str(failed.value))
    assert Path(named).exists()


def test_missing_compiler_is_said_before_any_work(project, monkeypatch, tmp_path):
    (project / ".venv" / "edgewise-stamp.json").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    monkeypatch.setattr(bootstrap, "run_steps", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(StepFailed, match=r"no C\+\+ compiler found .*apt-get install g\+\+"):
        bootstrap.setup("torch", project)


def test_cached_wheels_need_no_compiler(project, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bootstrap, "compile_wheels", lambda *_: pytest.fail("compiled"))
    tag = f"{sys.implementation.cache_tag}-" + subprocess.check_output(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_platform())"], text=True
    )
    folder = tmp_path / "cache" / "edgewise" / "wheels" / f"2.13.0+cpu-{tag.strip()}"
    folder.mkdir(parents=True)
    names = ["torch_scatter-2.1.2-cp311-x.whl", "torch_cluster-1.6.3-cp311-x.whl"]
    for name in names:
        (folder / name).touch()
    assert bootstrap.cached_anywhere()
    found = bootstrap.compiled_wheels(Venv(project / ".venv"), "2.13.0+cpu", project)
    assert found == [folder / name for name in names]


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """Replaces pip by something that makes empty wheels and records what was asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bootstrap, "require_compiler", lambda: None)
    asked: list[str] = []

    def build(todo: list[Step], logs: Path, cwd: Path, environment: dict[str, str]) -> None:
        for step in todo:
            spec = step.command[-1]
            asked.append(spec)
            target = Path(step.command[step.command.index("--wheel-dir") + 1])
            (target / f"{spec.replace('-', '_').replace('==', '-')}-cp311-x.whl").touch()
            if spec == "fails==1":
                raise StepFailed(spec)

    monkeypatch.setattr(bootstrap, "run_steps", build)
    return asked


def test_an_interrupted_build_leaves_no_wheel(project, builds, monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "COMPILED", ("torch-scatter==2.1.2", "fails==1"))
    with pytest.raises(StepFailed, match="fails==1"):
        bootstrap.compiled_wheels(Venv(project / ".venv"), "2.13.0+cpu", project)
    assert len(builds) == 2
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_only_missing_wheels_are_compiled(project, builds, monkeypatch):
    venv = Venv(project / ".venv")
    both = bootstrap.COMPILED
    monkeypatch.setattr(bootstrap, "COMPILED", both[:1])
    bootstrap.compiled_wheels(venv, "2.13.0+cpu", project)
    monkeypatch.setattr(bootstrap, "COMPILED", both)
    found = bootstrap.compiled_wheels(venv, "2.13.0+cpu", project)
    assert builds == list(both), "each once"
    assert [file.name.partition("-")[0] for file in found] == ["torch_scatter", "torch_cluster"]


def test_another_torch_has_its_own_wheels(project, builds):
    venv = Venv(project / ".venv")
    first = bootstrap.compiled_wheels(venv, "2.13.0+cpu", project)
    second = bootstrap.compiled_wheels(venv, "2.14.0+cpu", project)
    assert not set(first) & set(second)
    assert builds == [*bootstrap.COMPILED, *bootstrap.COMPILED]


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
