"""WebSockets for ASGI applications."""

from .server import Listener, ListenError, WebSocketServer

__all__ = ["ListenError", "Listener", "WebSocketServer"]
