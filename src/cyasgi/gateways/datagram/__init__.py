"""UDP datagrams for ASGI applications."""

from .server import COUNTERS, DatagramScope, DatagramServer, ListenError

__all__ = ["COUNTERS", "DatagramScope", "DatagramServer", "ListenError"]
