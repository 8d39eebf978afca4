"""Logging of the command: of cyasgi's own loggers only, since all others are the application's."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import FAILED, MISUSED, CommandError

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("text", "json")

logger = logging.getLogger("cyasgi")

#: Of ECMA-48, by level.
COLOURS = {"DEBUG": "36", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


@dataclass
class LogOptions:
    """The values of the options about logs."""

    #: The minimum level to log, one of `LEVELS`.
    level: str = "info"
    #: Whether that was asked for, so that it goes before what a file says.
    level_given: bool = False
    #: One of `FORMATS`.
    format: str = "text"
    #: A file that configures `logging`; None for the command's own configuration.
    config: str | None = None
    #: Whether levels are coloured; None: on a terminal, unless the environment has NO_COLOR.
    colours: bool | None = None
    #: The file of the access log; None for standard output.
    access_file: str | None = None


class TextFormatter(logging.Formatter):
    """Lines with logger and level; in UTC like the access log, whatever time zone the application sets."""

    default_msec_format = "%s,%03d +0000"

    def __init__(self, name_process: bool, colours: bool) -> None:
        process = "[%(process)d]" if name_process else ""
        super().__init__(f"%(asctime)s %(shown)s %(name)s{process}: %(message)s")
        self.converter = time.gmtime
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        colour = COLOURS.get(record.levelname) if self._colours else None
        record.shown = record.levelname if colour is None else f"\x1b[{colour}m{record.levelname}\x1b[0m"
        return super().format(record)


class JSONFormatter(logging.Formatter):
    """An object a line, with ``time``, ``level``, ``logger``, ``process``, ``message``, and perhaps ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = self.formatStack(record.stack_info)
        return json.dumps(told)


def configure_logging(options: LogOptions, ignored: Iterable[str] = (), *, name_process: bool = False) -> None:
    """Log what the loggers below `cyasgi` say to standard error, and pass nothing on to the root logger.

    With a file that configures `logging`, that says where they log to. Called before the application is imported, so
    that the application may give these loggers other handlers.

    Args:
        ignored: a sentence for each option that has no effect, to be logged as a warning.
        name_process: whether each line names the process, since there are several.

    Raises:
        CommandError: the file cannot be read, or configures nothing.
    """
    if options.config is None:
        handler = logging.StreamHandler(sys.stderr)
        if options.format == "json":
            handler.setFormatter(JSONFormatter())
        else:
            handler.setFormatter(TextFormatter(name_process, _coloured(options.colours)))
        logger.handlers = [handler]
        logger.propagate = False
    else:
        _configure_by_file(options.config)
        enable_loggers()
    if options.config is None or options.level_given:
        logger.setLevel(options.level.upper())
    for sentence in ignored:
        logger.warning("%s", sentence)


def _coloured(asked: bool | None) -> bool:
    if asked is None:
        return sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return asked


def _configure_by_file(path: str) -> None:
    """Configure `logging` by a file in JSON, TOML or YAML, as its name ends, else in the format of `configparser`."""
    # Only here: without such a file, every process that starts would import ten modules for nothing.
    import logging.config
    from configparser import ConfigParser

    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}", FAILED) from None
    try:
        if path.endswith((".json", ".toml", ".yaml", ".yml")):
            logging.config.dictConfig(_parsed(path, data))
        else:
            parser = ConfigParser()
            parser.read_string(data.decode(), path)
            logging.config.fileConfig(parser, disable_existing_loggers=False)
    except CommandError:
        raise
    except Exception as error:
        # Such a file may have Python in it.
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        raise CommandError(f"{path} does not configure logging: {error}{cause}".replace("\n", " "), MISUSED) from None


def _parsed(path: str, data: bytes) -> Any:
    if path.endswith(".json"):
        return json.loads(data)
    if path.endswith(".toml"):
        import tomllib

        return tomllib.loads(data.decode())
    try:
        yaml: Any = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise CommandError(f"{path}: YAML needs PyYAML: pip install pyyaml") from None
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def enable_loggers() -> None:
    """Enable cyasgi's loggers again: by default, `logging.config` disables those that it does not name."""
    for name, one in logging.root.manager.loggerDict.items():
        if isinstance(one, logging.Logger) and (name == logger.name or name.startswith(f"{logger.name}.")):
            one.disabled = False
