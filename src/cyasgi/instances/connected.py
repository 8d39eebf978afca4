"""The manager of instances that serve a connection: they leave the table as soon as their run ends."""

from __future__ import annotations

from typing import Any

from ..core.constants import RETURNED
from .hooks import logger
from .manager import InstanceManager


class ConnectedManager(InstanceManager):
    """An `InstanceManager` that tells the `Connection` of a scope when its application has ended.

    Its server finds out once whether methods are overridden, and keeps that as `plain` and `hears_of_ends`.
    """

    def ended(self, instance: Any) -> None:
        connection = getattr(instance.scope, "connection", None)
        if connection is not None:
            try:
                connection.application_ended(instance)
            except Exception:
                # Whatever is wrong with the connection, the instance must leave the table.
                logger.exception("the connection of %r failed when its application had ended", instance)
        table = instance._table
        if table is not None and instance._server.plain:
            table.remove(instance)
            quiet = self.observer is None and self.on_ended is None
            if quiet and instance._outcome == RETURNED and not instance.qsize() and not instance._server.hears_of_ends:
                # All that `InstanceManager.ended` does for a run with nothing to report.
                self.counts["finished"] += 1
                instance._reported = True
                return
        super().ended(instance)
