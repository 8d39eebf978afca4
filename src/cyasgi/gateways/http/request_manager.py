"""The end of a request: its instance leaves the table at once, without the checker.

Only this module of the HTTP gateway knows how the core keeps its instances.
"""

from __future__ import annotations

import logging
from typing import Any

from ...core.constants import RETURNED
from ...instances.manager import InstanceManager
from ...wire.http.scope import Scope

logger = logging.getLogger("cyasgi.gateways.http")


class RequestManager(InstanceManager):
    """Manages instances as `InstanceManager` does, but each leaves the table at the very end of its run."""

    def ended(self, instance: Any) -> None:
        scope = instance.scope
        if type(scope) is Scope:
            try:
                scope.connection.application_ended(instance)
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
