"""How many connections a server may have, by its own limit and by the limit of open files that all servers share."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from .descriptors import (
    descriptor_limit,
    lack_of_descriptors,
    room_for_connections,
)
from .rate_limited_log import RateLimitedLog

logger = logging.getLogger("cyasgi.gateways.http")

#: Those of the servers at work, which share what the system lets this process have open.
_at_work: set[ConnectionCapacity] = set()


class ConnectionCapacity:
    """The capacity of one server, from `begin` to `end`."""

    def __init__(self) -> None:
        #: The open connections of the server.
        self.connections: Collection[object] = ()
        #: Connections that all servers of this process may have together.
        self._most = math.inf
        self._lack: OSError | None = None
        self._lacks = RateLimitedLog(self._log_lack)

    def begin(self, connections: Collection[object], max_connections: int) -> None:
        """Find out how many connections the system allows, and log it if they are fewer than `max_connections`."""
        room = room_for_connections()
        self.connections = connections
        self._most = math.inf
        if room is not None:
            self._most = room + sum(len(one.connections) for one in tuple(_at_work))
            if self._most < max_connections:
                logger.warning(
                    "at most %d connections are served at a time, and not max_connections=%d: the limit of open files "
                    "is %d (ulimit -n)",
                    self._most,
                    max_connections,
                    descriptor_limit(),
                )
        _at_work.add(self)

    def end_accepting(self) -> None:
        """Stop counting the server's connections."""
        _at_work.discard(self)

    def end(self) -> None:
        """Log what was not logged yet."""
        self._lacks.close()

    def left(self) -> float:
        """Return how many more connections the system allows; below 0 if there are too many."""
        return self._most - sum([len(one.connections) for one in tuple(_at_work)])

    def lacking(self, error: OSError) -> None:
        """Log, in one line a second at most, that no connection can be accepted because of this error."""
        self._lack = error
        self._lacks.notice()

    def look_for_lack(self) -> None:
        """Log it if no file descriptor is left; for event loops that accept connections by themselves."""
        error = lack_of_descriptors()
        if error is not None:
            self.lacking(error)

    def _log_lack(self) -> bool:
        error, self._lack = self._lack, None
        if error is None:
            return False
        count = len(self.connections)
        logger.error(
            "no further connection can be accepted for now: %s; %d %s open",
            error.strerror or error,
            count,
            "is" if count == 1 else "are",
        )
        return True
