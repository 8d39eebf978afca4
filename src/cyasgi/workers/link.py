"""A worker's side: what it has inherited, and what it says to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self

from .._common.cells import Page
from .._common.log_files import reopen_all
from ..supervisor import Supervisor
from .channel import Channel, Message
from .recycling import Limits
from .settings import Recycling

if TYPE_CHECKING:
    from ..metrics.recorder import Recorder

logger = logging.getLogger("cyasgi.workers")

#: Seconds between two overviews, a little less than a second, so that every heartbeat of a second has one.
OVERVIEWS_APART = 0.9
#: Seconds that a worker takes at its end to have the supervisor read its last message.
LAST_WORD = 1.0

#: Environment variable that tells a worker what it has inherited.
MARK = "CYASGI_WORKER"


class WorkerLink:
    """What a worker has inherited from the process that supervises it.

    Args:
        sock: its end of the channel.
        sockets: the descriptors of its sockets: by kind of server, for each address.
        beat: seconds between two heartbeats.
        page: where it counts what its servers do; None if nobody watches.
    """

    def __init__(
        self, sock: socket.socket, sockets: dict[str, list[list[int]]], beat: float, page: Page | None = None
    ) -> None:
        self._sock = sock
        self.sockets = sockets
        self._beat = beat
        self._page = page
        self._recorder: Recorder | None = None
        #: When the next overview is due, by the monotonic clock, and how many failures the last one has told of.
        self._overview_due = 0.0
        self._failures_told = 0
        self._servers: list[Any] = []
        self._several: Supervisor | None = None
        self._channel: Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @classmethod
    def inherited(cls) -> Self | None:
        """Return the link of this process if it is a worker, else None.

        The mark is removed from the environment, so that processes that the application starts do not find it.
        """
        text = os.environ.pop(MARK, None)
        if text is None:
            return None
        role = json.loads(text)
        passed = [number for addresses in role["sockets"].values() for found in addresses for number in found]
        for number in (role["channel"], *role["pages"], *passed):
            # Processes that the application starts do not get them.
            os.set_inheritable(number, False)
        page = None
        for number in role["pages"]:
            page = Page(number)
            # It stays mapped.
            page.close()
        link = cls(socket.socket(fileno=role["channel"]), role["sockets"], role["beat"], page)
        link._prepare()
        return link

    @staticmethod
    def _prepare() -> None:
        """Leave signals for all processes to the supervisor, and show on SIGABRT where this process stands."""
        left = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        for number in left:
            # A handler, since processes that the application starts would go on to ignore what is ignored.
            signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, left)
        with contextlib.suppress(RuntimeError, ValueError, OSError):
            # Standard error may be closed.
            faulthandler.enable(sys.stderr)

    def close(self) -> None:
        """Close the channel of a worker that has not come to run; one that has run has closed it."""
        self._sock.close()

    def attach(self, several: Supervisor, names: Iterable[str], recycling: Recycling) -> None:
        """Name what is served, and when this worker wants to be replaced, before it is run.

        Args:
            names: of its servers, as metrics have them.
        """
        self._several = several
        self._servers = list(several.servers)
        self._limits = Limits(recycling, several.servers)
        if self._page is not None:
            from ..metrics.recorder import Recorder

            self._recorder = Recorder(dict(zip(names, several.servers, strict=True)), self._page)

    @contextlib.asynccontextmanager
    async def around(self, inner: AbstractAsyncContextManager[Any]) -> AsyncIterator[None]:
        """Be in touch with the supervisor while the servers run, and while `inner` is entered and left."""
        channel = self._channel = Channel(self._sock, self._supervisor_gone)
        channel.handlers.update(drain=self._drain, stop=self._stop, reopen=self._reopen)
        if self._recorder is not None:
            self._recorder.start()
        self._begin(self._beats(channel))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop_once)
        try:
            async with inner:
                self._begin(self._announce(channel))
                yield
        finally:
            for task in self._tasks:
                task.cancel()
            if self._recorder is not None:
                self._recorder.stop()
                self._send_overview(channel)
            channel.finish(LAST_WORD)

    def _begin(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self, channel: Channel) -> None:
        assert self._several is not None
        with contextlib.suppress(Exception):
            # Servers that fail to start end the process, which says more.
            await self._several.wait_started()
            self._limits.begin()
            channel.send("ready")

    async def _beats(self, channel: Channel) -> None:
        while channel.open:
            channel.send("beat")
            if time.monotonic() >= self._overview_due:
                self._overview_due = time.monotonic() + OVERVIEWS_APART
                self._send_overview(channel)
            if (reason := self._limits.reached()) is not None:
                channel.send("recycle", reason=reason)
            await asyncio.sleep(self._beat)

    def _send_overview(self, channel: Channel) -> None:
        """Tell what the servers do, and of the last failures if there are further ones; nothing if nobody watches."""
        recorder = self._recorder
        if recorder is None:
            return
        try:
            failed = recorder.failed
            overview = recorder.overview(failures=failed != self._failures_told).to_json()
        except Exception:
            # Heartbeats go on: nobody is to take this worker for one that hangs.
            self._overview_due = math.inf
            logger.exception("what the servers do is told no more")
            return
        if channel.send("overview", overview=overview):
            self._failures_told = failed

    # What the supervisor says

    def _reopen(self, message: Message) -> None:
        reopen_all()

    def _drain(self, message: Message) -> None:
        logger.info("replaced: what is in hand is finished")
        self._begin(self._leave_sockets())

    async def _leave_sockets(self) -> None:
        await asyncio.gather(*(server.hand_over() for server in self._servers))
        self._stop_once()

    def _stop_once(self) -> None:
        """Stop gracefully, if that was not asked for before: a SIGTERM may go to all processes at once."""
        if not self._stopped:
            assert self._several is not None
            self._stopped = True
            self._several.stop()

    def _stop(self, message: Message) -> None:
        assert self._several is not None
        if message.get("last"):
            for server in self._servers:
                # Nobody else reads what has reached the sockets.
                server.inherited = False
        self._stop_once()
        if message.get("now"):
            self._several.stop()

    def _supervisor_gone(self) -> None:
        logger.error("the supervising process has gone: stopping")
        self._stop({"last": True})
