"""Messages that are waiting when an application ends by itself go to the next instance of its id, if so configured."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .._common.guarding import INTERRUPTS
from .._types import ServerPort
from ..core import ApplicationInstance
from ..core.constants import CANCELLED, SUCCESSOR
from ..core.tracking import undelivered
from .hooks import logger
from .reporting import Reporting


def left_to_successor(server: ServerPort, entry: Any) -> list[Any]:
    """Take the messages for a successor out of an entry that has ended; none if they are for the hook.

    They are for the hook if the application has failed before it received any: its successor would fail as well.
    """
    if (
        server.undelivered_to != SUCCESSOR
        or type(entry) is not ApplicationInstance
        or entry._reason
        or entry._outcome == CANCELLED
        or not entry._taking
    ):
        return []
    return entry._take_items() or []


def delete_with_successor(
    manager: Reporting, delete: Callable[[Any, Any], object], server: ServerPort, entry: Any
) -> None:
    """Delete an entry that has ended, and hand its messages to its successor, whatever overrides do meanwhile."""
    messages = left_to_successor(server, entry)
    try:
        delete(server, entry)
    finally:
        if messages:
            _succeed(manager, server, entry, messages)


def _succeed(manager: Reporting, server: ServerPort, entry: Any, messages: list[Any]) -> None:
    """Hand the messages to a successor, created if there is none and room for one; otherwise to the hook."""
    try:
        # If it is still in the table, an override has refused to delete it.
        if manager.table.entry(entry.scope_id) is None and _may_be_succeeded(manager, server):
            made: Any = server.get_or_create_application_instance(entry.scope_id, entry.scope)
            if inspect.iscoroutine(made):
                made.close()
                raise TypeError("get_or_create_application_instance is an async def, which nobody can await here")
    except INTERRUPTS:
        raise
    except BaseException as error:
        logger.error("scope_id %r gets no successor: %s", entry.scope_id, error, exc_info=error)
    finally:
        hand_over(manager, server, entry, messages)


def hand_over(manager: Reporting, server: ServerPort, entry: Any, messages: list[Any]) -> None:
    """Put the messages first in the queue of the instance that has the id now; if there is none, tell the hook."""
    if not messages:
        return
    heir = manager.table.entry(entry.scope_id)
    if type(heir) is ApplicationInstance:
        heir._inherit(messages, first=True)
    else:
        manager.undelivered(server, undelivered(messages), entry)


def _may_be_succeeded(manager: Reporting, server: ServerPort) -> bool:
    limit = server.max_applications
    run = manager.server_run
    return (limit is None or manager.table.size() < limit) and (run is None or not run.stopping)
