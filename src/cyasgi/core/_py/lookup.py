"""get_or_create_application_instance: the one call of every message, a method of StatelessServer."""

from __future__ import annotations

import time
from collections.abc import Hashable
from time import time as _time
from typing import Any

from ..constants import DONE
from .entry import ForeignEntry
from .instance import ApplicationInstance
from .table import InstanceTable

_NOBODY = ForeignEntry(None, {})


def get_or_create_application_instance(self: Any, scope_id: Hashable, scope: Any) -> ApplicationInstance:
    """Return the live instance of this id, or a new one for `scope`, as the most recently used one of the table.

    The server runs the application, and the instance is its input queue. But if the result of the call is awaited
    before anything was put into it, the caller runs it: `await instance["application"](scope, receive, send)`.

    Raises:
        TypeError: `scope_id` is not hashable, or the application is not callable. Nothing was evicted then.
        TableFull: the eviction policy is "refuse", and there is no room for a new instance.
        RuntimeError: a new instance cannot be made in this thread, or for a task of a run that is over.
    """
    table = self._cyasgi_table
    if type(table) is not InstanceTable:
        raise TypeError(
            f"'get_or_create_application_instance' requires a 'StatelessServer' object but received {self!r}"
        )
    instance: ApplicationInstance = table._entries.get(scope_id, _NOBODY)
    if (
        instance._state != DONE
        and (loop := instance._loop) is table._loop
        # Asking the loop is cheaper than asking which one runs, which is a system call up to 3.11; cheaper still, where
        # is_closed() is asyncio's, is to look at what it returns.
        and not (loop.is_closed() if table._loop_dict is None else table._loop_dict["_closed"])  # type: ignore[union-attr]
    ):
        instance._used = _time()
        if table._timeout is not None:
            instance._active = time.monotonic()
        if instance._next is not (order := table._order):
            if instance._place:
                table._promote(instance)
            else:
                # unlink and link, without their frames.
                before, after = instance._prev, instance._next
                before._next = after
                after._prev = before
                youngest = order._prev
                youngest._next = instance
                instance._prev = youngest
                instance._next = order
                order._prev = instance
        table.reused += 1
        return instance
    fresh = table._create(self, scope_id, scope)
    return self._cyasgi.obtain(self, scope_id, scope) if fresh is None else fresh
