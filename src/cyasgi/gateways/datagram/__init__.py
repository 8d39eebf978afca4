"""UDP datagrams for ASGI applications."""

from .server import COUNTERS, DatagramScope, DatagramServer

__all__ = ["COUNTERS", "DatagramScope", "DatagramServer"]
