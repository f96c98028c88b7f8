"""Children: their status, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common import processes

# A child that starts a grandchild in a process group of its own, as ninja does with compilers.
_FAMILY = """
import os, subprocess, sys, time
{deaf}
grandchild = subprocess.Popen(
    [sys.executable, "-c", {sleeper!r}], process_group=0
)
open({pids!r} + ".new", "w").write(f"{{os.getpid()}} {{grandchild.pid}}")
os.rename({pids!r} + ".new", {pids!r})
time.sleep(600)
"""


def family(pids: Path, deaf: bool) -> list[str]:
    """The command of a child that sleeps, with a grandchild that sleeps."""
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" if deaf else ""
    sleeper = f"{ignore}\nimport time; time.sleep(600)"
    return [sys.executable, "-c", _FAMILY.format(deaf=ignore, sleeper=sleeper, pids=str(pids))]


def wait_for(file: Path) -> list[int]:
    while not file.exists():
        time.sleep(0.01)
    return [int(pid) for pid in file.read_text().split()]


def gone(pid: int) -> bool:
    """No such process, or only its exit status is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize("deaf", [False, True], ids=["obedient", "deaf to SIGTERM"])
def test_stopping_reaches_other_process_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5 if deaf else 60.0)
    child = processes.start(family(tmp_path / "pids", deaf))
    pids = wait_for(tmp_path / "pids")
    processes.stop(child)
    assert [gone(pid) for pid in pids] == [True, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_whole_family(tmp_path: Path, number: signal.Signals) -> None:
    """The signal goes to the parent alone, as a batch system or `kill` sends it."""
    command = family(tmp_path / "pids", deaf=False)
    # Where the tests run in the background, or under nohup, signals are ignored from the start.
    code = (
        "import signal\nfrom common import processes\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"processes.run({command!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pids = wait_for(tmp_path / "pids")
    parent.send_signal(number)
    assert parent.wait() != 0
    assert [gone(pid) for pid in pids] == [True, True]


def test_status_and_surroundings(tmp_path: Path) -> None:
    code = "import os, sys; open('seen', 'w').write(os.environ['A']); sys.exit(7)"
    environment = os.environ | {"A": "b"}
    assert processes.run([sys.executable, "-c", code], tmp_path, environment) == 7
    assert (tmp_path / "seen").read_text() == "b"


def test_signals_raise_within_the_context_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(processes.Stopped, match="SIGTERM") as stopped, processes.stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.status == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_somebody_handles_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with processes.stop_on_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_it_works_in_a_thread() -> None:
    found: list[int] = []
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    thread = threading.Thread(target=lambda: found.append(processes.run(command)))
    thread.start()
    thread.join()
    assert found == [3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_child_is_made_leaves_none(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    made: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **more: object) -> None:
            super().__init__(*arguments, **more)  # type: ignore[call-overload]
            made.append(self)
            signal.raise_signal(number)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by tests in the background
    try:
        with processes.stop_on_signals(), pytest.raises(KeyboardInterrupt):
            processes.start([sys.executable, "-c", "import time; time.sleep(600)"])
    finally:
        signal.signal(signal.SIGINT, before)
    (child,) = made
    assert gone(child.pid)
