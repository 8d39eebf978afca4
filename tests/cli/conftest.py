"""What the command changes in the process that tests run in is put back."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Whatever a test has made of loggers, the next one finds them as this one did."""
    logger = logging.getLogger("cyasgi")
    handlers, propagate, level, root_level = logger.handlers[:], logger.propagate, logger.level, logging.root.level
    disabled = {name for name, one in logging.root.manager.loggerDict.items() if getattr(one, "disabled", False)}
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    logging.root.setLevel(root_level)
    for name, one in logging.root.manager.loggerDict.items():
        if isinstance(one, logging.Logger):
            one.disabled = name in disabled
