"""What asyncio's transports do not do by themselves: addresses as ASGI has them, progress, resets, large writes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any

from ...wire.address import from_socket_address

#: Linux's struct tcp_info, as far as it is read: packets not acknowledged, bytes acknowledged, bytes not sent.
TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
UNACKNOWLEDGED, ACKNOWLEDGED, NOT_SENT = slice(24, 28), slice(120, 128), slice(144, 148)

#: In 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1 asyncio's `writelines` never pauses its caller (CVE-2024-12254).
WRITELINES_PAUSES = (
    sys.version_info < (3, 12) or (3, 12, 9) <= sys.version_info < (3, 13) or sys.version_info >= (3, 13, 2)
)


def asgi_address(address: Any) -> tuple[str, int | None] | None:
    """Return a socket's address as ASGI has it: (path, None) for a Unix socket, None for one without a name."""
    if isinstance(address, tuple) and len(address) >= 2:
        return address if len(address) == 2 else from_socket_address(address)
    if isinstance(address, bytes):
        address = address.decode("utf-8", "surrogateescape")
    return (address, None) if address else None


def send_progress(transport: Any) -> int | None:
    """Return a number that grows by one with each byte that the client takes; None if it has taken all.

    Where the system tells, it is what the client has acknowledged: a transport does not see what is in the system's
    buffers, nor one with TLS what is in those of the transport below. Elsewhere it is minus what the transport holds.
    """
    size: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if TCP_INFO is not None and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        info = b""
        with contextlib.suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, NOT_SENT.stop)
        if len(info) >= NOT_SENT.stop:
            if not size and not any(info[UNACKNOWLEDGED]) and not any(info[NOT_SENT]):
                return None
            return int.from_bytes(info[ACKNOWLEDGED], sys.byteorder)
    return -size if size else None


def may_say_goodbye(transport: Any) -> bool:
    """Return whether a TLS connection is open whose client has taken everything: closing it loses nothing.

    Whoever closes a connection asks this once nothing more comes: without TLS a half of it is closed at once instead.
    """
    tls = transport.get_extra_info("ssl_object") is not None
    return tls and not transport.is_closing() and send_progress(transport) is None


def has_gone(transport: Any) -> bool:
    """Return whether the other side has closed a connection altogether, or the system has given it up.

    Event loops do not notice that of a connection whose input has ended, unless there is something to write.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return True
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    # Errors and hang-ups are always told of.
    poll.register(sock.fileno(), 0)
    return bool(poll.poll(0))


def reset_on_close(transport: Any) -> None:
    """Make the system reset a TCP connection when it is closed, so that its end does not look like an orderly one."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def write_parts(transport: Any, parts: Iterable[bytes]) -> None:
    """Write several parts without joining them first, where that is safe."""
    # Of a connection that is lost, asyncio's `writelines` may register the descriptor once more (gh-136234).
    if WRITELINES_PAUSES and not transport.is_closing():
        transport.writelines(parts)
    else:
        transport.write(b"".join(parts))
