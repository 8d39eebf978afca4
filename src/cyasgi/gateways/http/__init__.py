"""HTTP/1.1 for ASGI applications."""

from .fast_path import ClientDisconnected
from .server import HTTPServer, Listener, ListenError

__all__ = ["ClientDisconnected", "HTTPServer", "ListenError", "Listener"]
