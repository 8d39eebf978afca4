"""The listeners of streams: how their addresses are written."""

from __future__ import annotations

from typing import Any

from .values import parse_path, parse_stream_address

#: What click needs to know of ``--tcp``.
TCP_LISTENER: dict[str, Any] = {
    "metavar": "ADDRESS",
    "help": "Serve streams, whose messages --framing tells apart, on HOST:PORT, [IPV6]:PORT, :PORT (every interface), "
    "unix:PATH, or fd://NUMBER or fd://NAME; with TLS if there is a certificate, unless the address begins with "
    "tcp://.",
}


def parse_tcp_address(text: str) -> Any:
    """Return what `parse_stream_address` returns, or the path for ``unix:PATH``."""
    if text.startswith("unix:"):
        return parse_path(text.removeprefix("unix:"))
    return parse_stream_address(text, schemes=("tcp", "tls"))
