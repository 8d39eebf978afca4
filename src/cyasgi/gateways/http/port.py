"""What the parts of the HTTP gateway know of each other: connections of the server, exchanges of their connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..net.port import ConnectionServer
from ..net.proxies import Names

if TYPE_CHECKING:
    from ...wire.http.request import HeadLimits, HeadParser
    from ...wire.http.scope import HTTPError, Scope


class RequestLog(Protocol):
    """An access log."""

    def add(
        self,
        client: str,
        method: str,
        target: bytes,
        version: str,
        status: int,
        size: int,
        took: float,
        headers: Iterable[tuple[bytes, bytes]],
        lines: bytes,
    ) -> None:
        """Log one request, as `cyasgi.gateways.access_formats.Entry` describes it."""

    def tick(self, second: int) -> None:
        """Write what has been collected; `second` is the time, in seconds since the epoch."""

    def flush(self) -> None:
        """Write what has been collected."""


class HTTPServerPort(ConnectionServer, Protocol):
    """The server, as connections of HTTP and WebSockets know it; `HTTPServer` documents the settings.

    It is the server itself rather than a copy of its settings, since they may be changed while it runs and its methods
    may be overridden.
    """

    #: Counters of `HTTPServer.stats`.
    requests: int
    websockets: int
    timeouts: int
    bad_requests: int
    #: Bytes of incomplete heads, on all connections together.
    partial_heads: int
    #: Header lines of every response as of now, each with CRLF before it.
    common_fields: bytes
    #: What every scope gets a shallow copy of; None for no such key.
    state: dict[str, Any] | None
    #: What is copied into every scope as ``scope["asgi"]``.
    asgi: dict[str, str]
    #: Where what is served is counted; see `cyasgi._common.cells`.
    cells: memoryview | None
    #: Whether no new connection is served.
    stopping: bool
    #: Whether messages of applications need not pass through `application_send`.
    direct: bool
    #: Return how many instances there are.
    count_instances: Callable[[], int]
    head_limits: HeadLimits

    @property
    def log(self) -> RequestLog | None: ...
    @property
    def keep_alive_timeout(self) -> float: ...
    @property
    def request_timeout(self) -> float | None: ...
    @property
    def header_timeout(self) -> float: ...
    @property
    def body_timeout(self) -> float: ...
    @property
    def write_timeout(self) -> float: ...
    @property
    def min_rate(self) -> int: ...
    @property
    def max_body_size(self) -> int | None: ...
    @property
    def max_partial_heads(self) -> int: ...
    @property
    def max_applications(self) -> int | None: ...
    @property
    def root_path(self) -> str: ...
    @property
    def proxy_headers(self) -> bool: ...
    @property
    def forwarded_headers(self) -> Names: ...
    @property
    def forwarded_allow_ips(self) -> Names: ...
    @property
    def retry_after(self) -> bytes: ...
    @property
    def cancel_on_disconnect(self) -> bool: ...
    @property
    def request_id_header(self) -> str | None: ...
    @property
    def websocket_protocol_class(self) -> Any: ...
    @property
    def websockets_only(self) -> bool: ...
    @property
    def max_websocket_message_size(self) -> int | None: ...
    @property
    def max_pushed(self) -> int: ...
    @property
    def max_pushed_bytes(self) -> int: ...
    @property
    def max_websocket_queue(self) -> int: ...
    @property
    def websocket_handshake_timeout(self) -> float: ...
    @property
    def websocket_close_timeout(self) -> float: ...
    @property
    def websocket_ping_interval(self) -> float | None: ...
    @property
    def websocket_ping_timeout(self) -> float | None: ...
    @property
    def websocket_compression(self) -> bool: ...

    def connection_opened(self, connection: Any) -> None:
        """Count a connection that begins."""

    def connection_closed(self, connection: Any) -> None:
        """Forget a connection that has ended, or has been handed to another protocol."""

    def connection_upgraded(self, connection: Any) -> None:
        """Take on a connection that was handed over by another protocol, and was counted with that."""

    def refuse_request(self, scope: Scope) -> bool:
        """Return whether a request is to be refused at `max_applications`."""

    def refused_request(self, error: HTTPError) -> None:
        """Count a malformed request."""

    def add_root_path(self, scope: dict[str, Any]) -> None:
        """Put the root path before the path of a scope."""

    def common_fields_without(self, date: int, server: int) -> bytes:
        """Return `common_fields` for a response that has a Date, or a Server, of its own."""

    def get_or_create_application_instance(self, scope_id: Any, scope: Any) -> Any:
        """Return the instance of this id, made for this scope if there is none."""

    def delete_application_instance(self, scope_id: Any) -> Any:
        """Cancel and remove the instance of this id."""


class ExchangeConnection(Protocol):
    """The connection, as its exchange knows it."""

    #: Whether the transport takes no more for now.
    paused: bool
    #: Whether no request is taken after this one.
    last: bool
    #: The header line with the id of the request, with CRLF before it; None for no ids.
    id_line: bytes | None
    transport: Any
    parser: HeadParser
    #: What is still to come of the body of the request; None if nothing is.
    body: Any

    @property
    def server(self) -> HTTPServerPort: ...

    async def writable(self) -> None:
        """Return when writing was resumed or the connection was lost."""

    def can_discard(self, more: bool) -> bool:
        """Return whether the connection can go on although the body of the request is not complete."""

    def pause_reading(self) -> None:
        """Read nothing more for now: the application does not keep up."""

    def resume_reading(self) -> None:
        """Read on."""

    def response_complete(self, exchange: Any) -> None:
        """Take on the next request: all of the response was written."""

    def answer(self, status: int, text: str, fields: bytes = b"") -> None:
        """Answer in the application's stead and close."""

    def abort(self) -> None:
        """Cut the connection, so that an incomplete response does not seem complete."""
