"""TableFull: what is raised for an instance for which there is no room, where none is evicted for it."""

from __future__ import annotations


class TableFull(Exception):
    """Raised by `get_or_create_application_instance` under the eviction policy "refuse", at `max_applications`.

    The caller should tell the client to come back later, or drop what it had for the instance. Nothing was evicted.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"there are {limit} instances, as many as max_applications allows, and none is evicted")
        #: `max_applications`.
        self.limit = limit

    def __reduce__(self) -> tuple[type[TableFull], tuple[int]]:
        return TableFull, (self.limit,)
