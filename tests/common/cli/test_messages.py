"""What ends the process from outside is one line, and the status that a shell gives."""

from __future__ import annotations

import signal

import pytest

from common.cli.messages import one_line_errors
from common.processes import Stopped


@pytest.mark.parametrize(
    ("reason", "status"), [(KeyboardInterrupt(), 130), (Stopped(signal.SIGTERM), 143)]
)
def test_an_end_from_outside_is_one_line(
    capsys: pytest.CaptureFixture[str], reason: KeyboardInterrupt, status: int
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise reason
    assert ended.value.code == status
    assert capsys.readouterr().err == "stopped; give the same command again to go on\n"
