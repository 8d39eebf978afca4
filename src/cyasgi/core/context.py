"""What a task knows of the server it works for: the instance at work, and the one whose deletion it carries out."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
from contextvars import ContextVar, Token, copy_context
from typing import TYPE_CHECKING, Any

from .._types import OriginPort

if TYPE_CHECKING:
    from contextvars import Context


class Cell:
    """The value of `at_work`: it holds the running instance until its run ends.

    Contexts of tasks that outlive the run, or of the finished task itself, then keep no instance alive.
    """

    __slots__ = ("instance",)

    def __init__(self, instance: Any) -> None:
        self.instance = instance


class PendingDeletion:
    """An instance that has left the table while an asynchronous override of a delete method still works on it.

    In the task of that override, and nowhere else, `scope_id` stands for this entry: looking it up returns the entry
    until it is deleted, and never an instance of the same id that was created meanwhile.
    """

    __slots__ = ("deleted", "entry", "oldest", "over", "table", "visible")

    def __init__(self, table: Any, entry: Any, oldest: bool) -> None:
        self.table = table
        self.entry = entry
        #: The override is delete_oldest_application_instance's, whose base is still to be told which one is meant.
        self.oldest = oldest
        self.visible = True
        self.deleted = False
        self.over = False

    def matches(self, table: object, scope_id: Hashable) -> bool:
        return self.table is table and not self.over and self.entry.scope_id == scope_id


#: A Cell, or a twin's Run, which has the same attribute.
at_work: ContextVar[Any] = ContextVar("cyasgi.at_work", default=None)
deleting: ContextVar[PendingDeletion | None] = ContextVar("cyasgi.deleting", default=None)
#: Which arun() the code at work was started by, through its handle(); None for all other code.
origin: ContextVar[OriginPort | None] = ContextVar("cyasgi.origin", default=None)


def current_instance() -> Any:
    """Return the running ApplicationInstance, in an application, its child tasks and `application_send`; else None.

    In a child task that outlives the run of its application it is None.
    """
    cell = at_work.get()
    return None if cell is None else cell.instance


def enter(instance: Any) -> tuple[Cell, Token[Any]]:
    """Make the instance the current one in this context, until `leave` is called."""
    cell = Cell(instance)
    return cell, at_work.set(cell)


def leave(cell: Cell, token: Token[Any]) -> None:
    cell.instance = None
    # A coroutine that is thrown away after its loop was closed is collected in any context.
    with contextlib.suppress(ValueError):
        at_work.reset(token)


def outside() -> Context:
    """Return a copy of the context without instance and handle(), for the server's own work and its hooks."""
    context = copy_context()
    context.run(at_work.set, None)
    context.run(deleting.set, None)
    context.run(origin.set, None)
    return context
