"""Records what the servers of one process do, and sums it up."""

from __future__ import annotations

import asyncio
import collections
import heapq
import itertools
import logging
import time
import traceback
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from .._common.cells import FAILURES, LOOP_LAG, UNDELIVERED, Page, observe
from .._common.guarding import INTERRUPTS
from ..core import SAMPLER, ApplicationInstance
from ..core.describe import describe
from ..gateways.base import Gateway
from ..server import StatelessServer
from .overview import (
    LINE,
    MOST_COUNTERS,
    MOST_FAILURES,
    MOST_SCOPES,
    MOST_SERVERS,
    MOST_TYPES,
    NAME,
    OTHER,
    TRACEBACK,
    BusyScope,
    Failure,
    Overview,
    ServerOverview,
    is_count,
)
from .text import bounded

logger = logging.getLogger("cyasgi.metrics")

#: Seconds between two looks at how late the event loop is.
TICK = 0.25
#: Such looks in a second.
TICKS = 4
#: Queues that are looked at each time, for each server.
LOOKED_AT = 500
#: Failures whose tracebacks are written out in a second: a flood of failures has no use for all of them.
TRACEBACKS = 20


class Backlog:
    """The queues of one server: a bounded number of them is looked at at a time, until each had its turn."""

    def __init__(self, server: StatelessServer) -> None:
        self._manager = server._cyasgi
        #: As of the last complete round.
        self.waiting = self.queued = 0
        self.busiest: tuple[BusyScope, ...] = ()
        self._begin(None)

    def _begin(self, last: Any) -> None:
        self._last = last
        self._waiting = self._queued = 0
        self._busiest: list[BusyScope] = []

    def look(self, count: int = LOOKED_AT) -> None:
        """Look at so many instances; at a server that has no more of them, that is a complete round."""
        table = self._manager.table
        if self._last is not None and table.get(self._last.scope_id) is not self._last:
            # It has left, and the walk begins anew: what was seen by now stands for the round.
            self._end_round()
        entries = table.walk(self._last, count)
        lengths = [(entry.qsize(), entry) for entry in entries if type(entry) is ApplicationInstance]
        lengths = [one for one in lengths if one[0]]
        self._waiting += len(lengths)
        self._queued += sum(length for length, _ in lengths)
        longest = heapq.nlargest(MOST_SCOPES, lengths, key=lambda one: one[0])
        self._busiest += [BusyScope(bounded(_words(entry), LINE), length) for length, entry in longest]
        self._busiest = heapq.nlargest(MOST_SCOPES, self._busiest, key=lambda one: one.queued)
        if len(entries) == count:
            self._last = entries[-1]
            return
        self._end_round()

    def _end_round(self) -> None:
        self.waiting, self.queued, self.busiest = self._waiting, self._queued, tuple(self._busiest)
        self._begin(None)

    def rest(self) -> None:
        """Look at no more of them, and keep none."""
        self._begin(None)


