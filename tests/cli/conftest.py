"""What the command changes in the process that tests run in is put back."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Whatever a test has made of cyasgi's loggers, the next one finds them as this one did."""
    logger = logging.getLogger("cyasgi")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    for name, one in logging.root.manager.loggerDict.items():
        if isinstance(one, logging.Logger) and name.partition(".")[0] == "cyasgi":
            one.disabled = False
