"""Log files, and their reopening, so that another program may rename and compress what was written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from .signals import let_go

logger = logging.getLogger("cyasgi")

_open: WeakSet[LogFile] = WeakSet()


class LogFile:
    """A file opened for appending, by several processes if need be: each write is one call of the system, if it can be.

    Args:
        path: made if it does not exist.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = self._opened()
        _open.add(self)

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, text: str) -> None:
        """Append this; raise OSError if that cannot be done."""
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def reopen(self) -> None:
        """Go on with the file that has the path now; with the old one if that cannot be opened.

        Raises:
            OSError: it cannot be opened.
        """
        old, self._descriptor = self._descriptor, self._opened()
        os.close(old)

    def close(self) -> None:
        """Close the file; nothing may be written afterwards."""
        _open.discard(self)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()


def reopen_all() -> None:
    """Reopen all log files, those of each logger's handlers included; log those that cannot be."""
    for file in list(_open):
        try:
            file.reopen()
        except OSError as error:
            logger.error("%s: %s: it was not reopened", file.path, error.strerror)
    found = {id(one): one for one in _handlers() if isinstance(one, logging.FileHandler) and one.mode == "a"}
    for handler in found.values():
        try:
            _reopen_handler(handler)
        except OSError as error:
            logger.error("%s: %s: it was not reopened", handler.baseFilename, error.strerror)
    logger.info("log files were reopened")


def _reopen_handler(handler: logging.FileHandler) -> None:
    path = handler.baseFilename
    opened: Any = open(path, handler.mode, encoding=handler.encoding, errors=handler.errors)  # noqa: SIM115
    handler.acquire()
    try:
        stream, handler.stream = handler.stream, opened
    finally:
        handler.release()
    if stream is not None:
        stream.close()


def _handlers() -> Iterator[logging.Handler]:
    yield from logging.root.handlers
    for one in list(logging.root.manager.loggerDict.values()):
        if isinstance(one, logging.Logger):
            yield from one.handlers


def _nothing(number: int, frame: object) -> None:
    """Do nothing on a signal. If it were ignored, processes that the application starts would go on to ignore it."""


def survive_signal() -> None:
    """Do nothing on SIGUSR1, which by default ends a process, until log files are reopened by it."""
    number = getattr(signal, "SIGUSR1", None)
    if number is not None and _in_main_thread() and signal.getsignal(number) is signal.SIG_DFL:
        signal.signal(number, _nothing)


@contextlib.contextmanager
def reopened_by_signal() -> Iterator[None]:
    """Reopen log files on SIGUSR1, as long as the running loop is in here.

    Not where there is no such signal, in other threads than the main one, and if the application handles it itself.
    """
    number = getattr(signal, "SIGUSR1", None)
    if number is None or not _in_main_thread() or signal.getsignal(number) not in (_nothing, signal.SIG_DFL):
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, reopen_all)
    try:
        yield
    finally:
        let_go(loop, number, _nothing)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
