"""Connections that come by a proxy: their requests are those of the client behind it."""

from __future__ import annotations

import asyncio
from typing import Any

from ...wire.address import client_text
from ...wire.proxy.forwarded import NOTHING, Said, said_in
from ...wire.proxy.header import ProxyHeader
from ...wire.proxy.trust import Trusted
from ..net.proxies import each_name, trusted_proxies
from .port import HTTPServerPort
from .protocol import HTTPProtocol


class ProxiedProtocol(HTTPProtocol):
    """A connection to a server that listens to proxies.

    Before an instance is made, scopes have the client that a trusted peer names; nobody else is believed.

    Args:
        header: what came of the PROXY protocol before everything else; it has been found to come from a trusted proxy.
    """

    __slots__ = ("_direct", "_header", "_headers", "_names", "_peer", "_said", "_trusted")

    def __init__(self, server: HTTPServerPort, strict: bool = True, header: ProxyHeader | None = None) -> None:
        super().__init__(server, strict)
        self._header = None if header is None or header.direct else header
        #: The headers that are read, and what they said last.
        self._names: frozenset[bytes] = frozenset()
        self._headers: list[tuple[bytes, bytes]] = []
        self._said: Said = NOTHING
        #: What scopes say if no header says anything.
        self._direct: dict[str, Any] = {}
        self._trusted: Trusted = trusted_proxies(server.forwarded_allow_ips)
        #: The peer, for the access log.
        self._peer = "-"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        template = self.template
        if self._header is not None:
            template["client"], template["server"], _ = self._header
            self._client = client_text(self._header.client)
        self._peer = self._client
        if self.server.proxy_headers and self._trusts(template["client"], template["server"]):
            self._names = frozenset(name.encode() for name in each_name(self.server.forwarded_headers))
            self._direct = {name: template[name] for name in ("client", "scheme", "server", "root_path")}
            self.amends = True

    def _trusts(self, client: Any, server: Any) -> bool:
        """Return whether the peer, which may be the client that a proxy has named, is a proxy that is believed."""
        if self._header is None and server is not None and server[1] is None:
            return self._trusted.has_unix(server[0])
        return self._trusted.has_host("" if client is None else client[0])

    def amend(self, template: dict[str, Any]) -> None:
        if self._names:
            headers = [header for header in self.parser.headers if header[0] in self._names]
            if headers != self._headers:
                self._headers = headers
                self._said = said_in(headers, self._trusted) if headers else NOTHING
            said = self._said
            template.update(self._direct)
            if said is not NOTHING:
                self._apply(said, template)
            self._client = client_text(template["client"])
        if template["root_path"]:
            super().amend(template)

    @staticmethod
    def _apply(said: Said, template: dict[str, Any]) -> None:
        if said.client is not None:
            template["client"] = said.client
        if said.scheme is not None:
            template["scheme"] = said.scheme
        server = said.server(template["scheme"])
        if server is not None:
            template["server"] = server
        elif said.port is not None and template["server"] is not None and template["server"][1] is not None:
            template["server"] = template["server"][0], said.port
        template["root_path"] = said.prefix + template["root_path"]

    def answer(self, status: int, text: str, fields: bytes = b"", *, read: bool = False) -> None:
        if self.exchange is None and not read:
            # Of a request that was not read, and so has no client yet: that of the one before is another one's.
            self._client = self._peer
        super().answer(status, text, fields, read=read)
