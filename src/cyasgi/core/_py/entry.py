"""What the table holds, instances and plain dicts of others, each with a place in its orders."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator, MutableMapping
from typing import Any

from ..constants import DONE


class Order:
    """A natural order: a ring of entries linked by `_next` and `_prev`. This object sits between the youngest and the
    oldest."""

    __slots__ = ("_next", "_prev")

    def __init__(self) -> None:
        self._next: Any = self
        self._prev: Any = self

    def link(self, entry: Any) -> None:
        """Add an entry that is in no order, as the youngest."""
        youngest = self._prev
        youngest._next = entry
        entry._prev = youngest
        entry._next = self
        self._prev = entry

    def __iter__(self) -> Iterator[Any]:
        entry = self._next
        while entry is not self:
            yield entry
            entry = entry._next


def unlink(entry: Any) -> None:
    """Take an entry out of its natural order."""
    entry._prev._next = entry._next
    entry._next._prev = entry._prev
    entry._prev = entry._next = None


class Entry:
    """Base of what the table holds: a place in the table's orders."""

    __slots__ = (
        "__weakref__",
        "_active",
        "_assigned",
        "_bucket",
        "_next",
        "_place",
        "_prev",
        "_reason",
        "_scope_id",
        "_table",
        "_used",
    )

    def __init__(self, scope_id: Hashable) -> None:
        self._scope_id = scope_id
        self._next: Any = None
        self._prev: Any = None
        self._table: Any = None
        self._used = 0.0
        self._active = 0.0
        self._assigned: tuple[float, int] | None = None
        self._place = 0
        #: Why the server removes it, one of REASONS; 0 if its run had ended by itself before.
        self._reason = 0
        self._bucket = -1

    @property
    def scope_id(self) -> Hashable:
        """The key under which it was entered."""
        return self._scope_id


class ForeignEntry(Entry):
    """A plain dict that somebody wrote into the table, with the reference's four keys or some of them."""

    __slots__ = ("_details", "_reported", "_watched")

    #: A lookup does not give it out.
    _state = DONE

    def __init__(self, scope_id: Hashable, details: MutableMapping[str, Any]) -> None:
        super().__init__(scope_id)
        self._details = details
        self._reported = False
        self._watched: Any = None

    @property
    def details(self) -> MutableMapping[str, Any]:
        return self._details

    @property
    def public(self) -> MutableMapping[str, Any]:
        return self._details

    @property
    def idle(self) -> bool:
        """Whether nothing is queued and somebody waits in the queue's `get`, as far as that can be seen."""
        queue = self._details.get("input_queue")
        try:
            return bool(queue.empty() and getattr(queue, "_getters", True))  # type: ignore[union-attr]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # Not a queue: then nothing can wait in it.
            return True

    @property
    def ended(self) -> bool:
        future = self._watched
        return future is not None and bool(future.done() or future.get_loop().is_closed())

    @property
    def stale(self) -> bool:
        """Whether its future will never be done, because its loop was closed."""
        future = self._watched
        return future is not None and not future.done() and bool(future.get_loop().is_closed())

    def watch(self) -> None:
        future = self._details.get("future")
        if asyncio.isfuture(future):
            self._watched = future
            if future.done():
                self._future_done(future)
            else:
                future.add_done_callback(self._future_done)

    def unwatch(self) -> None:
        if self._watched is not None:
            self._watched.remove_done_callback(self._future_done)

    def _future_done(self, _: object) -> None:
        if self._table is not None:
            self._table._add_finished(self)
