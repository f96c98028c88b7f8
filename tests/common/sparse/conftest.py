"""Fixtures of the sparse operations' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def keep_threads() -> Iterator[None]:
    """PyTorch's number of threads is as before after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
