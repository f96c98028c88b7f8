"""The line that says what a figure was measured on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from common.report.machine import describe_machine, machines_of, processor


def test_names_the_processor() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file() or "model name" not in cpuinfo.read_text(encoding="utf-8"):
        pytest.skip("the system does not name its processor")
    assert f": {processor()}\n" in cpuinfo.read_text(encoding="utf-8")


def test_line_holds_threads_and_versions() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        parts = describe_machine("numpy").split(", ")
    finally:
        torch.set_num_threads(before)
    assert parts[-5].endswith("core(s)")
    assert parts[-4] == "3 thread(s)"
    assert parts[-2:] == [f"torch {torch.__version__}", f"numpy {version('numpy')}"]
    assert describe_machine(threads=7).split(", ")[-3] == "7 thread(s)"


def test_package_that_is_not_there() -> None:
    with pytest.raises(PackageNotFoundError):
        describe_machine("no-such-package-at-all")


def test_machines_of_rows() -> None:
    rows = [{"machine": "a"}, {"machine": "b"}, {"x": 1}, {"machine": "a"}]
    assert machines_of(rows) == "a (rows: 2); b (rows: 1); not recorded (rows: 1)"
    assert machines_of(rows[:1]) == "a (rows: 1)"
