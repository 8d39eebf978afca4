"""What the endpoints of one datagram server share: counters, the log of losses, and creations under way."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..net.rate_limited_log import RateLimitedLog
from .batches import Buffers

logger = logging.getLogger("cyasgi.gateways.datagram")

#: The counters of `DatagramServer.stats`, and the attribute of an endpoint that counts each.
ATTRIBUTES = {
    "datagrams_received": "received",
    "datagrams_sent": "sent",
    "dropped_queue_full": "queue_full",
    "dropped_oversized": "oversized",
    "dropped_refused": "refused",
    "dropped_limited": "limited",
    "dropped_table_full": "table_full",
    "dropped_own": "own",
    "dropped_proxy": "unproxied",
    "dropped_stopping": "after_stop",
    "dropped_by_system": "by_system",
    "socket_errors": "errors",
}
COUNTERS = tuple(ATTRIBUTES)

#: The losses that are logged: their counters, and what the log calls them.
LOST = {
    "dropped_queue_full": "found a full queue",
    "dropped_oversized": "longer than max_datagram_size",
    "dropped_limited": "beyond a client's limit",
    "dropped_table_full": "of new clients beyond max_applications",
    "dropped_own": "with the address of one of our own sockets as the sender's",
    "dropped_proxy": "without a PROXY header of a trusted proxy",
    "dropped_stopping": "after the stop",
    "dropped_by_system": "dropped by the system, mostly since the receive buffer was full",
    "socket_errors": "failed at the socket",
}

#: Seconds between two tracebacks in the log: anybody who can make a datagram fail can send a million of them.
ERROR_INTERVAL = 1.0


class Traffic:
    """The traffic of one server, over all of its runs.

    Args:
        endpoints: the list of the server's endpoints, which is changed in place.
    """

    def __init__(self, endpoints: list[Any]) -> None:
        self._endpoints = endpoints
        #: What all the sockets read into.
        self.buffers = Buffers()
        #: What endpoints had counted that are closed.
        self._counted = dict.fromkeys(COUNTERS, 0)
        #: Tasks in which an overridden ``async def get_or_create_application_instance`` runs.
        self.creations: set[asyncio.Task[None]] = set()
        #: Done when a socket is lost while the server runs.
        self.lost_socket: asyncio.Future[None] | None = None
        self._next_error = float("-inf")
        self._log = RateLimitedLog(self._log_losses)
        #: What was counted when losses were last logged, and what the system has refused last.
        self._logged = dict(self._counted)
        self._last_error: Exception | None = None

    def count(self) -> dict[str, int]:
        """Return the value of each counter since the server was made."""
        counted = dict(self._counted)
        for endpoint in self._endpoints:
            endpoint.count_drops()
            endpoint.tally()
            for name, attribute in ATTRIBUTES.items():
                counted[name] += getattr(endpoint, attribute)
        return counted

    def settle(self) -> None:
        """Log what was not logged yet, and keep what the endpoints have counted: they are forgotten next."""
        self._log.close()
        self._counted = self.count()

    def lost(self) -> None:
        """Take note that a datagram was counted as lost."""
        self._log.notice()

    def failed(self, error: Exception) -> None:
        """Take note of an error of a socket, which was counted."""
        self._last_error = error
        self._log.notice()

    def failed_after_close(self, error: Exception) -> None:
        """Count and take note of an error of a socket whose endpoint may be forgotten."""
        self._counted["socket_errors"] += 1
        self.failed(error)

    def dropped(self, error: BaseException, data: bytes, client: object) -> None:
        """Log a datagram that was dropped because user code raised, once a second at most."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_error:
            self._next_error = now + ERROR_INTERVAL
            logger.error("a datagram of %d bytes from %r was dropped: %r", len(data), client, error, exc_info=error)

    def _log_losses(self) -> bool:
        counted = self.count()
        before, self._logged = self._logged, counted
        lost = {name: counted[name] - before[name] for name in LOST}
        if not any(lost.values()):
            return False
        text = ", ".join(f"{count:,} {LOST[name]}" for name, count in lost.items() if count)
        if lost["socket_errors"] and self._last_error is not None:
            text += f" (the last one: {self._last_error})"
        logger.warning("datagrams were lost: %s", text)
        return True
