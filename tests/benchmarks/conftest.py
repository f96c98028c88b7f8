"""Benchmarks silence Lightning for their process; here that process goes on with other tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _lightning_speaks_again() -> Iterator[None]:
    loggers = [
        logging.getLogger(name)
        for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")
    ]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
