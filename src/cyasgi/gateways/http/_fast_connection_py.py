"""The pure twin of the usual course of a connection, as a base class of `HTTPProtocol`."""

from __future__ import annotations

import copy
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from ..._common.cells import REQUESTS
from ..._common.guarding import INTERRUPTS
from ...wire.http.body import LengthBody
from ...wire.http.request import END, decode_path
from ...wire.http.scope import HTTPError, Scope
from .checks import EXTENSIONS
from .phases import (
    DISCARDED,
)

if TYPE_CHECKING:
    import asyncio

    from ...wire.http.body import ChunkedBody
    from ...wire.http.request import HeadParser
    from .port import HTTPServerPort

logger = logging.getLogger("cyasgi.gateways.http")

PERCENT = ord("%")


def count_request(server: HTTPServerPort) -> None:
    """Count a request that an application is run for."""
    server.requests += 1
    if server.cells is not None:
        server.cells[REQUESTS] += 1


class FastConnection:
    """The fields of a connection, and how requests usually begin and end on it. `HTTPProtocol` has the rest."""

    __slots__ = (
        "_began",
        "_client",
        "_limit_body",
        "_linger_until",
        "_reported_progress",
        "_taken",
        "amends",
        "body",
        "buffer",
        "deadline",
        "discarding",
        "due_body",
        "due_request",
        "due_silence",
        "due_write",
        "eof",
        "exchange",
        "id_line",
        "keep_alive_timeout",
        "last",
        "lingering",
        "loop",
        "parser",
        "partial",
        "paused",
        "reading_paused",
        "received",
        "request_id_name",
        "request_timeout",
        "seen",
        "server",
        "template",
        "tls",
        "transport",
        "waiters",
    )
    #: The class of `exchange`.
    exchange_class: ClassVar[Any]
    server: HTTPServerPort
    loop: asyncio.AbstractEventLoop
    parser: HeadParser
    #: The request at work.
    exchange: Any
    #: What is still to come of the body of the request at work, or of the one before if that was not read.
    body: LengthBody | ChunkedBody | None
    #: Whether no request is taken after the one at work.
    last: bool
    #: Received bytes that were not parsed yet.
    buffer: bytearray
    eof: bool
    paused: bool
    waiters: deque[asyncio.Future[None]]
    reading_paused: bool
    #: Deadlines: of the response, the body, a stalled client, and a response to a client that has closed its half.
    #: That of the body is relative to now while reading is paused.
    due_request: float
    due_body: float
    due_write: float
    due_silence: float
    #: `max_body_size` as of the beginning of the request.
    _limit_body: int | None
    transport: Any
    deadline: Any
    keep_alive_timeout: float
    request_timeout: float | None
    #: The header that has the id of a request, and the line of the response with that of the last one; None for no ids.
    request_id_name: bytes | None
    id_line: bytes | None
    #: Whether `amend` has something to do.
    amends: bool
    #: What all scopes of this connection have in common, and what those of equal heads have.
    template: dict[str, Any]
    #: ASGI's extension ``tls``; None without TLS.
    tls: dict[str, Any] | None
    _client: str

    if TYPE_CHECKING:

        def amend(self, template: dict[str, Any]) -> None: ...
        def identify(self) -> None: ...
        def note_begin(self) -> None: ...
        def note_end(self, status: int, size: int, lines: bytes = b"") -> None: ...
        def refuse(self, error: HTTPError, *, read: bool = False) -> None: ...
        def answer(self, status: int, text: str, fields: bytes = b"", *, read: bool = False) -> None: ...
        def upgrade(self, scope: Scope, rest: bytes) -> bool: ...
        def close(self) -> None: ...
        def linger(self) -> None: ...
        def idle(self) -> None: ...
        def rearm(self) -> None: ...
        def resume_reading(self) -> None: ...
        def _read(self, data: bytes) -> None: ...
        def _open_body(self, rest: bytes) -> bool: ...
        def _begin_body(self, exchange: Any, rest: bytes) -> None: ...
        def _keep(self, rest: bytes) -> None: ...
        def _refuse_instance(self, error: BaseException) -> None: ...

    def data_received(self, data: bytes) -> None:
        if self.exchange is None and self.body is None and not self.buffer and not self.last and not self.paused:
            end = data.find(END) + 4
            if end > 3 and data[0] > 32:
                if end == len(data):
                    self.begin_request(data)
                else:
                    self.begin_request(data[:end], data[end:])
                return
        self._read(data)

    def begin_request(self, head: bytes, rest: bytes = b"") -> None:
        """Begin a request.

        Args:
            head: its head.
            rest: what came behind that, unless it is in the buffer.
        """
        if self.server.log is not None or self.server.cells is not None:
            self.note_begin()
        try:
            another = self.parser.parse(head)
        except HTTPError as error:
            self.refuse(error)
            return
        self.begin_parsed(another, rest)

    def begin_parsed(self, another: bool, rest: bytes) -> None:
        """Begin a request whose head the parser has read.

        Args:
            another: whether the head differs from the one before it.
            rest: what came behind it, unless it is in the buffer.
        """
        parser, server = self.parser, self.server
        template = self.template
        # Before anything is answered: a proxy may name the client, whom the access log is to have.
        if another:
            self._describe(template)
        if self.request_id_name is not None:
            self.identify()
        try:
            whole = self._open_body(rest)
        except HTTPError as error:
            self.refuse(error, read=True)
            return
        scope = Scope(template)
        scope["headers"] = parser.headers
        # An application may write into these: each has its own.
        scope["asgi"] = server.asgi.copy()
        extensions: dict[str, Any] = {name: {} for name in EXTENSIONS}
        scope["extensions"] = extensions
        if self.tls is not None:
            extensions["tls"] = copy.deepcopy(self.tls)
        if server.state is not None:
            scope["state"] = server.state.copy()
        if (parser.upgrade or server.websockets_only) and self.upgrade(scope, rest):
            return
        exchange = self.exchange_class(
            self, parser.version, parser.method == "HEAD", parser.keep_alive, self.body is None
        )
        if whole:
            exchange.take_body(rest)
        scope.connection = exchange
        self.exchange = exchange
        limit = server.max_applications
        try:
            if limit is not None and server.count_instances() >= limit and server.refuse_request(scope):
                server.refused += 1
                self.answer(503, "the server is busy", server.retry_after)
                return
            instance = server.get_or_create_application_instance(exchange, scope)
            # With an eager task factory it may have ended already.
            if not instance.ended:
                exchange.begin(instance, server.direct)
        except INTERRUPTS:
            raise
        except BaseException as error:
            self._refuse_instance(error)
            return
        self.deadline.due = math.inf
        count_request(server)
        if self.request_timeout is not None:
            self.due_request = server.deadlines.now + self.request_timeout
            self.rearm()
        if self.body is not None:
            self._begin_body(exchange, rest)
        elif (rest and not whole) or self.buffer:
            self._keep(rest)

    def _describe(self, template: dict[str, Any]) -> None:
        """Write into the template what the scopes of equal heads have in common."""
        parser = self.parser
        path = parser.path
        template["method"] = parser.method
        template["path"] = decode_path(path) if PERCENT in path else path.decode("ascii", "replace")
        template["raw_path"] = path
        template["query_string"] = parser.query
        template["http_version"] = parser.version
        if self.amends:
            self.amend(template)

    def response_complete(self, exchange: Any) -> None:
        """Take on the next request; called by the exchange when all of its response was written."""
        self.exchange = None
        if self.server.log is not None or self.server.cells is not None:
            self.note_end(exchange.status, exchange.sent, exchange.header_lines())
        self.due_request = math.inf
        if not exchange.keep_alive or self.last:
            if self.body is None and not self.buffer:
                self.close()
            else:
                self.linger()
        elif self.body is None:
            if self.buffer or self.paused or self.eof or self.reading_paused:
                self.idle()
            else:
                # As `idle` does, for one call less.
                deadline = self.deadline
                deadline.due = due = self.server.deadlines.now + self.keep_alive_timeout
                if due < deadline.listed:
                    deadline.relist()
        elif isinstance(self.body, LengthBody) and self.body.remaining > DISCARDED:
            self.linger()
        else:
            self.discarding = True
            self.received = 0
            self.resume_reading()
            self.due_body = self.server.deadlines.now + self.server.body_timeout
            self.rearm()
