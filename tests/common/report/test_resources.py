"""Stopwatch: stages add up, keep their order and survive errors."""

import time
from pathlib import Path

import pytest

from common.report.resources import Stopwatch, peak_memory_bytes


def test_stages_add_up_in_order_of_first_start():
    clock = Stopwatch()
    for name in ("read", "place", "read"):
        with clock.stage(name):
            time.sleep(0.01)
    assert list(clock.seconds) == ["read", "place"]
    # sleep never ends early; nothing is said of how late it may.
    assert clock.seconds["read"] >= 0.02
    assert clock.seconds["place"] >= 0.01
    lines = clock.table().splitlines()
    assert [line.split()[0] for line in lines] == ["read", "place", "total"]
    assert float(lines[-1].split()[1]) == pytest.approx(sum(clock.seconds.values()), abs=0.051)


def test_a_stage_that_fails_is_still_timed():
    clock = Stopwatch()
    with pytest.raises(RuntimeError, match="no"), clock.stage("write"):
        raise RuntimeError("no")
    assert list(clock.seconds) == ["write"]


def test_peak_memory_is_what_the_kernel_says():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux's /proc")
    kilobytes = next(
        int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line
    )
    assert peak_memory_bytes() == pytest.approx(1024 * kilobytes, rel=0.02)


def test_a_stage_inside_another_counts_there():
    now = [0.0]
    clock = Stopwatch(lambda: now[0])

    def inner() -> None:
        now[0] += 2

    inner_timed = clock.timed("inner", inner)

    def outer() -> str:
        now[0] += 1
        inner_timed()
        return "done"

    assert clock.timed("outer", outer)() == "done"
    inner_timed()
    assert clock.seconds == {"outer": 3, "inner": 2}
    with pytest.raises(RuntimeError), clock.stage("outer"):
        raise RuntimeError
    inner_timed()  # a failure does not leave the watch inside
    assert clock.seconds["inner"] == 4
