"""The opening handshake of a WebSocket: the request checked, the answers to it as bytes. Sans-I/O.

Negotiation is the `websockets` library's (RFC 6455 section 4.2, RFC 7692 for compression).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from websockets.datastructures import Headers as RequestHeaders
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

from ..http.response import Fields, encode_fields
from ..http.scope import error_response

#: Headers that the handshake itself sets.
RESERVED = frozenset(
    {
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: A window of 4 KiB and memory level 5, as in the library's own server: 64 KiB for each connection instead of 316.
COMPRESSION = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)


def common_fields(fields: bytes, given: Fields) -> bytes:
    """Return the server's header lines without those that the application has set itself."""
    if not (given.date or given.server):
        return fields
    lines = fields.split(b"\r\n")[1:]
    names = (b"date:",) * given.date + (b"server:",) * given.server
    return b"".join(b"\r\n" + line for line in lines if not line.lower().startswith(names))


def error_status(status: int, text: str, fields: bytes, more: bytes = b"") -> bytes:
    """Return a complete response of the server's own.

    Args:
        fields: header lines of every response, each with CRLF before it.
        more: further header lines, each with CRLF after it.
    """
    return error_response(status, text, fields, more)


def _invalid(status: int, error: Exception | None, fields: bytes) -> bytes:
    # The text contains what the client has sent, and so is cut.
    return error_status(status, f"this is not a valid WebSocket handshake: {str(error)[:200]}", fields)


def _members(value: str) -> list[str]:
    return [member.strip(" \t").lower() for member in value.split(",")]


class Handshake:
    """A request for a WebSocket, and the responses that accept or refuse it.

    Args:
        headers: the request's, with names in lower case. Method, HTTP version and Host were checked before.
        compression: whether permessage-deflate is accepted from clients that offer it.
        fields: header lines of every response, each with CRLF before it.
    """

    __slots__ = ("_accepted", "_fields", "extensions", "refusal", "subprotocols")

    def __init__(
        self, headers: Iterable[tuple[bytes, bytes]], *, compression: bool = True, fields: bytes = b""
    ) -> None:
        request = RequestHeaders((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        if "websocket" in _members(", ".join(request.get_all("Upgrade"))):
            # The client may offer others beside it (RFC 9110 section 7.8), which the library does not accept.
            del request["Upgrade"]
            request["Upgrade"] = "websocket"
        #: The response to a request that is not a valid handshake; None if it is one.
        self.refusal: bytes | None = None
        #: What the client offers, in its order.
        self.subprotocols: list[str] = []
        self.extensions: list[Extension] = []
        self._accepted = b""
        self._fields = fields
        version = ", ".join(request.get_all("Sec-WebSocket-Version"))
        if version != "13":
            # RFC 6455 section 4.4: the answer names the version to try again with.
            text = f"Sec-WebSocket-Version is {version[:200]!r}: accepted is 13"
            self.refusal = error_status(426, text, fields, b"upgrade: websocket\r\nsec-websocket-version: 13\r\n")
            return
        protocol = ServerProtocol(extensions=[COMPRESSION] if compression else None)
        response = protocol.accept(Request("/", request))
        if response.status_code != 101:
            self.refusal = _invalid(response.status_code, protocol.handshake_exc, fields)
            return
        for value in request.get_all("Sec-WebSocket-Protocol"):
            self.subprotocols += parse_subprotocol(value)
        self.extensions = protocol.extensions
        for name in ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions"):
            if name in response.headers:
                self._accepted += f"\r\n{name.lower()}: {response.headers[name]}".encode()

    def accept(self, subprotocol: str | None, headers: Any) -> bytes:
        """Return the response that opens the WebSocket.

        Raises:
            TypeError, ValueError: the headers are malformed (see `cyasgi.wire.http.response.encode_fields`) or set by
                the handshake itself, or the client did not offer this subprotocol (RFC 6455 section 4.2.2, item 5).
        """
        if isinstance(headers, Iterable):
            headers = tuple(headers)
        given = encode_fields(headers)
        for name, _ in headers:
            if name.lower() in RESERVED:
                raise ValueError(f"the header {name!r} of a 'websocket.accept' message is set by the server")
        lines = [b"HTTP/1.1 101 Switching Protocols", common_fields(self._fields, given), self._accepted]
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError(
                    f"subprotocol={subprotocol!r}: accepted is None or what the client offered, {self.subprotocols!r}"
                )
            lines.append(b"\r\nsec-websocket-protocol: " + subprotocol.encode())
        return b"".join((*lines, given.lines, b"\r\n\r\n"))
