"""One run of one application for one scope, judged by what it reads and sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from .._common.lost_time import Watch
from .._types import Send
from .backend import Backend
from .replay import Replay


class Judge(Protocol):
    """Decides what is a failure, and which answer comes too late: the balancer."""

    #: Seconds after which an answer that is owed is a failure; None for never.
    slow_after: float | None
    #: Watches the event loop while answers are owed.
    watch: Watch

    def served_time(self) -> float:
        """Return the time in seconds, less what the event loop has lost."""
        ...

    def is_failure(self, scope: Any, outcome: Any) -> bool:
        """Return whether the outcome, an exception or the message that begins the answer, is a failure."""
        ...


class Exchange:
    """One scope that the balancer handles, whichever application runs for it."""

    __slots__ = ("kind", "owes_answer", "replay", "scope", "send", "sent", "tried")

    def __init__(self, scope: Any, kind: Any, replay: Replay, send: Send) -> None:
        self.scope = scope
        self.kind = kind
        #: Requests and WebSocket handshakes must be answered; of other scopes that is not known.
        self.owes_answer = kind in ("http", "websocket")
        self.replay = replay
        self.send = send
        #: Whether an application has tried to send anything.
        self.sent = False
        self.tried: list[Backend] = []


class Attempt:
    """One run of one application.

    The circuit breaker is told the verdict as soon as it stands, and again if the application fails later. Counters are
    updated when the run has ended.
    """

    __slots__ = (
        "again",
        "answered",
        "backend",
        "complete",
        "exchange",
        "gone",
        "input_complete",
        "judge",
        "over",
        "permit",
        "repeatable",
        "verdict",
    )

    def __init__(self, judge: Judge, exchange: Exchange, backend: Backend) -> None:
        self.judge = judge
        self.exchange = exchange
        self.backend = backend
        #: What an earlier attempt has read, to be read again.
        self.again: list[dict[Any, Any]] = exchange.replay.again()
        #: Whether it has begun to answer, and whether the answer is complete.
        self.answered = self.complete = False
        #: Whether it has read all that the client sends before the answer.
        self.input_complete = False
        #: Whether the client has gone away.
        self.gone = False
        #: Whether the application did well (True) or failed (False); None if that is not known, or never will be.
        self.verdict: bool | None = None
        #: Whether the application has failed, so that another one may be asked if nothing was sent.
        self.repeatable = False
        #: Whether another application has been asked.
        self.over = False
        exchange.tried.append(backend)
        self.permit = backend.breaker.admit(well=not exchange.owes_answer)
        backend.running += 1
        backend.started += 1

    async def run(self) -> None:
        """Run the application to its end, and raise what it raises; account for the run however it ends."""
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        self._expect_answer()
        try:
            await self.backend.application(self._scope(), self.receive, self.send)
            if not self._cancelled(task, before):
                self._returned()
        except Exception as error:
            # An application that raises while it is being cancelled has not failed, and nobody waits for an answer.
            if not self._cancelled(task, before):
                self._raised(error)
            raise
        finally:
            self._account()

    @staticmethod
    def _cancelled(task: asyncio.Task[Any] | None, before: int) -> bool:
        return task is not None and task.cancelling() > before

    def _scope(self) -> Any:
        """Return a copy of the scope, so that what one application writes into it is not seen by the next one.

        The ASGI specification asks this of middleware (section "Middleware").
        """
        scope = self.exchange.scope
        if not isinstance(scope, dict):
            return scope
        copy = dict(scope)
        state = self.backend.lifespan_state
        if state:
            copy["state"] = {**(scope.get("state") or {}), **state}
        elif isinstance(scope.get("state"), dict):
            copy["state"] = dict(scope["state"])
        return copy

    # What the application reads and sends

    async def receive(self) -> Any:
        if self.over:
            raise RuntimeError("this run is over: another application serves the scope")
        if self.again:
            message = self.again.pop()
            self._has_read(message)
            return message
        if not self.input_complete:
            # The time that the client takes is not the application's.
            self.backend.owing.pop(self, None)
        replay = self.exchange.replay
        replay.pending += 1
        try:
            message = await replay.source()
        except Exception:
            # The server has failed, or tells in this way that the client has gone.
            self._client_gone()
            raise
        finally:
            replay.pending -= 1
        replay.note(message)
        self._has_read(message)
        return message

    def _has_read(self, message: Any) -> None:
        if self.input_complete and not self.exchange.owes_answer:
            return
        kind = message.get("type") if isinstance(message, dict) else None
        if kind in ("http.disconnect", "websocket.disconnect"):
            self._client_gone()
        elif not self.input_complete:
            self.input_complete = kind != "http.request" or not message.get("more_body", False)
            self._expect_answer()

    async def send(self, message: Any) -> None:
        if self.over:
            raise RuntimeError("this run is over: another application serves the scope")
        exchange = self.exchange
        kind = message.get("type") if isinstance(message, Mapping) else None
        if not exchange.sent:
            exchange.sent = True
            exchange.replay.forget()
        if not self.answered and (exchange.kind != "http" or kind == "http.response.start"):
            self._answering(message)
        try:
            await exchange.send(message)
        except OSError:
            # Servers tell in this way that the client has gone (ASGI specification, HTTP 2.4 and WebSocket 2.4).
            self._client_gone()
            raise
        if exchange.kind == "http" and self.answered and not self.complete and _ends_answer(kind, message):
            self.complete = True
            self._set_verdict(True)

    # The verdict

    def _answering(self, message: Any) -> None:
        self.answered = True
        due = self.backend.owing.pop(self, None)
        if due is not None and due <= self.judge.served_time():
            self._slow()
        elif self.judge.is_failure(self.exchange.scope, message):
            self._set_verdict(False)
        else:
            self.backend.breaker.mark_well(self.permit)
            if self.exchange.kind != "http":
                self._set_verdict(True)

    def _expect_answer(self) -> None:
        """Start the time that the application has for its answer."""
        slow_after = self.judge.slow_after
        if (
            slow_after is None
            or self.answered
            or self.gone
            or self.verdict is not None
            or not self.exchange.owes_answer
        ):
            return
        # Removed first, so that it is added at the end: they stay ordered by when they are due.
        self.backend.owing.pop(self, None)
        self.backend.owing[self] = self.judge.served_time() + slow_after
        self.judge.watch.begin()

    def too_slow(self) -> None:
        """Count the run as slow, and so as failed."""
        self.backend.owing.pop(self, None)
        self._slow()

    def _slow(self) -> None:
        self.backend.slow += 1
        self._set_verdict(False)

    def _client_gone(self) -> None:
        self.gone = True
        self.backend.owing.pop(self, None)

    def _returned(self) -> None:
        if self.gone:
            return
        exchange = self.exchange
        if (exchange.owes_answer and not self.answered) or (exchange.kind == "http" and not self.complete):
            # The server has to answer in its place.
            self._set_verdict(False)
            self.repeatable = True
        else:
            self._set_verdict(True)

    def _raised(self, error: Exception) -> None:
        if self.gone or not self.judge.is_failure(self.exchange.scope, error):
            return
        self._set_verdict(False)
        self.repeatable = True

    def _set_verdict(self, well: bool) -> None:
        if self.verdict is None or (self.verdict and not well):
            self.verdict = well
            if well:
                self.backend.breaker.succeed(self.permit)
            else:
                self.backend.breaker.fail(self.permit)

    def _account(self) -> None:
        backend = self.backend
        due = backend.owing.pop(self, None)
        if due is not None and due <= self.judge.served_time():
            # It was cancelled, but was already overdue.
            self._slow()
        backend.running -= 1
        if self.verdict is None:
            backend.abandoned += 1
            backend.breaker.release(self.permit)
        elif self.verdict:
            backend.succeeded += 1
        else:
            backend.failed += 1


def _ends_answer(kind: Any, message: Any) -> bool:
    if kind in ("http.response.body", "http.response.zerocopysend"):
        return not message.get("more_body")
    return bool(kind == "http.response.pathsend")
