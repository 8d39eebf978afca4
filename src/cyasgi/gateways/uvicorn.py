"""cyasgi's HTTP under uvicorn: ``uvicorn app:app --http cyasgi.gateways.uvicorn:Protocol``.

uvicorn is in charge of sockets, lifespan, signals, workers and WebSockets; the protocol here is in charge of requests:
parsing and strictness, limits and deadlines, backpressure, and an instance for each request. Of uvicorn's options it
respects ``interface``, ``root_path``, ``limit_concurrency`` (requests at a time), ``timeout_keep_alive``,
``access_log``, ``date_header``, ``server_header``, ``headers`` and ``reset_contextvars``; and, since it counts
connections, tasks and requests as uvicorn's own protocols do, ``limit_max_requests`` and ``timeout_graceful_shutdown``.
cyasgi's own limits are class attributes of `Server`: to change one, subclass `Server` and `Protocol`, and give the
latter to uvicorn.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, ClassVar

from ..wire.http.scope import (
    ASGI,
    HTTPError,
    Scope,
)
from .http.exchange import Exchange
from .http.protocol import HTTPProtocol
from .http.server import HTTPServer

logger = logging.getLogger("uvicorn.error")
access_logger = logging.getLogger("uvicorn.access")

#: uvicorn's level below DEBUG (`--log-level trace`).
TRACE = 5
NO_WEBSOCKETS = (
    "No supported WebSocket library detected. Please use \"pip install 'uvicorn[standard]'\", "
    "or install 'websockets' or 'wsproto' manually."
)


class AccessLog:
    """uvicorn's access log, in its format and on its logger."""

    def add(self, client: str, method: str, target: bytes, version: str, status: int, *further: Any) -> None:
        """Log one request, unless it was malformed."""
        if method:
            access_logger.info('%s - "%s %s HTTP/%s" %d', client, method, target.decode("latin-1"), version, status)

    def tick(self, second: int) -> None:
        """Do nothing: each line was logged at once."""

    def flush(self) -> None:
        """Do nothing: each line was logged at once."""


class Server(HTTPServer):
    """What the connections of one uvicorn server share: instances, limits, deadlines. It is never run.

    Args:
        config, server_state, app_state: as uvicorn gives them to its protocols.
    """

    websocket_protocol_class: Any = None

    def __init__(self, config: Any, server_state: Any, app_state: Any) -> None:
        super().__init__(config.loaded_app, config.limit_concurrency)
        self.config = config
        self.server_state = server_state
        self.state = app_state
        # Older versions of uvicorn have no such option.
        self.reset_contextvars: bool = getattr(config, "reset_contextvars", False)
        self.asgi = {**ASGI, "version": config.asgi_version}
        self.connections = server_state.connections
        self.keep_alive_timeout = max(config.timeout_keep_alive, 0.001)
        # Not checked: uvicorn accepts any text.
        self.__dict__["root_path"] = config.root_path
        if config.access_log and access_logger.hasHandlers():
            self.log = AccessLog()
        self._headers: Any = None
        self._tick()

    def _tick(self) -> None:
        # uvicorn makes a new list each second.
        headers = self.server_state.default_headers
        if headers is not self._headers:
            self._headers = headers
            self.common_fields = b"".join(b"\r\n%b: %b" % header for header in headers)

    def common_fields_without(self, date: int, server: int) -> bytes:
        taken = {name for given, name in ((date, b"date"), (server, b"server")) if given}
        return b"".join(b"\r\n%b: %b" % header for header in self._headers if header[0].lower() not in taken)

    def refused_request(self, error: HTTPError) -> None:
        super().refused_request(error)
        logger.warning("Invalid HTTP request received: %s", error)

    def refuse_request(self, scope: Scope) -> bool:
        logger.warning("Exceeded concurrency limit.")
        return True

    async def application_exception(self, exception: BaseException, application_details: Any) -> None:
        logger.error("Exception in ASGI application\n", exc_info=exception)


class Protocol(HTTPProtocol):
    """A connection of a uvicorn server.

    Args:
        config, server_state, app_state: a `uvicorn.Config`, what the server counts by, and the lifespan's state.
    """

    __slots__ = ()
    server: Any

    #: The class of what the connections of a server share.
    server_class: ClassVar[type[Server]] = Server

    def __init__(
        self, config: Any, server_state: Any, app_state: Any, _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        if not config.loaded:
            config.load()
        # Kept where all protocols of a server find it, and no longer than those.
        server = vars(server_state).get("cyasgi")
        if server is None or server.config is not config:
            server = server_state.cyasgi = self.server_class(config, server_state, app_state)
        super().__init__(server)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._trace("HTTP connection made")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._trace("HTTP connection lost")

    def _trace(self, what: str) -> None:
        if logger.isEnabledFor(TRACE):
            client = self.template["client"]
            prefix = "{}:{} - ".format(*client) if client else ""
            logger.log(TRACE, "%s%s", prefix, what)

    def shutdown(self) -> None:
        """Take no further request; called by uvicorn when it stops."""
        self.begin_shutdown()

    def begin_request(self, head: bytes, rest: bytes = b"") -> None:
        if self.server.reset_contextvars:
            contextvars.Context().run(super().begin_request, head, rest)
        else:
            super().begin_request(head, rest)
        exchange = self.exchange
        if exchange is not None and exchange.instance is not None:
            # uvicorn waits for these when it stops, and cancels them after `timeout_graceful_shutdown`.
            tasks = self.server.server_state.tasks
            task = exchange.instance.future
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def response_complete(self, exchange: Exchange) -> None:
        self.server.server_state.total_requests += 1
        super().response_complete(exchange)

    def upgrade(self, scope: Scope, rest: bytes) -> bool:
        parser, server = self.parser, self.server
        make = server.config.ws_protocol_class
        if make is None or parser.upgrade != b"websocket" or parser.method != "GET" or self.body is not None:
            logger.warning("Unsupported upgrade request.")
            if make is None:
                logger.warning(NO_WEBSOCKETS)
            return False
        self._trace("Upgrading to WebSocket")
        # uvicorn's protocols for WebSockets parse the request again.
        lines = [
            b"GET %b HTTP/1.1\r\n" % parser.target,
            *(b"%b: %b\r\n" % header for header in parser.headers if header[0] != b"upgrade"),
            # They accept no list here.
            b"upgrade: websocket\r\n\r\n",
        ]
        data = b"".join((*lines, rest or self.buffer))
        protocol = make(config=server.config, server_state=server.server_state, app_state=server.state)
        transport = self.transport
        self.hand_over()
        protocol.connection_made(transport)
        protocol.data_received(data)
        transport.set_protocol(protocol)
        return True
