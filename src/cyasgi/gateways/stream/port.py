"""What the parts of the stream gateway know of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..net.port import ConnectionServer
from .fast_path import Traffic

if TYPE_CHECKING:
    from ...wire.stream import Framing


class StreamServerPort(ConnectionServer, Protocol):
    """The server, as its connections and sessions know it; `StreamServer` documents the settings."""

    #: Counters of `StreamServer.stats`.
    streams: int
    traffic: Traffic
    bad_messages: int
    timeouts: int
    overloaded: int
    #: Sessions whose client may come back.
    away: set[Any]
    #: Bytes that have come and wait, on all connections together.
    waiting_bytes: int
    #: What every scope gets a shallow copy of; None for no such key.
    state: dict[str, Any] | None
    #: Where what is served is counted; see `cyasgi._common.cells`.
    cells: memoryview | None
    #: Whether the server stops.
    stopping: bool
    #: Whether messages of applications need not pass through `application_send`.
    direct: bool
    #: Whether an instance is chosen by the first message of a connection.
    by_first_message: bool
    #: Makes the framing of a connection, and its name.
    make_framing: Callable[[int], Framing]
    framing_name: str

    @property
    def max_message_size(self) -> int: ...
    @property
    def max_waiting_bytes(self) -> int: ...
    @property
    def max_pushed(self) -> int: ...
    @property
    def max_pushed_bytes(self) -> int: ...
    @property
    def message_timeout(self) -> float | None: ...
    @property
    def silence_timeout(self) -> float | None: ...
    @property
    def reconnect_timeout(self) -> float: ...
    @property
    def write_timeout(self) -> float: ...
    @property
    def min_rate(self) -> int: ...

    def connection_opened(self, connection: Any) -> None:
        """Count a connection that begins."""

    def connection_closed(self, connection: Any) -> None:
        """Forget a connection that has ended."""

    def count_refused(self, reason: str) -> None:
        """Count a connection that is closed for want of room, or by `scope_id`."""

    def is_sampled(self) -> bool:
        """Return whether it is this message's turn to be observed: that of one in `SAMPLED_ONE_IN`."""

    def begin(self, connection: Any, first_message: Any) -> None:
        """Give a connection its session: a new one, or one that has waited for the client to come back."""

    def framing_failed(self, error: Exception) -> None:
        """Log that a framing has raised what it must not."""

    def scope_id(self, connection: Any, first_message: Any) -> Any:
        """Return the id of the instance of a connection; None to close it."""

    def get_or_create_application_instance(self, scope_id: Any, scope: Any) -> Any:
        """Return the instance of this id, made for this scope if there is none."""

    def end_instance(self, instance: Any) -> None:
        """Cancel and remove an instance, if it is still in the table."""
