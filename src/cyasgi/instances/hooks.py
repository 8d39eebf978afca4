"""Calls a server's hooks in the background, whatever they do, and however many calls there are.

The backlog is bounded: the longer it is, the more time it gets, and while it is long, reports for default hooks are
merged into a `Summary`. Overridden hooks are called for each report: plain ones take as much time from the loop as they
need, and as many asynchronous ones run at a time as it takes to keep up.
"""

from __future__ import annotations

import asyncio
import collections
import inspect
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from .._common.guarding import INTERRUPTS, Guard
from .._types import ServerPort
from ..core import Pass
from ..core.context import outside
from ..core.tasks import leave_pending
from .pacing import (
    BACKLOG,
    Pace,
    share_of,
)
from .summary import Summary, log_exception
from .untold import LoopEnd

logger = logging.getLogger("cyasgi.server")

#: Asynchronous hooks that run at a time while at most BACKLOG calls wait; twice as many while twice as many calls wait.
HOOKS_AT_ONCE = 100
#: Undelivered messages that make a backlog long, however few calls are waiting.
MESSAGES = 10_000

EXCEPTION = "application_exception"
UNDELIVERED = "application_undelivered"
ENDED = "application_ended"

#: A call to be made: the server, the name of the hook, an exception or messages, and details. For an event, the third
#: one is a tuple of all arguments.
Report = tuple[ServerPort, str, Any, Any]

#: By base class: its own hooks, as they were when the class was made.
_DEFAULTS: dict[type[ServerPort], dict[str, Any]] = {}


def remember_default_hooks(base: type[ServerPort]) -> None:
    """Remember the hooks of a base class, so that others are recognised even if they replace these on the class."""
    _DEFAULTS[base] = {name: getattr(base, name) for name in (EXCEPTION, UNDELIVERED, ENDED)}


class Following:
    """The calls about one instance that wait until its running asynchronous hooks have returned."""

    __slots__ = ("at_work", "events")

    def __init__(self) -> None:
        #: How many hooks are running.
        self.at_work = 0
        self.events: list[Report] = []


