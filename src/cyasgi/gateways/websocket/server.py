"""WebSockets alone: `HTTPServer` for those who serve nothing else."""

from __future__ import annotations

from typing import ClassVar

from ..http.server import (
    HTTPServer,
    Listener as Listener,
    ListenError as ListenError,
)
from .protocol import WebSocketProtocol


class WebSocketServer(HTTPServer):
    """Serve an ASGI application's WebSockets, on TCP, TLS and Unix sockets; any other request is answered 426.

    Each WebSocket is an application instance of its own. At `max_applications` open ones a new one is answered 503;
    override `refuse_request` for any other rule. Arguments and settings are those of `HTTPServer`.

    Raises:
        ImportError: the library ``websockets`` is not installed.
        TypeError, ValueError: as `HTTPServer`.
    """

    websocket_protocol_class = WebSocketProtocol
    websockets_only: ClassVar[bool] = True