class Recorder:
    """Has servers count into a page, and keeps what does not fit in there. The servers run in one event loop.

    Args:
        servers: by the names that metrics have for them.
        page: the cells of this process.

    Raises:
        TypeError: one of them is no `StatelessServer`.
        ValueError: there are too many of them, or a name is too long or not printable.
    """

    #: The one at work: what the core counts is counted for the whole process.
    _at_work: ClassVar[Recorder | None] = None

    def __init__(self, servers: Mapping[str, StatelessServer], page: Page) -> None:
        for name, server in servers.items():
            if not isinstance(server, StatelessServer):
                raise TypeError(f"{name}={server!r}: accepted is a StatelessServer of any kind")
            if len(name) > NAME or not name.isprintable():
                raise ValueError(f"the name {name!r} of a server: accepted are up to {NAME} printable characters")
        if len(servers) > MOST_SERVERS:
            raise ValueError(f"{len(servers)} servers: accepted are at most {MOST_SERVERS}")
        self.servers = dict(servers)
        self.page = page
        #: How many failures there were, whether or not they are among the last ones.
        self.failed = 0
        self._backlogs = {name: Backlog(server) for name, server in servers.items()}
        self._failures: collections.deque[Failure] = collections.deque(maxlen=MOST_FAILURES)
        self._types: dict[str, int] = {}
        #: How many more tracebacks may be written out in this second.
        self._tracebacks = TRACEBACKS
        self._lags: collections.deque[float] = collections.deque(maxlen=TICKS)
        self._ticks = 0
        #: What `stats()` of each has returned last.
        self._stats: dict[str, dict[str, int]] = {name: {} for name in servers}
        #: The servers whose `stats()` have failed, which is logged once.
        self._silent: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, in the event loop in which the servers are about to run.

        Raises:
            RuntimeError: another recorder of this process is at work, or one of the servers is running.
        """
        if Recorder._at_work is not None:
            raise RuntimeError("the servers of this process are measured already: name all of them at once")
        for name, server in self.servers.items():
            run = server._cyasgi.server_run
            if run is not None and not run.stale:
                raise RuntimeError(f"the server {name!r} is running: begin to measure it before that")
        loop = asyncio.get_running_loop()
        SAMPLER.start(self.page.cells)
        Recorder._at_work = self
        for name, server in self.servers.items():
            server._cyasgi.on_failure = partial(self._failure, name)
            server._cyasgi.on_undelivered = self._undelivered
            if isinstance(server, Gateway):
                server.cells = self.page.cells
        self._expect(loop)

    def stop(self) -> None:
        """End, once the servers have ended; what was recorded stays."""
        if Recorder._at_work is not self:
            return
        Recorder._at_work = None
        if self._timer is not None:
            self._timer.cancel()
        SAMPLER.stop()
        for server in self.servers.values():
            server._cyasgi.on_failure = server._cyasgi.on_undelivered = None
            if isinstance(server, Gateway):
                server.cells = None
        for backlog in self._backlogs.values():
            backlog.rest()

    # What is recorded

    def _expect(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(TICK, self._tick, loop, time.monotonic_ns() + round(TICK * 1e9))

    def _tick(self, loop: asyncio.AbstractEventLoop, due: int) -> None:
        late = max(0, time.monotonic_ns() - due)
        observe(self.page.cells, LOOP_LAG, late)
        self._lags.append(late / 1e9)
        self._expect(loop)
        self._ticks += 1
        if self._ticks % TICKS == 0:
            self._tracebacks = TRACEBACKS
        for backlog in self._backlogs.values():
            backlog.look()

    def _undelivered(self, count: int) -> None:
        self.page.cells[UNDELIVERED] += count

    def _failure(self, name: str, details: Any, error: BaseException) -> None:
        self.page.cells[FAILURES] += 1
        self.failed += 1
        kind = bounded(type(error).__qualname__, LINE)
        known = kind in self._types or len(self._types) < MOST_TYPES
        counted = kind if known else OTHER
        self._types[counted] = self._types.get(counted, 0) + 1
        if self._tracebacks:
            self._tracebacks -= 1
            text = bounded("".join(traceback.format_exception(error)).rstrip(), TRACEBACK, keep_end=True)
            self._failures.appendleft(Failure(time.time(), name, bounded(_words(details), LINE), kind, text))

    # What there is to tell

    def overview(self, *, failures: bool = True) -> Overview:
        """Return what there is to tell now.

        Args:
            failures: whether the last failures are to be among it.
        """
        return Overview(
            servers={name: self._server(name, server) for name, server in self.servers.items()},
            lag=max(self._lags, default=0.0),
            failure_types=dict(self._types),
            failures=tuple(self._failures) if failures else None,
        )

    def _server(self, name: str, server: StatelessServer) -> ServerOverview:
        backlog = self._backlogs[name]
        try:
            # A subclass may count what it likes.
            counts = {bounded(str(key), NAME): count for key, count in server.stats().items() if is_count(count)}
            self._stats[name] = dict(itertools.islice(counts.items(), MOST_COUNTERS))
        except INTERRUPTS:
            raise
        except BaseException:
            if name not in self._silent:
                self._silent.add(name)
                logger.exception("stats() of the server %r failed: its metrics stay what they were", name)
        return ServerOverview(self._stats[name], backlog.waiting, backlog.queued, backlog.busiest)


def _words(details: Any) -> str:
    """Describe an instance, or whatever is in its place; an id may be of any kind, and fail to tell what it is."""
    try:
        return describe(details)
    except INTERRUPTS:
        raise
    except BaseException as error:
        return f"{type(details).__name__}, which {type(error).__name__} keeps from being described"
