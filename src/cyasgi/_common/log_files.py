"""Log files, and their reopening, so that another program may rename and compress what was written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from weakref import WeakSet

logger = logging.getLogger("cyasgi")

_open: WeakSet[LogFile] = WeakSet()


class LogFile:
    """A file that text is appended to, of several processes if need be: what is written at once stays together.

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
        os.close(self._descriptor)


def reopen_all() -> None:
    """Reopen all log files, those of handlers of `logging` included; log those that cannot be."""
    for file in list(_open):
        try:
            file.reopen()
        except OSError as error:
            logger.error("%s: %s: it was not reopened", file.path, error.strerror)
    found = {id(one): one for one in _handlers() if isinstance(one, logging.FileHandler) and one.mode == "a"}
    for handler in found.values():
        with contextlib.suppress(OSError):
            handler.acquire()
            try:
                stream, handler.stream = handler.stream, None
                if stream is not None:
                    # The handler opens the file again when it has something to write.
                    stream.close()
            finally:
                handler.release()
    logger.info("log files were reopened")


def _handlers() -> Iterator[logging.Handler]:
    yield from logging.root.handlers
    for one in list(logging.root.manager.loggerDict.values()):
        if isinstance(one, logging.Logger):
            yield from one.handlers


@contextlib.contextmanager
def reopened_by_signal() -> Iterator[None]:
    """Reopen log files on SIGUSR1, where there is such a signal, as long as the running loop is in here."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, reopen_all)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
        # By default it ends a process, even one that is about to end by itself.
        signal.signal(number, signal.SIG_IGN)
