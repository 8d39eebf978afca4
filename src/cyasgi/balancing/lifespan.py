"""The lifespan of several applications: the server's events, passed on to each (ASGI specification, Lifespan
Protocol)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from .._common.guarding import Guard
from .._types import Receive, Send
from ..wire.messages import LIFESPAN_TYPES, check_type
from .backend import Backend

logger = logging.getLogger("cyasgi.balancing")

#: Seconds that an application may take to return once it has said that it has stopped, or failed to start.
GRACE = 5.0


class Lifespan:
    """The lifespan of one application, in a task of its own."""

    def __init__(self, backend: Backend, scope: Any) -> None:
        self.backend = backend
        self.state: dict[str, Any] = dict(scope.get("state") or {})
        self.scope = {**scope, "state": self.state}
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        #: The message with which it has answered the last event; None before that.
        self._answer: dict[str, Any] | None = None
        self._answered = asyncio.Event()
        self._asked = ""
        self.started = False
        #: Whether the application has received `lifespan.startup`, and so takes part.
        self._takes_part = False
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    async def _run(self) -> None:
        guard = Guard()
        try:
            await self.backend.application(self.scope, self._receive, self._send)
        except BaseException as error:
            if guard.interrupted(error):
                raise
            self.error = error
            if self.started:
                logger.error("application %r: its lifespan failed: %r", self.backend.name, error, exc_info=error)

    async def _receive(self) -> dict[str, str]:
        message = await self._events.get()
        self._takes_part = True
        return message

    async def _send(self, message: Any) -> None:
        kind = message.get("type") if isinstance(message, Mapping) else None
        if not isinstance(kind, str):
            kind = check_type(message, LIFESPAN_TYPES, "a lifespan scope")
        if not self._asked or kind not in (f"{self._asked}.complete", f"{self._asked}.failed"):
            raise RuntimeError(f"unexpected message {kind!r}: a lifespan was asked for {self._asked or 'nothing'!r}")
        if self._answer is not None:
            raise RuntimeError(f"unexpected message {kind!r}: the lifespan has answered already")
        if kind == "lifespan.startup.complete":
            self.started = True
            self.backend.lifespan_state = self.state
        self._answer = message
        self._answered.set()

    async def _ask(self, what: str) -> dict[str, Any] | None:
        """Send this event, and return the answer; None if the application ended without one."""
        self._asked, self._answer = what, None
        self._answered.clear()
        self._events.put_nowait({"type": what})
        waiting = asyncio.create_task(self._answered.wait())
        try:
            await asyncio.wait((self.task, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        return self._answer

    async def start(self) -> str | None:
        """Start the application; return the reason if it says that it failed, else None."""
        answer = await self._ask("lifespan.startup")
        if answer is None:
            # The specification tells servers to go on without a lifespan.
            if self.error is not None and self._takes_part:
                logger.warning(
                    "application %r raised %r while it started, and is served without its lifespan",
                    self.backend.name,
                    self.error,
                    exc_info=self.error,
                )
                return None
            logger.info("application %r has no lifespan: %r", self.backend.name, self.error or "it returned")
            return None
        if answer["type"].endswith(".failed"):
            await self.end()
            return f"application {self.backend.name!r}: {answer.get('message') or 'its startup failed'}"
        return None

    async def stop(self) -> str | None:
        """Shut the application down if it has started; return the reason if that failed, else None."""
        self.backend.lifespan_state = None
        if not self.started:
            return None
        answer = None if self.task.done() else await self._ask("lifespan.shutdown")
        await self.end()
        name = self.backend.name
        if answer is not None and answer["type"].endswith(".failed"):
            return f"application {name!r}: {answer.get('message') or 'its shutdown failed'}"
        return f"application {name!r}: {self.error!r}" if self.error is not None else None

    async def end(self) -> None:
        """Give the run `GRACE` seconds to end by itself, then cancel it and wait for its end."""
        await asyncio.wait((self.task,), timeout=GRACE)
        self.task.cancel()
        await asyncio.wait((self.task,))


class Lifespans:
    """Passes the server's lifespan on to all applications."""

    def __init__(self) -> None:
        #: Runs that were cancelled and have not ended yet.
        self._ending: set[asyncio.Task[None]] = set()

    async def serve(
        self,
        backends: Sequence[Backend],
        scope: Any,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run one lifespan, from startup to shutdown.

        Applications start one after another in their order, and shut down in the reverse order. If one fails to start,
        those that have started are shut down, and the server is told which one failed and why. If one fails to shut
        down, the others are still shut down, and then the server is told. Applications without a lifespan are skipped;
        if none has one, the last error is raised, as a single application would raise it.
        """
        running: list[Lifespan] = []
        try:
            for backend in backends:
                lifespan = Lifespan(backend, scope)
                running.append(lifespan)
                reason = await lifespan.start()
                if reason is not None:
                    await receive()
                    reasons = [reason, *await self._stop(running)]
                    await send({"type": "lifespan.startup.failed", "message": "; ".join(reasons)})
                    return
            if not any(lifespan.started for lifespan in running):
                errors = [lifespan.error for lifespan in running if lifespan.error is not None]
                if errors:
                    raise errors[-1]
                return
            # Received only now, since receiving it means to take part.
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            reasons = await self._stop(running)
            if reasons:
                await send({"type": "lifespan.shutdown.failed", "message": "; ".join(reasons)})
            else:
                await send({"type": "lifespan.shutdown.complete"})
        finally:
            await self._end(running)

    @staticmethod
    async def _stop(running: list[Lifespan]) -> list[str]:
        reasons = []
        for lifespan in reversed(running):
            reason = await lifespan.stop()
            if reason is not None:
                reasons.append(reason)
        return reasons

    async def _end(self, running: list[Lifespan]) -> None:
        tasks = {lifespan.task for lifespan in running if not lifespan.task.done()}
        for lifespan in running:
            lifespan.backend.lifespan_state = None
        for task in tasks:
            task.cancel()
            # Keep a reference until it ends, even if this wait is cancelled as well.
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if tasks:
            await asyncio.wait(tasks)
