"""All that a server keeps about its instances; each base class has one part of their life."""

from __future__ import annotations

from typing import Any

from .._common.control import Control
from .._types import ServerPort
from ..core import InstanceTable
from .checker import Checking


class InstanceManager(Checking):
    """All that a StatelessServer keeps about its instances, except the table.

    It does not refer to the server; instances do.
    """

    def __init__(self, base: type[ServerPort]) -> None:
        super().__init__(base)
        #: What other threads ask of the server.
        self.control = Control()

    def __reduce__(self) -> Any:
        """Copy or pickle only the entries, as for the reference, and nothing that is in progress."""
        return _restored, (self.table, self.base)

    def stats(self) -> dict[str, int]:
        return {
            "live": self.table.size(),
            "idle": self.table.idle,
            "created": self.table.created,
            "reused": self.table.reused,
            **{name: count for name, count in self.counts.items() if name not in ("undelivered", "interrupted")},
            "closing": len(self.closing),
            "undelivered": self.counts["undelivered"],
            "interrupted": self.counts["interrupted"],
        }


def _restored(table: InstanceTable, base: type[ServerPort]) -> InstanceManager:
    manager = InstanceManager(base)
    manager.table = table
    manager.closing_ids = table.closing_ids
    return manager
