"""ASGI for datagrams: the scope and the two messages, specified in the manner of ASGI.

Datagram connection scope
-------------------------

Datagrams have no connection. A scope stands for all datagrams that the server counts as one conversation: by default
those from one client address to one of the server's addresses. It begins with the first of them. No message marks its
end: the server forgets a conversation when it needs the room, or when it has been idle for too long, and cancels the
application. The application may also return when it has nothing more to say; the next datagram begins a new scope.

* ``type`` (*Unicode string*) - ``"datagram"``.
* ``asgi["version"]`` (*Unicode string*) - version of the ASGI specification, ``"3.0"``, or
  ``"2.0"`` for an application that is called as in ASGI 2.
* ``asgi["spec_version"]`` (*Unicode string*) - version of this text, ``"1.0"``.
* ``server`` (*two-item iterable*) - host (a numeric address) and port that the first datagram was sent to, as the
  socket is bound: ``0.0.0.0`` or ``::`` if it is bound to every interface.
* ``client`` (*two-item iterable*) - host (a numeric address) and port that the first datagram came from. A
  link-local IPv6 host carries its zone: ``fe80::1%2``.

Receive - ``datagram.receive`` event
------------------------------------

* ``type`` (*Unicode string*) - ``"datagram.receive"``.
* ``data`` (*byte string*) - the payload of one datagram, whole; it may be empty.
* ``client`` (*two-item iterable*) - where this datagram came from: the scope's client, unless one scope serves several.
* ``server`` (*two-item iterable*) - where it was sent to: the scope's server, unless one scope serves several.

Send - ``datagram.send`` event
------------------------------

* ``type`` (*Unicode string*) - ``"datagram.send"``.
* ``data`` (*byte string*) - the payload of one datagram, at most 65,507 bytes; it may be empty.
* ``client`` (*two-item iterable*) - where to send it, with a numeric host. Optional; the scope's client if missing.
* ``server`` (*two-item iterable*) - which of the server's addresses to send it from. Optional; the scope's if missing.

UDP loses and reorders datagrams: when a send returns, the datagram was handed to the system, and no more than that.
"""

from __future__ import annotations

from typing import Any

from .address import check_address
from .messages import check_type

#: The largest payload of a UDP datagram over IPv4, in bytes: 65,535 less 8 for UDP's header and 20 for IP's (RFC 768).
MAX_DATA = 65_507

SPEC_VERSION = "1.0"


def scope_fields(server: tuple[str, int], client: tuple[str, int] | None) -> dict[str, Any]:
    """Return what a new scope holds."""
    return {
        "type": "datagram",
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "server": server,
        "client": client,
    }


def parse_send(message: Any) -> tuple[bytes, tuple[str, int] | None, tuple[str, int] | None]:
    """Return the data, client and server of a ``datagram.send`` message; None for an address that it leaves out.

    Raises:
        TypeError: the message is not a dict, its data are not bytes, or an address is not (host, port).
        ValueError: it is another type of message, has no data or more than fits, or a port is out of range.
    """
    check_type(message, ("datagram.send",), "a datagram scope")
    if "data" not in message:
        raise ValueError("a 'datagram.send' message must have 'data'")
    data = message["data"]
    if not isinstance(data, bytes):
        raise TypeError(f"'data' of a 'datagram.send' message must be bytes, got {type(data).__name__}")
    if len(data) > MAX_DATA:
        raise ValueError(f"'data' of a 'datagram.send' message must be at most {MAX_DATA} bytes, got {len(data)}")
    client, server = message.get("client"), message.get("server")
    return (
        data,
        None if client is None else check_address(client, "'client' of a 'datagram.send' message"),
        None if server is None else check_address(server, "'server' of a 'datagram.send' message"),
    )
