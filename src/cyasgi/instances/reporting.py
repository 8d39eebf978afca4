"""The end of a run, and what its hooks are told: in its loop, at the end of the loop, or in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .._common.guarding import INTERRUPTS
from .._types import ServerPort, Stoppable
from ..core import ApplicationInstance, ForeignEntry
from ..core.constants import CANCELLED, FAILED, OUTCOMES, REASONS, RETURNED, SUCCESSOR
from ..core.tracking import UNDELIVERED, message_of, tell_all
from .closing import ClosingRuns
from .hooks import Reports, logger
from .untold import LoopEnd


class Reporting(ClosingRuns):
    """Counts how runs end, and reports them."""

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        self.loop_end = LoopEnd(self)
        self.reports = Reports(self.loop_end, base)
        #: The current arun().
        self.server_run: Stoppable | None = None
        #: Called for each failure that is reported, with the instance and the error; and with the number of messages
        #: whenever some are undelivered. Both at once, before any hook; what they raise is logged.
        self.on_failure: Callable[[Any, BaseException], object] | None = None
        self.on_undelivered: Callable[[int], object] | None = None

    def _ended_slow(self, instance: ApplicationInstance) -> None:
        """Note the end of a run that has failed or is observed."""
        self.counts[OUTCOMES[instance._outcome]] += 1
        if self.observer is not None:
            self.observer.ended(instance)
        if instance._outcome == FAILED and instance._begun and instance._task is not None:
            # A hook is told of the error, except of KeyboardInterrupt and SystemExit, which go through the loop.
            loop = instance._task.get_loop()
            loop.call_soon(look_at, instance._task)
            self.loop_end.expect(loop)
        if instance._table is not None:
            instance._table._add_finished(instance)
        else:
            self._closed(instance._server, instance)
        if self.on_ended is not None:
            self.on_ended()

    def report(self, server: ServerPort, entry: Any, *, again: bool = False) -> None:
        """Tell the hooks of an entry that has ended and has left the table; or that is to begin again, if `again`."""
        if entry._reported:
            return
        entry._reported = True
        interrupted: tuple[Any, ...] = ()
        if type(entry) is ForeignEntry:
            outcome, error, messages = _foreign_outcome(entry)
            if error is not None:
                self.counts["failed"] += 1
        else:
            outcome, error, messages = entry._outcome, entry._error, entry.take_all()
            if error is not None:
                entry._error = None
            interrupted = entry.in_flight
            if interrupted:
                self.counts["interrupted"] += len(interrupted)
                entry.setdefault("in_flight", interrupted)
        if error is not None:
            self._note_failure(entry.public, error)
            self.reports.exception(server, error, entry.public)
        if messages:
            self.undelivered(server, messages, entry)
        if not again:
            untold = interrupted and error is None and not messages
            if untold or self.hears_of_ends(server):
                self.reports.ended(server, entry.public, REASONS[entry._reason or outcome])
        if self.observer is not None and not again and type(entry) is ApplicationInstance:
            self.observer.closed(entry)

    def undelivered(self, server: ServerPort, messages: list[Any], entry: Any) -> None:
        self._note_undelivered(len(messages))
        self.reports.undelivered(server, messages, entry.public)

    def _note_failure(self, details: Any, error: BaseException) -> None:
        if self.on_failure is not None:
            try:
                self.on_failure(details, error)
            except INTERRUPTS:
                raise
            except BaseException:
                logger.exception("a failure could not be noted")

    def _note_undelivered(self, count: int) -> None:
        self.counts["undelivered"] += count
        if self.on_undelivered is not None:
            try:
                self.on_undelivered(count)
            except INTERRUPTS:
                raise
            except BaseException:
                logger.exception("undelivered messages could not be noted")

    def put_after_end(self, instance: ApplicationInstance, message: Any) -> None:
        """Accept a message that was put into an instance that has ended."""
        if instance._reported:
            heir = self._heir_of(instance)
            if heir is not None:
                heir._inherit([message], first=False)
                return
            self._note_undelivered(1)
            tell_all((message,), UNDELIVERED)
            self.reports.undelivered_late(instance._server, message_of(message), instance)
        else:
            instance._keep(message)

    async def tell_rest(self) -> None:
        """Tell the hooks the rest before the loop ends, within `shutdown_timeout` seconds."""
        for instance, error in self._take_failures():
            self._note_failure(instance, error)
            self.reports.exception(instance._server, error, instance)
        await self.reports.finish()

    def log_rest(self) -> None:
        """Log the rest, since there will be no loop to tell the hooks in."""
        for instance, error in self._take_failures():
            self._note_failure(instance, error)
            self.reports.add(instance._server, error, instance)
        if self.counts["failed"]:
            for entry in self.table.entries():
                # The checker of another loop would have reported these, or handed them to a successor.
                if type(entry) is ApplicationInstance and entry.ended and entry._outcome == FAILED:
                    messages = entry.take_all()
                    if messages:
                        self._note_undelivered(len(messages))
                        self.reports.add_undelivered(entry._server, messages, entry)
        self.reports.log_rest()

    def _take_failures(self) -> list[tuple[Any, BaseException]]:
        """Return instances in the table that have failed, with their errors if no hook was told; take the errors."""
        failures = []
        if self.counts["failed"]:
            for entry in self.table.entries():
                if type(entry) is ApplicationInstance and entry._error is not None:
                    failures.append((entry, entry._error))
                    entry._error = None
        return failures

    def __del__(self) -> None:
        self.log_rest()

    def _heir_of(self, instance: ApplicationInstance) -> ApplicationInstance | None:
        """Return the successor that gets what is put into an ended instance by those who waited, or None."""
        if instance._server.undelivered_to != SUCCESSOR or instance._reason or instance._outcome == CANCELLED:
            return None
        heir = self.table.entry(instance.scope_id)
        return heir if type(heir) is ApplicationInstance else None


def look_at(task: asyncio.Task[Any]) -> None:
    """Retrieve the task's exception, so that asyncio does not complain that nobody has."""
    if task.done() and not task.cancelled():
        task.exception()


def _foreign_outcome(entry: ForeignEntry) -> tuple[int, BaseException | None, list[Any]]:
    """Return the outcome of a plain dict's future, its error, and what is left in the queue."""
    future = entry._watched
    error = None
    outcome = CANCELLED
    messages: list[Any] = []
    try:
        if future is not None and future.done() and not future.cancelled():
            error = future.exception()
            outcome = RETURNED if error is None else FAILED
        queue = entry.details.get("input_queue")
        if isinstance(queue, asyncio.Queue):
            while not queue.empty():
                messages.append(queue.get_nowait())
    except INTERRUPTS:
        raise
    except BaseException:
        logger.exception("what was left of scope_id %r, a plain dict, could not be read", entry.scope_id)
    return outcome, error, messages
