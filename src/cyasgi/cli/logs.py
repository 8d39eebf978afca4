"""What the command logs, and how: its own loggers alone, for all others are the application's."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable

LEVELS = ("debug", "info", "warning", "error", "critical")

logger = logging.getLogger("cyasgi")


class _Formatter(logging.Formatter):
    """Lines with logger and level, in UTC as the access log has it, whatever time zone the application sets."""

    default_msec_format = "%s,%03d +0000"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.converter = time.gmtime


def configure_logging(level: str, ignored: Iterable[str] = ()) -> None:
    """Write what the loggers below `cyasgi` say to the standard error, and pass nothing on to the root logger.

    Called before the application is imported, so that it may give these loggers handlers of its own instead.

    Args:
        level: the least level to write, one of `LEVELS`.
        ignored: what was said to the command and has no effect, a sentence each: logged as warnings.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())
    for sentence in ignored:
        logger.warning("%s", sentence)


def enable_loggers() -> None:
    """Undo what `logging.config` does by default to loggers that it does not name: it disables them."""
    for name, one in logging.root.manager.loggerDict.items():
        if isinstance(one, logging.Logger) and (name == logger.name or name.startswith(f"{logger.name}.")):
            one.disabled = False
