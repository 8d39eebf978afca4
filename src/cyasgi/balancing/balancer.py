"""LoadBalancer: an ASGI application over several applications."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from .._common.guarding import INTERRUPTS
from .._common.lost_time import Watch
from .._types import Receive, Send
from ..asgi_compat import as_single_callable
from .attempt import Attempt, Exchange
from .backend import Backend, BackendStats
from .breaker import (
    Breaker,
    BreakerState,
    check_breaker_settings,
)
from .checks import (
    check_callable,
    check_count,
    check_seconds,
    check_weight,
)
from .lifespan import Lifespans
from .replay import Budget, Replay
from .strategy import (
    ConsistentHash,
    LeastRunning,
    RoundRobin,
    Strategy,
    Weighted,
)

logger = logging.getLogger("cyasgi.balancing")

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "round-robin": RoundRobin,
    "least-running": LeastRunning,
    "weighted": Weighted,
    "consistent-hash": ConsistentHash,
}

#: Methods that mean the same done twice as done once (RFC 9110 section 9.2.2).
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))

#: WebSocket close code "try again later" (IANA's registry for RFC 6455 section 11.7).
TRY_AGAIN_LATER = 1013


class NoApplicationAvailable(RuntimeError):
    """No application is available, and the scope's protocol has no answer that says so.

    Raised for scopes other than ``http``, ``websocket`` and ``lifespan``.
    """


class BalancerStats(TypedDict):
    """A snapshot of a balancer."""

    #: Runs repeated on another application, and scopes for which no application was available.
    retried: int
    refused: int
    #: By name, in the balancer's order.
    applications: dict[str, BackendStats]


class LoadBalancer:
    """An ASGI application that hands each scope to one of several applications.

        balancer = LoadBalancer({"blue": blue, "green": green}, weights={"blue": 3})

    It handles scopes of any type. Each application has a circuit breaker (see `cyasgi.balancing.breaker`): failures
    take the application out of use for a while, and a successful probe brings it back. Failures are an exception, an
    HTTP status of 500 or more, an HTTP request or WebSocket handshake that is left unanswered, and an answer slower
    than `slow_after`. What happens after the client has gone, or after the run was cancelled, is no failure.

    A run that fails before it has sent anything is repeated on another application, if `may_retry` allows it and all
    that it has read could be kept. When no application is available, an HTTP request is answered 503 with Retry-After.
    So is a WebSocket handshake if the server has the extension ``websocket.http.response``; otherwise it is closed with
    code 1013 (RFC 6455 section 7.4), which servers turn into a 403 before the handshake is complete.

    A ``lifespan`` scope goes to all applications: they start in their order and shut down in the reverse order. Each
    has a ``state`` of its own, even if the server supports none. Its scopes have that state merged over the server's,
    so two applications may use the same key.

    One event loop may run it at a time.

    Args:
        applications: a mapping of names to applications, or an iterable, which names them "0", "1" and so on. Give
            names for consistent hashing, which depends on them: then removing one does not rename the others.
        strategy: "round-robin", "least-running", "weighted", "consistent-hash", or a `Strategy`. The default is
            "weighted" if there are `weights`, else "round-robin".
        weights: a mapping by name (default 1), or an iterable with one for each; from 1e-6 to 1e6.
        failure_threshold: failures among the last `failure_window` verdicts that open a circuit breaker.
        failure_window: how many verdicts a circuit breaker looks back on.
        open_time: seconds after which an application that was taken out of use is probed.
        probes: runs that may probe it at a time, and successes that bring it back.
        slow_after: seconds from the call, or from the last part of the request that the application has read, after
            which an HTTP response or WebSocket handshake that has not begun is a failure; None for never. It is checked
            whenever the balancer is used, so the next scope finds an application that hangs. Time in which the event
            loop was blocked does not count.
        max_attempts: runs for one scope, the first included.
        max_replay: bytes of what a run has read that are kept for another run, counting 256 for each message. A run
            that has read more is not repeated. They are kept until the application sends something.
        max_replay_total: the same for all runs together.
        retry_methods: HTTP methods that may be repeated.
        clock: returns the time in seconds; for tests.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value; the message says which and what is accepted.
    """

    def __init__(
        self,
        applications: Mapping[str, Any] | Iterable[Any],
        strategy: str | Strategy | None = None,
        *,
        weights: Mapping[str, float] | Iterable[float] | None = None,
        failure_threshold: int = 5,
        failure_window: int = 10,
        open_time: float = 30.0,
        probes: int = 1,
        slow_after: float | None = None,
        max_attempts: int = 2,
        max_replay: int = 65_536,
        max_replay_total: int = 16_777_216,
        retry_methods: Iterable[str] = IDEMPOTENT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        named = _named(applications)
        weighed = _weighed(named, weights)
        self.strategy = _strategy(strategy, weights is not None)
        check_breaker_settings(failure_threshold, failure_window, open_time, probes)
        check_seconds("slow_after", slow_after, none="never")
        check_count("max_attempts", max_attempts)
        check_count("max_replay", max_replay, 0)
        check_count("max_replay_total", max_replay_total, 0)
        check_callable("clock", clock, "a function without arguments that returns the time in seconds")
        self.slow_after = slow_after
        self.max_attempts = max_attempts
        self.retry_methods = _methods(retry_methods)
        self.clock = clock
        self._retried = self._refused = 0
        self._budget = Budget(max_replay, max_replay_total)
        self._lifespans = Lifespans()

        def breaker(name: str) -> Breaker:
            return Breaker(
                failure_threshold=failure_threshold,
                failure_window=failure_window,
                open_time=open_time,
                probes=probes,
                clock=clock,
                on_change=lambda old, new: self._announce_change(name, old, new),
            )

        #: The applications, in their order.
        self.backends: tuple[Backend, ...] = tuple(
            Backend(index, name, as_single_callable(application, True), weighed[name], breaker(name))
            for index, (name, application) in enumerate(named.items())
        )

        #: Watches the event loop while answers are owed.
        self.watch = Watch(lambda: any(backend.owing for backend in self.backends))

    def served_time(self) -> float:
        """Return the clock's time, less what the event loop has lost: no application could answer meanwhile."""
        return self.clock() - self.watch.lost.total(time.monotonic())

    # What subclasses override

    def is_failure(self, scope: Any, outcome: Any) -> bool:
        """Return whether this outcome is a failure of the application.

        Exclude what a client can cause at will; otherwise one client can take applications out of use for everybody.

        Args:
            outcome: the exception that the application raised, or the message that begins its answer.
        """
        if isinstance(outcome, BaseException):
            return True
        if isinstance(outcome, Mapping) and outcome.get("type") in (
            "http.response.start",
            "websocket.http.response.start",
        ):
            status = outcome.get("status")
            return isinstance(status, int) and status >= 500
        return False

    def may_retry(self, scope: Any, has_read: bool) -> bool:
        """Return whether a run that failed before it sent anything may be repeated on another application.

        By default an HTTP request may be repeated if its method is in `retry_methods` (RFC 9110 section 9.2.2 forbids
        proxies to repeat others), a WebSocket handshake and a datagram conversation always, and any other scope only if
        the application has read nothing, since the meaning of its messages is not known.

        Args:
            has_read: whether the application has read a message. Called with True before the run as well, to decide
                whether to keep what it reads.
        """
        kind = _kind(scope)
        if kind == "http":
            return scope.get("method") in self.retry_methods
        return kind in ("websocket", "datagram") or not has_read

    def on_state_change(self, name: str, old: BreakerState, new: BreakerState) -> None:
        """Log a change in the state of this application's circuit breaker."""
        level = logging.WARNING if new is BreakerState.OPEN else logging.INFO
        logger.log(level, "application %r: its circuit breaker was %s and is %s", name, old, new)

    def _announce_change(self, name: str, old: BreakerState, new: BreakerState) -> None:
        try:
            self.on_state_change(name, old, new)
        except INTERRUPTS:
            raise
        except BaseException as error:
            # The change shows during a run that has nothing to do with it.
            logger.error("on_state_change raised %r", error, exc_info=error)

    # The application

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Run one of the applications for this scope (all of them for ``lifespan``).

        Raises:
            NoApplicationAvailable: none is available, and the scope is neither ``http`` nor ``websocket``.
            Exception: what the application raised; if several were asked, the last one.
        """
        kind = _kind(scope)
        if kind == "lifespan":
            await self._lifespans.serve(self.backends, scope, receive, send)
            return
        replay = Replay(receive, self._budget)
        if self.max_attempts == 1 or len(self.backends) == 1 or not self.may_retry(scope, True):
            replay.forget()
        exchange = Exchange(scope, kind, replay, send)
        try:
            await self._run(exchange)
        finally:
            replay.forget()

    async def _run(self, exchange: Exchange) -> None:
        backend = self._choose(exchange)
        if backend is None:
            self._refused += 1
            await self._refuse(exchange)
            return
        while backend is not None:
            attempt = Attempt(self, exchange, backend)
            backend = None
            try:
                await attempt.run()
            except Exception as error:
                backend = self._another(attempt)
                if backend is None:
                    raise
                self._log_retry(attempt, backend, repr(error), error)
            else:
                backend = self._another(attempt)
                if backend is not None:
                    self._log_retry(attempt, backend, "no answer")

    def _choose(self, exchange: Exchange) -> Backend | None:
        if self.slow_after is not None:
            now = self.served_time()
            for backend in self.backends:
                backend.find_slow(now)
        available = [
            backend for backend in self.backends if backend.breaker.available and backend not in exchange.tried
        ]
        if not available:
            return None
        chosen = self.strategy.choose(available, exchange.scope)
        if not any(chosen is backend for backend in available):
            raise RuntimeError(f"{self.strategy!r} chose {chosen!r}: accepted is one of {available!r}")
        return chosen

    def _another(self, attempt: Attempt) -> Backend | None:
        """Return the application that repeats this run, which has ended; None if none does."""
        exchange, replay = attempt.exchange, attempt.exchange.replay
        if not attempt.repeatable or exchange.sent or len(exchange.tried) >= self.max_attempts:
            return None
        # A call that still waits would take the next message away from the next application.
        if replay.pending or (replay.read and not replay.kept):
            return None
        if not self.may_retry(exchange.scope, replay.read > 0):
            return None
        return self._choose(exchange)

    def _log_retry(self, attempt: Attempt, backend: Backend, what: str, error: BaseException | None = None) -> None:
        attempt.over = True
        self._retried += 1
        logger.warning(
            "application %r failed (%s) before it sent anything; asking %r",
            attempt.backend.name,
            what,
            backend.name,
            exc_info=error,
        )

    async def _refuse(self, exchange: Exchange) -> None:
        kind, scope, send = exchange.kind, exchange.scope, exchange.send
        if kind == "http":
            await self._answer_503("http.response", send)
        elif kind == "websocket" and "websocket.http.response" in (scope.get("extensions") or {}):
            await self._answer_503("websocket.http.response", send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "no application is available"})
        else:
            raise NoApplicationAvailable(
                f"none of the {len(self.backends)} applications is available for a scope of type {kind!r}"
            )

    async def _answer_503(self, prefix: str, send: Send) -> None:
        wait = math.ceil(min(backend.breaker.available_in for backend in self.backends))
        body = b"Service Unavailable: no application is available\n"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % max(1, wait)),
        ]
        await send({"type": f"{prefix}.start", "status": 503, "headers": headers})
        await send({"type": f"{prefix}.body", "body": body})

    def stats(self) -> BalancerStats:
        """Return a snapshot: what was retried and refused since the balancer was made, and the statistics of each
        application."""
        if self.slow_after is not None:
            now = self.served_time()
            for backend in self.backends:
                backend.find_slow(now)
        return {
            "retried": self._retried,
            "refused": self._refused,
            "applications": {backend.name: backend.stats() for backend in self.backends},
        }

    def __repr__(self) -> str:
        return f"<LoadBalancer over {', '.join(repr(backend.name) for backend in self.backends)}>"


def _kind(scope: Any) -> Any:
    return scope.get("type") if isinstance(scope, (dict, Mapping)) else None


# Arguments


def _named(applications: Any) -> dict[str, Any]:
    accepted = "accepted are applications by name, as in {'blue': blue, 'green': green}, or a list of them"
    if isinstance(applications, Mapping):
        named = dict(applications)
        for name in named:
            if not isinstance(name, str) or not name:
                raise TypeError(
                    f"applications: {name!r} is no name for an application: accepted is a str that is not empty"
                )
    elif isinstance(applications, (str, bytes)) or not isinstance(applications, Iterable):
        raise TypeError(f"applications={applications!r}: {accepted}")
    else:
        named = {str(number): application for number, application in enumerate(applications)}
    if not named:
        raise ValueError(f"applications={applications!r}: {accepted}, and at least one")
    return named


def _weighed(named: dict[str, Any], weights: Any) -> dict[str, float]:
    weighed: dict[str, float] = dict.fromkeys(named, 1.0)
    if weights is None:
        return weighed
    if isinstance(weights, Mapping):
        unknown = [name for name in weights if name not in named]
        if unknown:
            raise ValueError(f"weights for {unknown!r}: accepted are the names of applications, {list(named)!r}")
        weighed.update(weights)
    elif isinstance(weights, (str, bytes)) or not isinstance(weights, Iterable):
        raise TypeError(f"weights={weights!r}: accepted are numbers by name, or a list of one for each application")
    else:
        numbers = list(weights)
        if len(numbers) != len(named):
            raise ValueError(f"weights={numbers!r}: accepted is one for each of {len(named)} applications")
        weighed.update(zip(named, numbers, strict=True))
    for name, weight in weighed.items():
        check_weight(f"weight of {name!r}", weight)
    return weighed


def _strategy(strategy: Any, weighted: bool) -> Strategy:
    if strategy is None:
        return Weighted() if weighted else RoundRobin()
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy={strategy!r}: accepted are {', '.join(STRATEGIES)}, or a Strategy")
        strategy = STRATEGIES[strategy]()
    elif isinstance(strategy, type) or not callable(getattr(strategy, "choose", None)):
        raise TypeError(
            f"strategy={strategy!r}: accepted are {', '.join(STRATEGIES)}, or an object with a method "
            "choose(backends, scope)"
        )
    if weighted and not getattr(strategy, "uses_weights", True):
        raise ValueError(
            f"weights with {strategy!r}: it does not look at them; weighted, least-running and consistent-hash do"
        )
    chosen: Strategy = strategy
    return chosen


def _methods(methods: Any) -> frozenset[str]:
    accepted = "accepted are names of HTTP methods, as in ['GET', 'HEAD']"
    if isinstance(methods, (str, bytes)) or not isinstance(methods, Iterable):
        raise TypeError(f"retry_methods={methods!r}: {accepted}")
    collected = list(methods)
    for method in collected:
        if not isinstance(method, str):
            raise TypeError(f"retry_methods={collected!r}: {accepted}")
        if not method or method != method.upper():
            raise ValueError(f"retry_methods={collected!r}: {accepted}, in upper case as in scopes")
    return frozenset(collected)
