"""Logging of the command: of cyasgi's own loggers only, since all others are the application's."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable

LEVELS = ("debug", "info", "warning", "error", "critical")

logger = logging.getLogger("cyasgi")


class _Formatter(logging.Formatter):
    """Lines with logger and level; in UTC like the access log, whatever time zone the application sets."""

    default_msec_format = "%s,%03d +0000"

    def __init__(self, name_process: bool) -> None:
        process = "[%(process)d]" if name_process else ""
        super().__init__(f"%(asctime)s %(levelname)s %(name)s{process}: %(message)s")
        self.converter = time.gmtime


def configure_logging(level: str, ignored: Iterable[str] = (), *, name_process: bool = False) -> None:
    """Log what the loggers below `cyasgi` say to standard error, and pass nothing on to the root logger.

    Called before the application is imported, so that the application may give these loggers other handlers.

    Args:
        level: the minimum level to log, one of `LEVELS`.
        ignored: a sentence for each option that has no effect, to be logged as a warning.
        name_process: whether each line names the process, since there are several.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(name_process))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
    for sentence in ignored:
        logger.warning("%s", sentence)


def enable_loggers() -> None:
    """Enable cyasgi's loggers again: by default, `logging.config` disables those that it does not name."""
    for name, one in logging.root.manager.loggerDict.items():
        if isinstance(one, logging.Logger) and (name == logger.name or name.startswith(f"{logger.name}.")):
            one.disabled = False
