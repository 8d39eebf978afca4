"""Byte streams for ASGI applications: TCP, TLS and Unix sockets."""

from .server import Listener, ListenError, StreamServer

__all__ = ["ListenError", "Listener", "StreamServer"]
