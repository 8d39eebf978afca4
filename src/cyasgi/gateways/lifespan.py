"""The lifespan protocol of ASGI: an application is told when the server starts and when it stops."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from .._context import outside
from .._kinds import as_single_callable

logger = logging.getLogger(__name__)

MODES = ("auto", "on", "off")


class LifespanError(RuntimeError):
    """The application failed to start, or to stop: the message is what it said."""


class Lifespan:
    """One start and stop of an application.

    Args:
        mode: "on": an application that does not take part is an error; "auto": it is served all the same; "off": it is
            not asked.
    """

    def __init__(self, application: Any, mode: str = "auto") -> None:
        self._application = application
        self._mode = mode
        #: What the application wrote into the state of its scope; every request gets a copy.
        self.state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._failure: str | None = None
        self._error: BaseException | None = None

    async def startup(self) -> None:
        """Returns when the application has started, or turned out not to take part.

        Raises:
            LifespanError: it failed to start.
        """
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._queue.put_nowait({"type": "lifespan.startup"})
        self._task = outside().run(loop.create_task, self._run())
        await asyncio.wait({self._started, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self._failure is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            raise LifespanError(f"the application failed to start: {self._failure}") from self._error
        if not self._started.done():
            self._task = None
            if self._mode == "on":
                what = "ended" if self._error is None else f"raised {self._error!r}"
                raise LifespanError(f"the application takes no part in the lifespan protocol: it {what}") from (
                    self._error
                )
            logger.debug("the application takes no part in the lifespan protocol: %r", self._error)

    async def shutdown(self, seconds: float) -> None:
        """Returns when the application has stopped, after so many seconds at most.

        Raises:
            LifespanError: it failed to stop.
        """
        task = self._task
        if task is None or self._stopped is None or self._started is None:
            return
        try:
            if not task.done() and self._started.done():
                self._queue.put_nowait({"type": "lifespan.shutdown"})
                await asyncio.wait({task, self._stopped}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if not self._stopped.done() and not task.done():
                    logger.warning("the application did not stop within %s seconds", seconds)
        finally:
            if not task.done():
                if self._stopped.done():
                    # It may have a few steps to go.
                    await asyncio.wait({task}, timeout=min(seconds, 1.0))
                task.cancel()
                await asyncio.wait({task}, timeout=seconds)
            self._task = None
        if self._failure is not None:
            raise LifespanError(f"the application failed to stop: {self._failure}") from self._error
        if self._error is not None:
            raise LifespanError(f"the application failed to stop: it raised {self._error!r}") from self._error

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await as_single_callable(self._application)(scope, self._queue.get, self._send)
        except Exception as error:
            self._error = error
            # What it has told itself is told to whoever started it.
            if self._started is not None and self._started.done() and self._failure is None:
                logger.error("the application's lifespan raised %r", error, exc_info=error)

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        assert self._started is not None
        assert self._stopped is not None
        if kind.startswith("lifespan.startup.") and not self._started.done():
            if kind == "lifespan.startup.failed":
                self._failure = message.get("message", "") or "it did not say why"
            elif kind != "lifespan.startup.complete":
                raise ValueError(f"unknown type of message {kind!r}")
            self._started.set_result(None)
        elif kind.startswith("lifespan.shutdown.") and self._started.done() and not self._stopped.done():
            if kind == "lifespan.shutdown.failed":
                self._failure = message.get("message", "") or "it did not say why"
            elif kind != "lifespan.shutdown.complete":
                raise ValueError(f"unknown type of message {kind!r}")
            self._stopped.set_result(None)
        else:
            raise ValueError(f"a message of type {kind!r} is not expected now")
