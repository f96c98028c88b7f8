"""The command: its arguments, set-up without work, checks."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.bootstrap import __main__ as bootstrap
from common.bootstrap.environment import Venv
from common.bootstrap.steps import StepFailed


def test_a_complete_environment_is_left_alone(project, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("nothing may run")

    monkeypatch.setattr(bootstrap, "run_steps", refuse)
    monkeypatch.setattr(bootstrap, "run_install", refuse)
    assert bootstrap.setup("torch", ("pyg",), root=project) == {}


@pytest.fixture
def without_compiler(project, monkeypatch, tmp_path):
    """No compiler, no wheels, and an installation that only notes what it is asked."""
    (project / ".venv" / "edgewise-stamp.json").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("CXX", "there-is-none")
    asked: list[str] = []

    def note(steps, *_):
        asked.extend(steps if isinstance(steps, dict) else [step.name for step in steps])
        return {}

    monkeypatch.setattr(bootstrap, "run_install", note)
    monkeypatch.setattr(bootstrap, "run_steps", note)
    return asked


def test_the_main_job_needs_no_compiler(project, without_compiler, capsys):
    bootstrap.setup("torch", (), "pip", project)
    assert without_compiler == [
        "install torch",
        "install the dependencies",
        "compile and install the package",
        "import check",
    ]
    assert capsys.readouterr().err.count("no C++ compiler") == 1
    without_compiler.clear()
    assert bootstrap.setup("torch", (), "pip", project) == {}
    assert not without_compiler
    assert not capsys.readouterr().err


def test_peers_need_one_which_is_said_before_any_work(project, without_compiler):
    with pytest.raises(StepFailed, match=r"no C\+\+ compiler found .*apt-get install g\+\+"):
        bootstrap.setup("torch", ("pyg",), "pip", project)
    assert not without_compiler


def test_bytecode_is_kept_in_the_environment(tmp_path, monkeypatch):
    """Images of containers often say that none is to be written."""
    (tmp_path / "imported_once.py").touch()
    step = bootstrap._import_check("import check", ("imported_once",), Venv(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    subprocess.run([sys.executable, *step.command[1:]], check=True)
    assert list(tmp_path.glob("__pycache__/imported_once.*.pyc"))


@pytest.mark.parametrize(
    ("argv", "command", "forwarded"),
    [
        (["run", "--config", "a.yaml", "--fast"], "run", ["--config", "a.yaml", "--fast"]),
        (["run", "--torch", "torch==2.9", "x"], "run", ["x"]),
        (["run", "--help"], "run", ["--help"]),
        (["setup", "--peers"], "setup", []),
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

    def record(command: list[str], cwd: Path) -> int:
        program, *rest = command[2:] if command[1:2] == ["-m"] else [Path(command[0]).name]
        ran.append([program, *rest])
        return int(program in failing)

    monkeypatch.setattr(bootstrap.processes, "run", record)
    assert bootstrap.run_checks(Venv(Path(".venv")), ["-k", "x"]) == int(bool(failing))
    programs = ["ruff", "ruff", "mypy", "lint-imports", "sphinx-build", "pytest"]
    assert [command[0] for command in ran] == programs
    assert ran[-1][0] == "pytest"
    assert ran[-1][-2:] == ["-k", "x"]


def test_old_python_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "MINIMUM_PYTHON", (99, 0))
    assert bootstrap.main(["setup"]) == 1
    assert "Python 99.0 or newer is needed" in capsys.readouterr().err


def test_it_says_where_the_time_went(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "setup", lambda *_: {"install torch": 61.0})
    monkeypatch.setattr(bootstrap.processes, "run", lambda *_, **__: 3)
    assert bootstrap.main(["run"]) == 3
    said = capsys.readouterr().err
    assert "1 min 01 s  install torch" in said
    assert said.rstrip().endswith("the job")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_leaves_nothing_behind(tmp_path, number):
    """A set-up that hangs in an installer; the signal goes to the bootstrap alone."""
    pids = tmp_path / "pids"
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(
        f"#!/bin/sh\nsleep 600 &\necho $$ $! > {pids}.new\nmv {pids}.new {pids}\nwait\n"
    )
    sleeper.chmod(0o755)
    code = (
        # Where the tests run in the background, SIGINT is ignored from the start.
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\nfrom common.bootstrap import __main__ as m\n"
        "from common.bootstrap.steps import Step, run_steps\n"
        f"m.setup = lambda *_: run_steps([Step('hang', ({str(sleeper)!r},), '')], "
        f"Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))\nsys.exit(m.main(['setup']))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not pids.exists():
        time.sleep(0.01)
    parent.send_signal(number)
    said = parent.communicate()[1]
    assert parent.returncode == 128 + number
    assert "stopped; finished steps are kept" in said
    for pid in pids.read_text().split():
        state = Path(f"/proc/{pid}/stat")  # a zombie has ended; who adopted it has not yet asked
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"
