"""UDP datagrams for ASGI applications."""

from ..net.sockets import ListenError
from .batches import DatagramScope
from .server import DatagramServer
from .traffic import COUNTERS

__all__ = ["COUNTERS", "DatagramScope", "DatagramServer", "ListenError"]
