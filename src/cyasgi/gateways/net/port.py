"""A server, as whatever accepts its connections knows it."""

from __future__ import annotations

from contextvars import Context
from typing import Protocol

from .deadlines import Deadlines


class ConnectionServer(Protocol):
    """A server that is given connections."""

    deadlines: Deadlines
    #: A context that belongs to no application, for what none has started.
    outside: Context
    #: Connections and requests refused for want of room.
    refused: int
    #: Connections refused because no trusted proxy has said for whom they come.
    proxy_refused: int

    @property
    def first_byte_timeout(self) -> float | None: ...
    @property
    def tls_handshake_timeout(self) -> float: ...

    def connections_left(self) -> float:
        """Return how many more connections may be open; below 0 if there are too many."""

    def cannot_accept(self, error: OSError) -> None:
        """Log that the system has nothing left for another connection."""
