"""Sans-I/O WebSockets: frames and handshakes as bytes and messages."""

from .connection import (
    CLOSED,
    CLOSING,
    CONNECTING,
    MAX_MESSAGE_SIZE,
    MAX_REASON,
    OPEN,
    RESPONDING,
    WebSocket,
    WebSocketClosed,
)

__all__ = [
    "CLOSED",
    "CLOSING",
    "CONNECTING",
    "MAX_MESSAGE_SIZE",
    "MAX_REASON",
    "OPEN",
    "RESPONDING",
    "WebSocket",
    "WebSocketClosed",
]
