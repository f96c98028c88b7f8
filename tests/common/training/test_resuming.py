"""Processes that would go on from different checkpoints."""

from __future__ import annotations

import pytest

from common.training.resuming import refuse_different


@pytest.mark.parametrize("found", [[None], [None, None], ["a.ckpt", "a.ckpt", "a.ckpt"]])
def test_processes_that_agree_go_on(found: list[str | None]) -> None:
    refuse_different(found)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["a.ckpt", "a.ckpt", None], "process 0 goes on from a.ckpt, process 2 from no checkpoint"),
        ([None, "a.ckpt"], "process 0 goes on from no checkpoint, process 1 from a.ckpt: put the"),
        (["b.ckpt", "a.ckpt"], "process 0 goes on from b.ckpt, process 1 from a.ckpt"),
    ],
)
def test_processes_that_do_not_are_refused(found: list[str | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_different(found)
