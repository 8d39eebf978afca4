"""The pure twin of the usual course of an exchange, as the base class of `Exchange`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ...core import SENT, Pass
from ...wire.headers import encode_lines
from ...wire.http.response import STATUS_LINES
from ...wire.messages import check_type
from ..net.causes import caused_by
from .checks import KINDS, as_bytes, checked_status
from .phases import (
    BODILESS,
    COMPLETE,
    EXPECTED,
    HIGH_WATER,
    JOIN_LIMIT,
    MESSAGE_WEIGHT,
    NO_TRAILERS,
    STARTED,
    STREAMING,
    YIELD_AFTER,
)

if TYPE_CHECKING:
    from .port import ExchangeConnection

logger = logging.getLogger("cyasgi.gateways.http")

PERCENT = ord("%")


class ClientDisconnected(OSError):
    """Raised by ``send`` when the client has gone, or has been answered by the server itself."""


class FastExchange:
    """The fields of an exchange, and what it usually comes to. `Exchange` has the rest."""

    __slots__ = (
        "_asked",
        "_chunked",
        "_delayed",
        "_disconnects",
        "_fields",
        "_left",
        "_parts",
        "_received",
        "_trailers",
        "_trailers_begun",
        "_unbroken",
        "_waiting_bytes",
        "_whole",
        "bodiless",
        "broken_off",
        "disconnected",
        "instance",
        "keep_alive",
        "phase",
        "protocol",
        "sent",
        "sent_in_vain",
        "status",
        "usual",
        "version",
        "waits_for_continue",
    )
    #: None when nothing more is to be sent.
    protocol: ExchangeConnection | None
    #: "1.1" or "1.0".
    version: str
    #: Whether the response has no body, whatever the application sends: it answers HEAD, or is a 204 or 304.
    bodiless: bool
    keep_alive: bool
    #: Whether the shortest way of writing a response will do, as far as the request says.
    usual: bool
    #: Of `.phases`.
    phase: int
    #: Whether the client has gone, or was answered by the server.
    disconnected: bool
    #: Whether the client waits for leave to send its body (``Expect: 100-continue``).
    waits_for_continue: bool
    #: Bytes of the body that were written, and the status; 0 before there is one.
    sent: int
    status: int
    #: Messages sent after the client had gone.
    sent_in_vain: int
    #: Bytes of the body still to come according to Content-Length; -1 without one.
    _left: int
    _chunked: bool
    _unbroken: int
    _trailers: int
    _trailers_begun: bool
    _fields: tuple[bytes, int | None, int]

    if TYPE_CHECKING:

        def _next_disconnect(self) -> Any: ...
        def _continue(self) -> None: ...
        def _disconnect_waiting(self) -> None: ...
        def _cut_short(self, protocol: ExchangeConnection, instance: Any) -> None: ...
        def _send_later(self, message: Any) -> Any: ...
        def _refuse_kind(self, message: Any) -> Any: ...
        def _write_head(self, protocol: ExchangeConnection, body: bytes, more: bool) -> None: ...
        def _write_body(self, protocol: ExchangeConnection, body: bytes, more: bool) -> None: ...
        def _announce_trailers(self, protocol: ExchangeConnection, announced: Any) -> None: ...
        def _send_other(self, protocol: ExchangeConnection, message: Any, kind: Any) -> Any: ...

    def __init__(
        self, protocol: ExchangeConnection, version: str, bodiless: bool, keep_alive: bool, whole: bool
    ) -> None:
        self.protocol = protocol
        self.instance: Any = None
        self.version = version
        self.bodiless = bodiless
        self.keep_alive = keep_alive
        self.usual = keep_alive and not bodiless and version == "1.1"
        self.phase = EXPECTED
        self.disconnected = False
        #: Whether the client had gone before the body of the request was complete.
        self.broken_off = False
        self.sent = 0
        self.status = 0
        #: Parts of the body of the request that wait for the application.
        self._parts: list[bytes] | None = None
        #: Whether all of that body has arrived, and whether the application has received the end of it.
        self._whole = whole
        self._received = False
        #: Whether the application waits, or has waited, for a part of it.
        self._asked = False
        self.waits_for_continue = False
        #: ``http.disconnect`` messages that the application was given, and whether the next one is delayed.
        self._disconnects = 0
        self._delayed = False
        self.sent_in_vain = 0

    def begin(self, instance: Any, direct: bool) -> None:
        """Connect the application's instance, which runs or is about to.

        Args:
            direct: whether what it sends need not pass through the server.
        """
        self.instance = instance
        instance.connect(direct)
        if instance.idle:
            # With an eager task factory it may be waiting already.
            message = self.next_message()
            if message is not None:
                instance.put_nowait(message)

    # What the application receives

    def take_body(self, body: bytes) -> None:
        """Take the whole body of the request, before the application is begun."""
        self._parts = [body]
        self._waiting_bytes = len(body)
        if self._waiting_bytes >= HIGH_WATER and self.protocol is not None:
            self.protocol.pause_reading()

    def next_message(self) -> Any:
        """Return the next message for an application whose queue is empty; None: it has to wait."""
        if self._parts is not None:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = None
            self._received = self._whole
            protocol = self.protocol
            if protocol is not None and not self.disconnected:
                protocol.resume_reading()
            return {"type": "http.request", "body": data, "more_body": not self._whole}
        if self._whole and not self._received:
            self._received = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.disconnected or self.phase == COMPLETE:
            return self._next_disconnect()
        self._asked = True
        if self.waits_for_continue:
            self._continue()
        return None

    def last_message(self) -> Any:
        """Return what is received after the application has ended."""
        return {"type": "http.disconnect"}

    # What the application sends

    def application_send(self, scope: Any, message: Any, waited: bool = False) -> Any:
        """Take a message of the application, and return an awaitable.

        Once the client has gone this does nothing (ASGI, "Error Handling").

        Args:
            waited: whether the connection was found writable just now.

        Raises:
            TypeError, ValueError: the message is malformed; nothing of it was written.
            RuntimeError: another type of message is expected.
            ClientDisconnected: the client has gone, and the application keeps sending.
        """
        protocol = self.protocol
        if (
            protocol is None
            or protocol.paused
            or (self.phase == STREAMING and not waited and protocol.transport.is_closing())
        ):
            return self._send_later(message)
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            check_type(message, KINDS, "an HTTP scope")
            raise
        phase = self.phase
        if kind == "http.response.body":
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = as_bytes(body)
            more = message.get("more_body", False)
            if phase == STARTED:
                if not more and self.usual and len(body) < JOIN_LIMIT:
                    self._write_whole(protocol, body)
                else:
                    self._write_head(protocol, body, more)
            elif phase == STREAMING:
                self._write_body(protocol, body, more)
                self._unbroken += len(body) + MESSAGE_WEIGHT
                if self._unbroken > YIELD_AFTER:
                    self._unbroken = 0
                    return Pass()
            else:
                self._refuse_kind(message)
        elif kind == "http.response.start" and phase == EXPECTED:
            try:
                status = message["status"]
            except KeyError:
                status = None
            if type(status) is not int or status not in STATUS_LINES:
                status = checked_status(status)
            self._fields = encode_lines(message.get("headers", ()))
            self.status = status
            self._trailers = NO_TRAILERS
            if "trailers" in message:
                self._announce_trailers(protocol, message["trailers"])
            self.phase = STARTED
        else:
            return self._send_other(protocol, message, kind)
        return SENT

    def _write_whole(self, protocol: ExchangeConnection, body: bytes) -> None:
        """Write the whole response as `_write_head` does, for the usual case."""
        lines, length, asked = self._fields
        size = len(body)
        if (
            asked
            or self.status in BODILESS
            or protocol.last
            or protocol.id_line is not None
            or protocol.body is not None
            or (length is not None and length != size)
        ):
            self._write_head(protocol, body, False)
            return
        self.sent = size
        protocol.transport.write(
            b"%b%b%b\r\ncontent-length: %d\r\n\r\n%b"
            % (STATUS_LINES[self.status], protocol.server.common_fields, lines, size, body)
        )
        self.complete(protocol)

    # The end

    def complete(self, protocol: ExchangeConnection) -> None:
        self.phase = COMPLETE
        self.protocol = None
        instance = self.instance
        if instance is not None:
            # Whatever the application receives from now on is ``http.disconnect``.
            self._parts = None
            self._whole = self._received = True
            if instance.qsize():
                instance.get_nowait()
                instance.put_nowait({"type": "http.disconnect"})
                self._disconnects = 1
            elif instance.waiting():
                self._disconnect_waiting()
        protocol.response_complete(self)

    def application_ended(self, instance: Any) -> None:
        """End the exchange with its application; called from within the application's last step."""
        self.instance = None
        # An application that got ``http.disconnect`` in the middle of its request may raise anything: Starlette does.
        warned = self.broken_off and self._disconnects > 0 and not instance.qsize()
        if instance.qsize():
            instance.take_all()
        protocol, self.protocol = self.protocol, None
        if protocol is not None and self.phase != COMPLETE:
            self._cut_short(protocol, instance)
        if self.disconnected:
            error = instance.error
            if error is not None and (warned or caused_by(error, ClientDisconnected)):
                logger.debug("the client of %r has gone, and the application raised %r", self, error)
                instance.take_error()
