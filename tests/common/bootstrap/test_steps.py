"""Steps: side by side, with logs, heartbeats, and failures one can act on."""

import os
import sys

import pytest

from common.bootstrap import steps
from common.bootstrap.steps import Step, StepFailed, run_steps


def python(name: str, code: str) -> Step:
    return Step(name, (sys.executable, "-c", code), "try something else")


def test_steps_run_at_the_same_time_and_keep_logs(tmp_path):
    """Each waits for a file that the other makes: one after the other, they would not end."""
    wait = (
        "import pathlib, time\npathlib.Path('{0}').touch()\n"
        "while not pathlib.Path('{1}').exists(): time.sleep(0.01)\nprint('saw {1}')"
    )
    seconds = run_steps(
        [python("step a", wait.format("a", "b")), python("step b", wait.format("b", "a"))],
        tmp_path / "logs",
        tmp_path,
    )
    assert sorted(seconds) == ["step a", "step b"]
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
