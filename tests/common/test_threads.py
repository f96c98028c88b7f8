"""Compute threads: set within, restored behind, also after an error."""

from __future__ import annotations

import pytest
import torch

from common.threads import compute_threads


def test_threads_are_set_and_restored() -> None:
    before = torch.get_num_threads()
    with compute_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with compute_threads(None):
            assert torch.get_num_threads() == before + 1
    with pytest.raises(KeyError), compute_threads(before + 2):
        raise KeyError
    assert torch.get_num_threads() == before
