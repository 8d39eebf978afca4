"""ASGI's lifespan protocol: an application is told when the server starts and when it stops."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from .._common.guarding import Guard
from ..asgi_compat import as_single_callable
from ..core.context import outside
from ..wire.messages import LIFESPAN_TYPES, check_type

logger = logging.getLogger(__name__)

MODES = ("auto", "on", "off")
#: Seconds that an application may take to start, by default.
STARTUP_TIMEOUT = 300.0


class LifespanError(RuntimeError):
    """The application failed to start, or to stop; the message is what it said."""


class Lifespan:
    """One start and stop of an application.

    Args:
        mode: what to do with an application that does not take part in the protocol: "on": fail; "auto": serve it all
            the same, also one that raises while it starts, with a warning; "off": do not ask it.
    """

    def __init__(self, application: Any, mode: str = "auto") -> None:
        self._application = application
        self._mode = mode
        #: What the application wrote into ``scope["state"]``; every request gets a copy.
        self.state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        #: Whether the application has taken `lifespan.startup`: from then on it takes part.
        self.takes_part = False
        #: What it has raised while it started, if it is served all the same.
        self.start_error: BaseException | None = None
        #: Whether it did not stop in time.
        self.overran = False
        #: Whether the application was asked to stop.
        self._stopping = False
        #: Why the application failed to start or stop, in its own words.
        self._failure: str | None = None
        self._error: BaseException | None = None
        #: Whether the failure has been logged.
        self._failure_logged = False

    async def startup(self, seconds: float | None = None) -> None:
        """Return when the application has started, or has turned out to take no part.

        Args:
            seconds: how long the application may take to start; None for no limit.

        Raises:
            LifespanError: it failed to start, or took too long.
            SystemExit: the application raised it while it started.
        """
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._queue.put_nowait({"type": "lifespan.startup"})
        logger.info("waiting for the application to start")
        self._task = outside().run(loop.create_task, self._run())
        ended, _ = await asyncio.wait({self._started, self._task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended:
            self._failure = f"it has not answered within {seconds:g} seconds"
        if self._failure is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            raise LifespanError(f"the application failed to start: {self._failure}") from self._error
        if not self._started.done():
            self._task = None
            self._start_refused()

    def _start_refused(self) -> None:
        """Deal with an application that has ended without an answer to ``lifespan.startup``."""
        error = self._error
        if isinstance(error, SystemExit):
            raise error
        if error is not None and self.takes_part:
            if self._mode == "on":
                raise LifespanError(f"the application failed to start: it raised {error!r}") from error
            self.start_error = error
            logger.warning(
                "the application raised %r while it started, and is served without its lifespan",
                error,
                exc_info=error,
            )
        elif self._mode == "on":
            what = "ended" if error is None else f"raised {error!r}"
            raise LifespanError(f"the application takes no part in the lifespan protocol: it {what}") from error
        else:
            logger.debug("the application takes no part in the lifespan protocol: %r", error)

    async def shutdown(self, seconds: float) -> None:
        """Return when the application has stopped, after `seconds` at most.

        Raises:
            LifespanError: it failed to stop, or its lifespan had failed before.
        """
        task = self._task
        if task is None or self._stopped is None or self._started is None:
            return
        try:
            if not task.done() and self._started.done():
                self._stopping = True
                self._queue.put_nowait({"type": "lifespan.shutdown"})
                await asyncio.wait({task, self._stopped}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if not self._stopped.done() and not task.done():
                    self.overran = True
                    logger.warning("the application did not stop within %s seconds", seconds)
        finally:
            if not task.done():
                if self._stopped.done():
                    # It may have a few steps left.
                    await asyncio.wait({task}, timeout=min(seconds, 1.0))
                task.cancel()
                await asyncio.wait({task}, timeout=seconds)
            self._task = None
        if not self._started.done():
            # The start was interrupted: there was nothing to stop.
            return
        if self._failure_logged:
            raise LifespanError("the application's lifespan failed while it was served (logged then)") from self._error
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
        guard = Guard()
        try:
            await as_single_callable(self._application, True)(scope, self._receive, self._send)
        except SystemExit as error:
            if self._started is None or self._started.done():
                # While it is served, this ends the server, as a SystemExit from a request does.
                raise
            self._error = error
        except BaseException as error:
            if guard.interrupted(error):
                raise
            self._error = error
            if self._started is not None and self._started.done() and self._failure is None and not self._stopping:
                self._log_failure(repr(error))

    async def _receive(self) -> dict[str, Any]:
        message = await self._queue.get()
        self.takes_part = True
        return message

    def _log_failure(self, what: str) -> None:
        """Log that the lifespan has failed while the application is served: there is nobody to raise it to."""
        self._failure_logged = True
        logger.error("the application's lifespan failed while it is served: %s", what, exc_info=self._error)

    async def _send(self, message: Any) -> None:
        kind = check_type(message, LIFESPAN_TYPES, "a lifespan scope")
        if kind.endswith(".failed"):
            reason = message.get("message", "")
            if not isinstance(reason, str):
                raise TypeError(f"'message' of a {kind!r} message must be a str, got {reason!r}")
        assert self._started is not None
        assert self._stopped is not None
        if kind.startswith("lifespan.startup.") and not self._started.done():
            if kind == "lifespan.startup.failed":
                self._failure = reason or "it did not say why"
            self._started.set_result(None)
        elif kind.startswith("lifespan.shutdown.") and self._started.done() and not self._stopped.done():
            if kind == "lifespan.shutdown.failed":
                self._failure = reason or "it did not say why"
                if not self._stopping:
                    self._log_failure(self._failure)
            self._stopped.set_result(None)
        else:
            raise ValueError(f"a message of type {kind!r} is not expected now")
