"""One run of one application for one scope: what it reads and sends is looked at on its way, to judge it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._types import Send
from .backend import Backend
from .replay import Replay

if TYPE_CHECKING:
    from .balancer import LoadBalancer


class Exchange:
    """A scope on its way through the balancer, whichever application runs for it."""

    __slots__ = ("kind", "owes_answer", "replay", "scope", "send", "sent", "tried")

    def __init__(self, scope: Any, kind: Any, replay: Replay, send: Send) -> None:
        self.scope = scope
        self.kind = kind
        #: ASGI has a request answered, and a handshake; of other scopes nobody knows whether they want one.
        self.owes_answer = kind in ("http", "websocket")
        self.replay = replay
        self.send = send
        #: Whether an application has tried to send anything.
        self.sent = False
        self.tried: list[Backend] = []


class Attempt:
    """One run of one application.

    It reports to the breaker as soon as its verdict stands, and once more if the application fails after that; to the
    counters when it has ended.
    """

    __slots__ = (
        "again",
        "answered",
        "backend",
        "balancer",
        "complete",
        "exchange",
        "gone",
        "input_complete",
        "over",
        "permit",
        "repeatable",
        "verdict",
    )

    def __init__(self, balancer: LoadBalancer, exchange: Exchange, backend: Backend) -> None:
        self.balancer = balancer
        self.exchange = exchange
        self.backend = backend
        #: What an earlier attempt has read.
        self.again: list[dict[Any, Any]] = exchange.replay.again()
        #: Whether it has begun to answer, and whether it has said all of it.
        self.answered = self.complete = False
        #: Whether the client's part of what leads to the answer was read.
        self.input_complete = False
        #: Whether the client has gone away.
        self.gone = False
        #: Whether the application did well (True) or failed (False); None: not known yet, or nothing to be learnt.
        self.verdict: bool | None = None
        #: Whether it has ended by a failure of the application, so that another one may be asked if nothing was sent.
        self.repeatable = False
        #: Whether another application has been asked.
        self.over = False
        exchange.tried.append(backend)
        self.permit = backend.breaker.admit(well=not exchange.owes_answer)
        backend.running += 1
        backend.started += 1

    async def run(self) -> None:
        """Runs the application to its end and raises what it raises. Whatever the end, it is accounted for."""
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        self._expect_answer()
        try:
            await self.backend.application(self._scope(), self.receive, self.send)
            if not self._cancelled(task, before):
                self._returned()
        except Exception as error:
            # An application that fails while it is being cancelled was asked to stop: that is no failure, and nobody
            # waits for another one's answer.
            if not self._cancelled(task, before):
                self._raised(error)
            raise
        finally:
            self._account()

    @staticmethod
    def _cancelled(task: asyncio.Task[Any] | None, before: int) -> bool:
        return task is not None and task.cancelling() > before

    def _scope(self) -> Any:
        """A copy, as the specification asks of middleware: what an application writes into it is not seen by the next
        one. (ASGI specification, "Middleware".)"""
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

    # What the application reads and sends.

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
            # The server's failure, or its way to say that the client has gone.
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
            self._answers(message)
        try:
            await exchange.send(message)
        except OSError:
            # How a server says that the client has gone (ASGI specification, HTTP 2.4 and WebSocket 2.4).
            self._client_gone()
            raise
        if exchange.kind == "http" and self.answered and not self.complete and _ends_answer(kind, message):
            self.complete = True
            self._judge(True)

    # Judging it.

    def _answers(self, message: Any) -> None:
        self.answered = True
        due = self.backend.owing.pop(self, None)
        if due is not None and due <= self.balancer.served_time():
            self._slow()
        elif self.balancer.is_failure(self.exchange.scope, message):
            self._judge(False)
        else:
            self.backend.breaker.mark_well(self.permit)
            if self.exchange.kind != "http":
                self._judge(True)

    def _expect_answer(self) -> None:
        """From here on the application owes the next step."""
        slow_after = self.balancer.slow_after
        if (
            slow_after is None
            or self.answered
            or self.gone
            or self.verdict is not None
            or not self.exchange.owes_answer
        ):
            return
        # Taken out before, so that it comes last: the first of them is always the next to be due.
        self.backend.owing.pop(self, None)
        self.backend.owing[self] = self.balancer.served_time() + slow_after
        self.balancer.watch.begin()

    def too_slow(self) -> None:
        self.backend.owing.pop(self, None)
        self._slow()

    def _slow(self) -> None:
        self.backend.slow += 1
        self._judge(False)

    def _client_gone(self) -> None:
        self.gone = True
        self.backend.owing.pop(self, None)

    def _returned(self) -> None:
        if self.gone:
            return
        exchange = self.exchange
        if (exchange.owes_answer and not self.answered) or (exchange.kind == "http" and not self.complete):
            # The server will have to answer in its place.
            self._judge(False)
            self.repeatable = True
        else:
            self._judge(True)

    def _raised(self, error: Exception) -> None:
        if self.gone or not self.balancer.is_failure(self.exchange.scope, error):
            return
        self._judge(False)
        self.repeatable = True

    def _judge(self, well: bool) -> None:
        if self.verdict is None or (self.verdict and not well):
            self.verdict = well
            if well:
                self.backend.breaker.succeed(self.permit)
            else:
                self.backend.breaker.fail(self.permit)

    def _account(self) -> None:
        backend = self.backend
        due = backend.owing.pop(self, None)
        if due is not None and due <= self.balancer.served_time():
            # It was cancelled, but had been slow before.
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
