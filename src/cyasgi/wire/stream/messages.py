"""Scopes and messages of streams."""

from __future__ import annotations

from typing import Any

from ..messages import check_type

SPEC_VERSION = "1.0"
#: The messages that an application sends.
KINDS = ("stream.send", "stream.close")


class StreamClosed(OSError):
    """Raised by ``send`` when what is sent can no longer reach the client."""


def scope_fields(server: Any, client: Any, framing: str, tls: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a new scope holds.

    Args:
        tls: ASGI's extension ``tls``; None without TLS.
    """
    return {
        "type": "stream",
        "asgi": {"version": "3.0", "spec_version": SPEC_VERSION},
        "server": server,
        "client": client,
        "framing": framing,
        "extensions": {} if tls is None else {"tls": tls},
    }


def check_message(message: Any) -> str:
    """Return the type of a message that an application has sent to a stream.

    Raises:
        TypeError: the message is not a dict.
        ValueError: it is another type of message, or has no data.
    """
    kind = check_type(message, KINDS, "a stream scope")
    if kind == "stream.send" and "data" not in message:
        raise ValueError("a 'stream.send' message must have 'data'")
    return kind
