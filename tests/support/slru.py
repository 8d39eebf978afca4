"""A server under ``eviction_policy = "slru"``, uses of its instances, and the order that comes of them."""

from __future__ import annotations

from typing import Any

from support.instances import by_message, make
from support.loops import passes
from support.serving import quiet


def slru(cy: Any, limit: int | None = 5, application: Any = by_message, **attributes: Any) -> Any:
    attributes = {"eviction_policy": "slru", **attributes}
    return type("Server", (quiet(cy.StatelessServer),), attributes)(application, limit)


def order(server: Any) -> tuple[str, str]:
    """The ids on probation, and the protected ones."""
    table = server.application_instances
    ids = [str(scope_id) for scope_id in table]
    on_probation = len(ids) - table.protected
    return "".join(ids[:on_probation]), "".join(ids[on_probation:])


async def use(server: Any, ids: str) -> None:
    for scope_id in ids:
        make(server, scope_id)
    await passes(3)
