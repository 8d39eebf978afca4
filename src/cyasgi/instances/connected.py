"""The manager of instances that serve a connection: they leave the table as soon as their run ends."""

from __future__ import annotations

from typing import Any

from .hooks import logger
from .manager import InstanceManager


class ConnectedManager(InstanceManager):
    """Manage instances as `InstanceManager` does, and tell the `Connection` of a scope when its application has ended.

    Its server looks at once whether methods are overridden, and has the manager note that (`note_overrides`).
    """

    ended = InstanceManager.connected_ended

    def _connection_failed(self, instance: Any) -> None:
        logger.exception("the connection of %r failed when its application had ended", instance)
