"""Calls the hooks of a server: in the background, whatever they do."""

from __future__ import annotations

import asyncio
import collections
import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from ._backend import Pass
from ._context import outside
from ._guarding import INTERRUPTS, Guard

if TYPE_CHECKING:
    from .server import StatelessServer

logger = logging.getLogger("cyasgi.server")

#: Asynchronous hooks at work at the same time; further reports wait.
HOOKS_AT_ONCE = 100
#: Reports made before the loop may turn.
REPORTS_A_PASS = 100

EXCEPTION = "application_exception"
UNDELIVERED = "application_undelivered"
ENDED = "application_ended"


class Line:
    """What is told of one instance while asynchronous hooks are at work for it."""

    __slots__ = ("at_work", "events")

    def __init__(self) -> None:
        self.at_work = 0
        #: These are told when all that are at work have returned.
        self.events: list[tuple[StatelessServer, str, Any, Any]] = []


class Reports:
    """What is still to be told to a server's hooks."""

    __slots__ = ("_hooks", "_late", "_lines", "_pending", "_reporter")

    def __init__(self) -> None:
        #: (server, name of the hook, exception or messages, details), oldest first; of an event: all its arguments.
        self._pending: collections.deque[tuple[StatelessServer, str, Any, Any]] = collections.deque()
        #: By the id() of the instance, or of the plain dict, that asynchronous hooks are at work for.
        self._lines: dict[int, Line] = {}
        #: Lists in `_pending` that further messages of the same instance may join.
        self._late: dict[Any, list[Any]] = {}
        self._reporter: asyncio.Task[None] | None = None
        self._hooks: set[asyncio.Task[None]] = set()

    def exception(self, server: StatelessServer, error: BaseException, details: Any) -> None:
        self._pending.append((server, EXCEPTION, error, details))
        self.kick()

    def undelivered(self, server: StatelessServer, messages: list[Any], details: Any) -> None:
        self._pending.append((server, UNDELIVERED, messages, details))
        self.kick()

    def late(self, server: StatelessServer, message: Any, details: Any) -> None:
        """A message that was put when its instance had already been reported."""
        messages = self._late.get(details)
        if messages is None:
            messages = self._late[details] = []
            self.undelivered(server, messages, details)
        messages.append(message)

    def ended(self, server: StatelessServer, details: Any, reason: str) -> None:
        """The last that is told of a run."""
        self._pending.append((server, ENDED, (details, reason), details))
        self.kick()

    def event(self, server: StatelessServer, name: str, arguments: tuple[Any, ...], details: Any) -> None:
        """Something for a hook that hears of several things about one instance: one after the other."""
        self._pending.append((server, name, arguments, details))
        self.kick()

    @property
    def pending(self) -> int:
        """How many reports are still to be made."""
        return len(self._pending) + len(self._hooks)

    def kick(self) -> None:
        """Starts the reporter, if there is something to tell and a loop to do it in; else the next loop does."""
        if not self._pending:
            return
        loop = asyncio._get_running_loop()
        reporter = self._reporter
        if loop is None or (reporter is not None and not reporter.done() and not reporter.get_loop().is_closed()):
            return
        self._reporter = outside().run(loop.create_task, self._report())

    async def flush(self) -> None:
        """Waits until every report has been made and every hook has returned."""
        self.kick()
        while self._pending or self._hooks:
            waiting = set(self._hooks)
            if self._reporter is not None and not self._reporter.done():
                waiting.add(self._reporter)
            if not waiting:
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> set[asyncio.Task[None]]:
        """Cancels what is at work, and gives it; what was not begun stays to be told."""
        tasks = {task for task in (self._reporter, *self._hooks) if task is not None and not task.done()}
        for task in tasks:
            task.cancel()
        return tasks

    async def _report(self) -> None:
        made = 0
        while self._pending:
            if len(self._hooks) >= HOOKS_AT_ONCE:
                await asyncio.wait(self._hooks, return_when=asyncio.FIRST_COMPLETED)
                continue
            server, name, subject, details = self._pending.popleft()
            if name == UNDELIVERED:
                self._late.pop(details, None) if self._late else None
            if type(subject) is tuple and id(details) in self._lines:
                self._lines[id(details)].events.append((server, name, subject, details))
                continue
            self._call(server, name, subject, details)
            del server, subject, details
            made += 1
            if made % REPORTS_A_PASS == 0:
                await Pass()

    def _call(self, server: StatelessServer, name: str, subject: Any, details: Any) -> None:
        task = getattr(details, "_task", None)
        if name == EXCEPTION and task is not None and task.done() and not task.cancelled():
            # So that asyncio does not complain that nobody ever looked at it.
            task.exception()
        try:
            event = type(subject) is tuple
            result = getattr(server, name)(*subject) if event else getattr(server, name)(subject, details)
            if not inspect.isawaitable(result):
                return
        except INTERRUPTS:
            raise
        except BaseException as error:
            _log_failure(name, subject, error)
            return
        task = asyncio.get_running_loop().create_task(_guard(name, subject, result))
        self._hooks.add(task)
        self._lines.setdefault(id(details), Line()).at_work += 1
        task.add_done_callback(partial(self._returned, name, subject, details, result))

    def _returned(self, name: str, subject: Any, details: Any, awaitable: Any, task: asyncio.Task[None]) -> None:
        self._hooks.discard(task)
        line = self._lines[id(details)]
        line.at_work -= 1
        if not line.at_work:
            del self._lines[id(details)]
            if line.events:
                self._pending.extendleft(reversed(line.events))
                self.kick()
        if task.cancelled():
            # The server was stopped before the hook was done, perhaps before it had begun.
            close = getattr(awaitable, "close", None)
            if close is not None:
                close()
            error = subject if name == EXCEPTION else None
            logger.error("the hook %s was cancelled; it was called with %r", name, subject, exc_info=error)
        else:
            # KeyboardInterrupt and SystemExit went through the loop: nobody else is going to look at them.
            task.exception()


async def _guard(name: str, subject: Any, awaitable: Any) -> None:
    guard = Guard()
    try:
        await awaitable
    except BaseException as error:
        if guard.interrupted(error):
            raise
        _log_failure(name, subject, error)


def _log_failure(name: str, subject: Any, error: BaseException) -> None:
    logger.error("the hook %s raised %r", name, error, exc_info=error)
    if name == EXCEPTION:
        logger.error("the exception it was called with: %r", subject, exc_info=subject)
