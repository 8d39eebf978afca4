"""HTTP/1.1 and HTTP/1.0 for ASGI, sans-I/O: what a request and a response are on the wire (RFC 9110, RFC 9112).

A request comes in by two objects: `cyasgi.wire.http.request.HeadParser` finds and checks the head, and `LengthBody` or
`ChunkedBody` of `cyasgi.wire.http.body` extracts the body from what follows it. Neither looks beyond the end of a
message, so what follows an ambiguous request is never taken for another one. `cyasgi.wire.http.response` encodes what
goes out. Errors are split by whose fault they are: `HTTPError` is the client's, and names the answer to give;
`TypeError` and `ValueError` are the application's.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from ...core.backend import backend
from .errors import HTTPError as HTTPError

if TYPE_CHECKING or backend == "python":
    from ._scope_py import Scope as Scope
else:
    from ._head import Scope as Scope

#: The version of the ASGI HTTP and WebSocket specification that scopes of requests name. From 2.4 on an application
#: learns from the error of `send` that its client has gone, and Starlette no longer waits for ``http.disconnect`` while
#: it streams: a stream with nothing to send would never end.
SPEC_VERSION = "2.3"
#: The version that scopes of WebSockets name: their applications receive in any case.
WEBSOCKET_SPEC_VERSION = "2.4"

REASONS: dict[int, bytes] = {status.value: status.phrase.encode() for status in HTTPStatus}

ASGI = {"version": "3.0", "spec_version": SPEC_VERSION}


def websocket_scope(scope: Scope, subprotocols: list[str]) -> Scope:
    """Return the ``websocket`` scope for a request with this ``http`` scope (ASGI, "WebSocket Connection Scope")."""
    found = Scope(scope)
    found["type"] = "websocket"
    found["asgi"] = {**scope["asgi"], "spec_version": WEBSOCKET_SPEC_VERSION}
    found["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    found["subprotocols"] = subprotocols
    found["extensions"] = {"websocket.http.response": {}}
    if "tls" in scope["extensions"]:
        found["extensions"]["tls"] = scope["extensions"]["tls"]
    found.pop("method", None)
    return found


def error_response(status: int, text: str, common: bytes = b"", fields: bytes = b"") -> bytes:
    """Return a complete response of the server's own, after which the connection is closed.

    Args:
        common: header lines of all responses, each with CRLF before it.
        fields: further header lines, each with CRLF after it.
    """
    body = text.encode("utf-8", "replace") + b"\n"
    return b"".join(
        (
            b"HTTP/1.1 %d %s%s\r\n" % (status, REASONS.get(status, b""), common),
            fields,
            b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            body,
        )
    )