class Reports:
    """The calls of a server's hooks that are still to be made."""

    __slots__ = (
        "_defaults",
        "_following",
        "_hooks",
        "_late",
        "_messages",
        "_pending",
        "_reporter",
        "_room",
        "_summary",
        "loop_end",
    )

    def __init__(self, loop_end: LoopEnd, base: type[ServerPort]) -> None:
        #: The default hooks.
        self._defaults = _DEFAULTS[base]
        self.loop_end = loop_end
        #: Oldest first.
        self._pending: collections.deque[Report] = collections.deque()
        #: Undelivered messages in these.
        self._messages = 0
        self._summary = Summary()
        #: By the id() of the instance, or plain dict, for which asynchronous hooks are running.
        self._following: dict[int, Following] = {}
        #: Lists in `_pending` that further messages of the same instance may join.
        self._late: dict[Any, list[Any]] = {}
        self._reporter: asyncio.Task[None] | None = None
        #: Running asynchronous hooks, and the call of each.
        self._hooks: dict[asyncio.Task[None], Report] = {}
        #: Resolved when another one may be called.
        self._room: asyncio.Future[None] | None = None

    # What there is to tell

    def exception(self, server: ServerPort, error: BaseException, details: Any) -> None:
        self.add(server, error, details)
        self.kick()

    def add(self, server: ServerPort, error: BaseException, details: Any) -> None:
        """Do as `exception`, but call nobody yet."""
        if self._crowded and self._is_default(server, EXCEPTION):
            self._summary.failed(error, details)
        else:
            self._pending.append((server, EXCEPTION, error, details))

    def undelivered(self, server: ServerPort, messages: list[Any], details: Any) -> None:
        self.add_undelivered(server, messages, details)
        self.kick()

    def add_undelivered(self, server: ServerPort, messages: list[Any], details: Any) -> None:
        """Do as `undelivered`, but call nobody yet."""
        if self._crowded and self._is_default(server, UNDELIVERED):
            self._summary.undelivered(len(messages), details)
            self._count_in_flight(details)
        else:
            self._messages += len(messages)
            self._pending.append((server, UNDELIVERED, messages, details))

    def undelivered_late(self, server: ServerPort, message: Any, details: Any) -> None:
        """Report a message that was put after its instance had been reported."""
        if self._crowded and self._is_default(server, UNDELIVERED):
            self._summary.undelivered(1, details)
            self.kick()
            return
        messages = self._late.get(details)
        if messages is None:
            messages = self._late[details] = []
            self._pending.append((server, UNDELIVERED, messages, details))
            self.kick()
        messages.append(message)
        self._messages += 1

    def ended(self, server: ServerPort, details: Any, reason: str) -> None:
        """Report the end of a run, after everything else about it."""
        if self._crowded and self._is_default(server, ENDED):
            self._count_in_flight(details)
        else:
            self._pending.append((server, ENDED, (details, reason), details))
        self.kick()

    def event(self, server: ServerPort, name: str, arguments: tuple[Any, ...], details: Any) -> None:
        """Call a hook that is one of several about the same instance, which are called one after the other."""
        self._pending.append((server, name, arguments, details))
        self.kick()

    @property
    def pending(self) -> int:
        """The number of calls that are still to be made or have not returned."""
        return len(self._pending) + len(self._hooks) + bool(self._summary)

    @property
    def _crowded(self) -> bool:
        return len(self._pending) >= BACKLOG or self._messages >= MESSAGES

    def _is_default(self, server: ServerPort, name: str) -> bool:
        return getattr(type(server), name) is self._defaults[name] and name not in server.__dict__

    def _count_in_flight(self, details: Any) -> None:
        in_flight = getattr(details, "in_flight", ())
        if in_flight:
            self._summary.interrupted(len(in_flight))

    # Telling it

    def kick(self) -> None:
        """Start the reporter if there is something to tell and a running loop; otherwise the next loop will."""
        reporter = self._reporter
        if reporter is not None and not reporter.get_loop().is_closed():
            if self._room is not None and len(self._pending) > BACKLOG:
                self._make_room()
            return
        loop = asyncio._get_running_loop()
        if loop is None:
            return
        self._reporter = self._room = None
        self._give_up_hooks([task for task in self._hooks if task.get_loop().is_closed()])
        if not self._pending and not self._summary:
            return
        self._reporter = reporter = outside().run(loop.create_task, self._report())
        # If the loop is closed before it ends, the next loop takes over.
        leave_pending(reporter)
        reporter.add_done_callback(self._reporter_ended)
        self.loop_end.expect(loop)

    async def flush(self) -> None:
        """Wait until every call has been made and every hook has returned."""
        while True:
            self.kick()
            waiting = set(self._hooks)
            if self._reporter is not None:
                waiting.add(self._reporter)
            if not waiting:
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def finish(self) -> None:
        """Do as `flush` for up to `shutdown_timeout` seconds, then cancel the hooks that are still running."""
        bound = max((report[0].shutdown_timeout for report in (*self._pending, *self._hooks.values())), default=0.0)
        flushing = asyncio.get_running_loop().create_task(self.flush())
        # The loop may end before this does.
        leave_pending(flushing)
        try:
            await asyncio.wait({flushing}, timeout=bound)
        finally:
            flushing.cancel()
        await asyncio.wait({flushing, *self.cancel()}, timeout=bound)

    def cancel(self) -> set[asyncio.Task[None]]:
        """Cancel what is running, and return the tasks; calls that were not made yet remain to be made."""
        tasks = {task for task in (self._reporter, *self._hooks) if task is not None and not task.done()}
        self._reporter = self._room = None
        for task in tasks:
            task.cancel()
        return tasks

    async def _report(self) -> None:
        while self._pending or self._summary:
            pace = Pace(share := self._share)
            told = 0
            while self._pending and len(self._hooks) < HOOKS_AT_ONCE * share:
                self._tell(self._pending.popleft())
                told += 1
                if pace.over(1):
                    break
            if self._summary.due or not self._pending:
                self._summary.log()
            if not self._pending:
                return
            if told:
                # Hooks that wait for nothing return meanwhile.
                await Pass()
            else:
                self._room = asyncio.get_running_loop().create_future()
                await self._room

    @property
    def _share(self) -> float:
        return max(share_of(len(self._pending)), self._messages / MESSAGES)

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _reporter_ended(self, reporter: asyncio.Task[None]) -> None:
        if reporter is not self._reporter:
            # The server has stopped it.
            return
        self._reporter = self._room = None
        if not reporter.cancelled():
            # KeyboardInterrupt and SystemExit have gone through the loop, so that nobody else retrieves them.
            reporter.exception()
            self.kick()
            return
        # Somebody cancels all tasks, and would cancel a new reporter as well: the loop is about to end.
        for _ in range(len(self._pending)):
            self._tell(self._pending.popleft())
        self._summary.log()

    def _tell(self, report: Report) -> None:
        server, name, subject, details = report
        if name == UNDELIVERED:
            self._messages -= len(subject)
            if self._late:
                self._late.pop(details, None)
        if type(subject) is tuple and id(details) in self._following:
            self._following[id(details)].events.append(report)
            return
        try:
            if name == EXCEPTION and self._is_default(server, name):
                # It waits for nothing, and so needs no task.
                log_exception(subject, details)
                return
            hook = getattr(server, name)
            result = hook(*subject) if type(subject) is tuple else hook(subject, details)
            if not inspect.isawaitable(result):
                return
        except INTERRUPTS:
            raise
        except BaseException as error:
            _log_failure(name, subject, error)
            return
        task = asyncio.get_running_loop().create_task(self._await(result, name, subject))
        if task.done():
            # An eager task that has waited for nothing.
            self._returned(result, task)
            return
        self._hooks[task] = report
        self._following.setdefault(id(details), Following()).at_work += 1
        task.add_done_callback(partial(self._returned, result))

    async def _await(self, awaitable: Any, name: str, subject: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        guard = Guard()
        try:
            await awaitable
        except INTERRUPTS:
            raise
        except BaseException as error:
            if guard.interrupted(error):
                if task in self._hooks:
                    # Otherwise it was logged when the hook was given up.
                    _log_cancelled(name, subject)
                raise
            _log_failure(name, subject, error)
        finally:
            self._over(task)

    def _over(self, task: asyncio.Task[None]) -> bool:
        """Note that a hook has returned, or never will; return False if that was known."""
        report = self._hooks.pop(task, None)
        if report is None:
            return False
        details = report[3]
        following = self._following[id(details)]
        following.at_work -= 1
        if not following.at_work:
            del self._following[id(details)]
            self._pending.extendleft(reversed(following.events))
        self._make_room()
        return True

    def _returned(self, awaitable: Any, task: asyncio.Task[None]) -> None:
        report = self._hooks.get(task)
        if self._over(task) and report is not None:
            # Cancelled before its first step, with the server.
            close = getattr(awaitable, "close", None)
            if close is not None:
                close()
            _log_cancelled(*report[1:3])
        elif not task.cancelled():
            # KeyboardInterrupt and SystemExit have gone through the loop, so that nobody else retrieves them.
            task.exception()
        self.kick()

    # What nobody is going to tell

    def _give_up_hooks(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Give up hooks that will take no further step."""
        for task in tasks:
            leave_pending(task)
            _log_cancelled(*self._hooks[task][1:3])
            self._over(task)

    def log_rest(self) -> None:
        """Log the rest as the default hooks would, since there will be no loop to call hooks in."""
        self._reporter = self._room = None
        self._give_up_hooks(list(self._hooks))
        pending, self._pending = self._pending, collections.deque()
        self._late.clear()
        self._messages = 0
        for number, (server, name, subject, details) in enumerate(pending):
            task = getattr(details, "_task", None)
            if name == EXCEPTION and task is not None and task.done() and not task.cancelled():
                # Retrieve it, so that asyncio does not complain that nobody has.
                task.exception()
            if name == EXCEPTION and number < BACKLOG:
                log_exception(subject, details)
            elif name == EXCEPTION:
                self._summary.failed(subject, details)
            elif name == UNDELIVERED and number >= BACKLOG:
                self._summary.undelivered(len(subject), details)
                self._count_in_flight(details)
            elif name == UNDELIVERED:
                self._defaults[name](server, subject, details)
            elif name == ENDED:
                self._defaults[name](server, *subject)
            else:
                logger.error("the hook %s was not called before its event loop ended, with %r", name, subject)
        self._summary.log()


def _log_failure(name: str, subject: Any, error: BaseException) -> None:
    logger.error("the hook %s raised %r", name, error, exc_info=error)
    if name == EXCEPTION:
        logger.error("the exception it was called with: %r", subject, exc_info=subject)


def _log_cancelled(name: str, subject: Any) -> None:
    error = subject if name == EXCEPTION else None
    logger.error("the hook %s was cancelled; it was called with %r", name, subject, exc_info=error)
