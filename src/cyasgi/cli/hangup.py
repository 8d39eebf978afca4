"""SIGHUP: a terminal that has gone ends the server; where no worker can be replaced, nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager

from .._common.signals import let_go
from .logs import logger

#: None on a system without that signal.
SIGHUP: int | None = getattr(signal, "SIGHUP", None)

#: Errors of /dev/tty that say that there is no terminal; others, as that no descriptor is left, say nothing.
GONE = (errno.ENXIO, errno.EIO, errno.ENODEV, errno.ENOENT)


class Terminal:
    """The controlling terminal of this process, if it has one now; it sends SIGHUP when it goes."""

    def __init__(self) -> None:
        # What `nohup` has started goes on without it.
        stays = SIGHUP is None or signal.getsignal(SIGHUP) is signal.SIG_IGN
        self._matters = not stays and self._look() == 0

    def has_gone(self) -> bool:
        """Return whether this process had a terminal, has it no more, and is to end with it."""
        return self._matters and self._look() in GONE

    @staticmethod
    def _look() -> int:
        """Return 0 if there is a terminal, else the number of the error."""
        try:
            # Whatever standard streams are redirected to.
            descriptor = os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0))
        except OSError as error:
            return error.errno or -1
        os.close(descriptor)
        return 0


def leave_to_parent() -> None:
    """Do nothing on SIGHUP, which a terminal sends to this process and to the one that has started it.

    If it were ignored, processes that the application starts would go on to ignore it.
    """
    if SIGHUP is not None:
        signal.signal(SIGHUP, lambda number, frame: None)


class HangUps:
    """What SIGHUP does to a process that serves by itself, from now on; by default it would end it at once.

    An application that handles the signal keeps its handler, and `nohup` has it ignored.
    """

    def __init__(self) -> None:
        self._terminal = Terminal()
        self._came = False
        self._ours = (
            SIGHUP is not None
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(SIGHUP) is signal.SIG_DFL
        )
        if self._ours:
            assert SIGHUP is not None
            signal.signal(SIGHUP, self._note)

    def _note(self, number: int, frame: object) -> None:
        """Take note of a signal that comes before the server runs."""
        self._came = True

    @contextlib.contextmanager
    def handled(self, stop: Callable[[], object]) -> Iterator[None]:
        """Deal with the signal in the running loop meanwhile.

        Args:
            stop: ends the server gracefully.
        """
        if SIGHUP is None or not self._ours or signal.getsignal(SIGHUP) != self._note:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(SIGHUP, self._received, stop)
        if self._came:
            self._received(stop)
        try:
            yield
        finally:
            let_go(loop, SIGHUP, self._note)

    @contextlib.asynccontextmanager
    async def around(self, stop: Callable[[], object], inner: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        """Deal with the signal as long as `inner` goes on; `stop` is that of `handled`."""
        with self.handled(stop):
            async with inner:
                yield

    def _received(self, stop: Callable[[], object]) -> None:
        if self._terminal.has_gone():
            logger.warning("the terminal has gone: stopping")
            stop()
        else:
            logger.warning(
                "SIGHUP has no effect on a single process; with --workers 2 or more, it replaces the workers one by one"
            )
