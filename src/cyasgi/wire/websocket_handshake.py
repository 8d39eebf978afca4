"""The opening handshake of a WebSocket: the request looked at, the answers to it as bytes. Sans-I/O.

Negotiation is the `websockets` library's (RFC 6455 section 4.2, RFC 7692 for compression).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

HeaderList = list[tuple[bytes, bytes]]

#: RFC 9110 section 5.6.2.
is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
#: RFC 9110 section 5.5, bytes above ASCII included.
is_field_value = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch

#: What the handshake itself decides.
RESERVED_BY_HANDSHAKE = frozenset(
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
#: What the end of a refused handshake decides: the connection is closed after the response.
RESERVED_BY_RESPONSE = frozenset({b"connection", b"transfer-encoding", b"upgrade"})

#: A window of 4 KiB and memory level 5 as the library's own server has: 64 KiB for each connection instead of 316.
COMPRESSION = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)


def check_headers(headers: Any, reserved: frozenset[bytes], kind: str) -> HeaderList:
    """The headers of an ASGI message, as they may be written into a response.

    Raises:
        TypeError: they are no iterable of pairs of byte strings.
        ValueError: a name or a value holds what it must not, CR, LF and NUL above all, or a name is the server's own.
    """
    checked: HeaderList = []
    for header in headers:
        name, value = header
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise TypeError(f"each of the 'headers' of a {kind!r} message must be a pair of bytes, got {header!r}")
        if not is_token(name):
            raise ValueError(f"the header name {name!r} in a {kind!r} message is not a token (RFC 9110 section 5.6.2)")
        if not is_field_value(value):
            raise ValueError(f"the value {value!r} of the header {name!r} in a {kind!r} message has control characters")
        if name.lower() in reserved:
            raise ValueError(f"the header {name!r} in a {kind!r} message is the server's to set")
        checked.append((name, value))
    return checked


def response_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Status line and headers, which were checked, up to the empty line."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())]
    lines += [b"%s: %s\r\n" % header for header in headers]
    lines.append(b"\r\n")
    return b"".join(lines)


def plain_response(status: int, text: str = "", headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A complete response, after which the connection is closed."""
    body = text.encode()
    return (
        response_head(
            status,
            [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
                *headers,
            ],
        )
        + body
    )


def _invalid(status: int, error: Exception | None) -> bytes:
    # What the client sent is part of the text.
    return plain_response(status, f"This is no valid WebSocket handshake: {str(error)[:200]}.\n")


class Handshake:
    """A request that asks for a WebSocket, and what accepts or refuses it.

    Args:
        headers: the request's, names in lower case. Method, HTTP version and Host were looked at before.
        compression: whether permessage-deflate is accepted from clients that offer it.
    """

    __slots__ = ("accepted", "extensions", "refusal", "subprotocols")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], *, compression: bool = True) -> None:
        fields = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        #: The response to a request that is no valid handshake; None if it is one.
        self.refusal: bytes | None = None
        #: What the client offers, in its order.
        self.subprotocols: list[str] = []
        self.extensions: list[Extension] = []
        self.accepted: HeaderList = []
        version = ", ".join(fields.get_all("Sec-WebSocket-Version"))
        if version != "13":
            # RFC 6455 section 4.4: the answer names the version to try again with.
            text = f"Sec-WebSocket-Version is {version!r}: this server speaks version 13 alone.\n"
            self.refusal = plain_response(426, text, [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")])
            return
        protocol = ServerProtocol(extensions=[COMPRESSION] if compression else None)
        response = protocol.accept(Request("/", fields))
        if response.status_code != 101:
            self.refusal = _invalid(response.status_code, protocol.handshake_exc)
            return
        try:
            for value in fields.get_all("Sec-WebSocket-Protocol"):
                self.subprotocols += parse_subprotocol(value)
        except InvalidHandshake as error:
            self.refusal = _invalid(400, error)
            return
        self.extensions = protocol.extensions
        for name in ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions"):
            if name in response.headers:
                self.accepted.append((name.lower().encode(), response.headers[name].encode()))

    def accept(self, subprotocol: str | None, headers: HeaderList) -> bytes:
        """The response that opens the WebSocket.

        Raises:
            ValueError: the client did not offer this subprotocol (RFC 6455 section 4.2.2, item 5).
        """
        answer = list(self.accepted)
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError(
                    f"subprotocol={subprotocol!r}: accepted is None or what the client offered, {self.subprotocols!r}"
                )
            answer.append((b"sec-websocket-protocol", subprotocol.encode()))
        return response_head(101, answer + headers)
