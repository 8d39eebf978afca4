"""One request and its response: what the application receives and what it sends (ASGI, "HTTP")."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ...core import SENT, Pass
from ...core.context import outside
from ...core.describe import describe
from ...wire._headers_py import (
    CLOSE,
    OWN_DATE,
    OWN_SERVER,
)
from ...wire.headers import encode_lines
from ...wire.http.response import (
    CONTINUE,
    LAST_CHUNK,
    STATUS_LINES,
    chunk,
)
from ...wire.messages import check_type

if TYPE_CHECKING:
    from .protocol import HTTPProtocol

logger = logging.getLogger("cyasgi.gateways.http")

#: Bytes of a body that wait for the application before reading is paused.
HIGH_WATER = 65_536
#: A body that is as long is not copied behind its head.
WRITTEN_APART = 65_536

#: In 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1 asyncio's `writelines` never pauses who writes (CVE-2024-12254).
WRITELINES_PAUSES = (
    sys.version_info < (3, 12) or (3, 12, 9) <= sys.version_info < (3, 13) or sys.version_info >= (3, 13, 2)
)

#: Bytes of a file that are read at a time.
FILE_PART = 262_144

#: Statuses whose responses have no body (RFC 9112 section 6.3).
BODILESS = (204, 304)

#: Bytes that an application streams in one go, each message counted as some, before others have their turn.
BREATH = 1_048_576
MESSAGE = 4096

#: How an instance's run ended.
RETURNED, CANCELLED = 1, 3

#: Messages of an application whose client has gone that go nowhere without an error, a turn of the loop for each of the
#: later half; and those telling it so that it receives, a turn of the loop each, before it has to wait UNHEARD_DELAY
#: seconds for each.
UNHEARD = 16
UNHEARD_DELAY = 1.0

#: Where a response stands.
EXPECTED, STARTED, STREAMING, TRAILERS, COMPLETE = range(5)

#: What becomes of an application's trailers: there are none; they go nowhere, as the client cannot take them; they are
#: sent.
NO_TRAILERS, SWALLOWED, SENDING = range(3)

#: The messages of an application.
KINDS = ("http.response.start", "http.response.body", "http.response.trailers", "http.response.pathsend")


class ClientDisconnected(OSError):
    """Raised by ``send`` when the client has gone, or has been answered by the server itself."""


class Exchange:
    """One request and its response; the id of its instance in the server's table."""

    __slots__ = (
        "_asked",
        "_chunked",
        "_continue",
        "_disconnects",
        "_fields",
        "_left",
        "_parts",
        "_received",
        "_telling",
        "_trailers",
        "_trailing",
        "_unbroken",
        "_unheard",
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
        "status",
        "usual",
        "version",
    )
    protocol: HTTPProtocol | None
    _unbroken: int

    def __init__(self, protocol: HTTPProtocol, version: str, bodiless: bool, keep_alive: bool, whole: bool) -> None:
        #: None when nothing more is to be sent.
        self.protocol = protocol
        self.instance: Any = None
        self.version = version
        #: The response has no body, whatever the application sends: it answers HEAD, or is a 204 or 304.
        self.bodiless = bodiless
        self.keep_alive = keep_alive
        #: Nothing speaks against the shortest way of writing a response.
        self.usual = keep_alive and not bodiless and version == "1.1"
        self.phase = EXPECTED
        #: The client has gone, or was answered by the server.
        self.disconnected = False
        #: It was so before the body of the request was there as a whole.
        self.broken_off = False
        #: Bytes of the body of the response.
        self.sent = 0
        self.status = 0
        #: Parts of the body of the request that wait for the application.
        self._parts: list[bytes] | None = None
        #: Whether all of that body has come, and whether the application has received the end of it.
        self._whole = whole
        self._received = False
        #: Whether the application waits, or has waited, for a part of it.
        self._asked = False
        self._continue = False
        self._unheard = self._disconnects = 0
        self._telling = False

    def __repr__(self) -> str:
        return f"<request {id(self):#x}>"

    def begin(self, instance: Any, direct: bool) -> None:
        """The application runs, or is about to, as this instance; `direct`: what it sends need not pass the server."""
        self.instance = instance
        instance._connect(direct)
        if instance.idle:
            # With an eager task factory it may be waiting already.
            message = self.next_message()
            if message is not None:
                instance.put_nowait(message)

    # What the application receives

    def next_message(self) -> Any:
        """Called where the application receives and nothing is queued for it; None: it has to wait."""
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
            return self._end_of_messages()
        self._asked = True
        if self._continue:
            self._continue_now()
        return None

    def last_message(self) -> Any:
        """What is received after the application has ended."""
        return {"type": "http.disconnect"}

    def _end_of_messages(self) -> Any:
        if self._disconnects < UNHEARD:
            self._disconnects += 1
            return {"type": "http.disconnect"}
        # As often as it is asked for; but who never stops asking must not keep the loop to itself.
        self._tell_later()
        return None

    def _tell_later(self) -> None:
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(UNHEARD_DELAY, self._tell_again, context=outside())

    def _tell_again(self) -> None:
        self._telling = False
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        """An application that waits for a message gets to know that none will come."""
        instance = self.instance
        if instance is None or not instance._waiting():
            return
        if not instance.full():
            self._disconnects += 1
            instance.put_nowait({"type": "http.disconnect"})
        if instance._waiting():
            if self._disconnects < UNHEARD:
                self._soon(self._tell_waiting)
            else:
                self._tell_later()

    def feed(self, data: bytes, more: bool) -> None:
        """A part of the body has come; while the one before it was not taken, parts are joined."""
        instance = self.instance
        if instance is None or self.phase == COMPLETE or self.disconnected:
            return
        self._whole = not more
        if instance.idle:
            self._received = self._whole
            instance.put_nowait({"type": "http.request", "body": data, "more_body": more})
            return
        if self._parts is None:
            self._parts = []
            self._waiting_bytes = 0
        self._parts.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= HIGH_WATER and self.protocol is not None:
            self.protocol.pause_reading()
        if instance._waiting():
            self._soon(self._serve_waiting)

    def _serve_waiting(self) -> None:
        """Tasks of one application wait for messages side by side: each has its turn."""
        instance = self.instance
        if instance is None or not instance._waiting():
            return
        if instance.full():
            # The one whose message that is has not run yet.
            self._soon(self._serve_waiting)
            return
        message = self.next_message()
        if message is not None:
            instance.put_nowait(message)
            self._soon(self._serve_waiting)

    @staticmethod
    def _soon(callback: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(callback, context=outside())

    def expect_continue(self) -> None:
        """The client waits to be told to send the body: that is done when the application asks for it."""
        self._continue = True
        if self._asked:
            self._continue_now()

    def _continue_now(self) -> None:
        self._continue = False
        if self.protocol is not None and self.phase <= STARTED:
            self.protocol.transport.write(CONTINUE)

    @property
    def waits_for_continue(self) -> bool:
        """The client was not told to send its body."""
        return self._continue

    def disconnect(self) -> None:
        """The client has gone: a body that is whole can still be received, then ``http.disconnect``."""
        if self.disconnected:
            return
        self.disconnected = True
        self.broken_off = self.protocol is not None and self.protocol.body is not None
        instance = self.instance
        if instance is None or instance.ended:
            return
        if not self._whole:
            self._parts = None
            if instance.qsize():
                # A part with more to come, which was not taken yet.
                instance.get_nowait()
                instance.put_nowait({"type": "http.disconnect"})
                self._disconnects = 1
        if self._parts is None:
            # Else _serve_waiting is on its way, and what has come of the body comes first.
            self._tell_waiting()

    # What the application sends

    def application_send(self, scope: Any, message: Any, waited: bool = False) -> Any:
        """Takes a message of the application, and gives an awaitable. When the client has gone it does nothing (ASGI,
        "Error Handling"). `waited`: the connection was found writable just now.

        Raises:
            TypeError, ValueError: the message is none that a server takes; nothing of it was written.
            RuntimeError: it is not its turn.
            ClientDisconnected: the client has gone, and the application goes on as if it had not.
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
                body = _as_bytes(body)
            more = message.get("more_body", False)
            if phase == STARTED:
                if not more and self.usual and len(body) < WRITTEN_APART:
                    self._answer(protocol, body)
                else:
                    self._begin(protocol, body, more)
            elif phase == STREAMING:
                self._continue_body(protocol, body, more)
                self._unbroken += len(body) + MESSAGE
                if self._unbroken > BREATH:
                    # A client that keeps up with an application that never waits must not keep the loop to itself.
                    self._unbroken = 0
                    return Pass()
            else:
                raise self._unexpected(message)
        elif kind == "http.response.start" and phase == EXPECTED:
            try:
                status = message["status"]
            except KeyError:
                status = None
            if type(status) is not int or status not in STATUS_LINES:
                status = self._checked_status(status)
            self._fields = encode_lines(message.get("headers", ()))
            self.status = status
            self._trailers = NO_TRAILERS
            if "trailers" in message:
                self._announce_trailers(protocol, message["trailers"])
            self.phase = STARTED
        elif kind == "http.response.trailers" and phase == TRAILERS:
            self._send_trailers(protocol, message)
        elif kind == "http.response.pathsend" and phase == STARTED:
            return self._send_path(self._checked_path(message.get("path")))
        else:
            raise self._unexpected(message)
        return SENT

    def _announce_trailers(self, protocol: HTTPProtocol, announced: Any) -> None:
        """Only a client that has said so gets them (ASGI, "HTTP Trailers")."""
        if announced:
            takes = self.version == "1.1" and not self.bodiless and protocol.parser.takes_trailers
            self._trailers = SENDING if takes else SWALLOWED
            self.usual = False

    async def _send_later(self, message: Any) -> None:
        if await self._writable() is not None:
            await self.application_send(None, message, True)

    async def _writable(self) -> HTTPProtocol | None:
        """The connection when it takes more, or None when it has gone."""
        while True:
            protocol = self.protocol
            if protocol is None or protocol.transport.is_closing():
                if self.phase == COMPLETE and not self.disconnected:
                    raise RuntimeError("nothing can be sent after the response was completed")
                # Who finishes what was begun is let do so, with what comes after the response; who waits for the
                # disconnect beside the response gets to act on it. What never stops is stopped. The first messages make
                # nobody wait: a sender that is to be cancelled then is so where it gets its messages from, which can
                # clean up, and not in here.
                self._unheard += 1
                if self._unheard > UNHEARD:
                    raise ClientDisconnected("the client has gone")
                if self._unheard > UNHEARD // 2:
                    await asyncio.sleep(0)
                return None
            if not protocol.paused:
                return protocol
            await protocol.writable()

    def _unexpected(self, message: Any) -> Exception:
        kind = check_type(message, KINDS, "an HTTP scope")
        if self.phase == COMPLETE:
            return RuntimeError(f"{kind!r} was sent after the response was completed")
        expected = (
            "'http.response.start'",
            "'http.response.body'",
            "'http.response.body'",
            "'http.response.trailers'",
        )[self.phase]
        return RuntimeError(f"a message of type {expected} was expected, got {kind!r}")

    @staticmethod
    def _checked_status(status: Any) -> int:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"'status' of an 'http.response.start' message must be an int, got {status!r}")
        if status not in STATUS_LINES:
            raise ValueError(f"'status' of an 'http.response.start' message must be from 200 to 599, got {status!r}")
        return int(status)

    @staticmethod
    def _checked_path(path: Any) -> Any:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"'path' of an 'http.response.pathsend' message must be a str, got {path!r}")
        return path

    def _answer(self, protocol: HTTPProtocol, body: bytes) -> None:
        """Writes the whole response, as `_begin` does, where nothing is out of the ordinary."""
        lines, length, asked = self._fields
        size = len(body)
        if (
            asked
            or self.status in BODILESS
            or protocol.last
            or protocol.body is not None
            or (length is not None and length != size)
        ):
            self._begin(protocol, body, False)
            return
        self.sent = size
        protocol.transport.write(
            b"%b%b%b\r\ncontent-length: %d\r\n\r\n%b"
            % (STATUS_LINES[self.status], protocol.server.common_fields, lines, size, body)
        )
        self._complete(protocol)

    def _begin(self, protocol: HTTPProtocol, body: bytes, more: bool) -> None:
        """Writes the head, with the first part of the body."""
        self._unbroken = 0
        lines, length, asked = self._fields
        status = self.status
        size = len(body)
        if status in BODILESS:
            self.bodiless = True
        framing = self._framing(status, length, size, more)
        if asked & CLOSE or protocol.last or (protocol.body is not None and not protocol.can_discard(more)):
            self.keep_alive = False
        if not self.keep_alive:
            framing += b"\r\nconnection: close"
        elif self.version == "1.0":
            framing += b"\r\nconnection: keep-alive"
        common = protocol.server.common_fields
        if asked & (OWN_DATE | OWN_SERVER):
            common = protocol.server.common_fields_without(asked & OWN_DATE, asked & OWN_SERVER)
        head = b"".join((STATUS_LINES[status], common, lines, framing, b"\r\n\r\n"))
        self._continue = False
        if self.bodiless:
            body = b""
        else:
            self.sent = size
            if self._chunked:
                body = (chunk(body) if size else b"") + (b"" if more or self._trailers == SENDING else LAST_CHUNK)
        self.phase = STREAMING
        if len(body) < WRITTEN_APART:
            protocol.transport.write(head + body)
        else:
            _write_parts(protocol.transport, (head, body))
        if not more:
            self._finish(protocol)

    def _framing(self, status: int, length: int | None, size: int, more: bool) -> bytes:
        """The header line that tells where the body ends (RFC 9112 section 6)."""
        self._chunked = False
        if length is not None:
            if not self.bodiless and (size > length or (not more and size < length)):
                raise ValueError(f"the body has {size} bytes, Content-Length says {length}")
            self._left = length - size
            # RFC 9110 section 8.6
            return b"" if status == 204 else b"\r\ncontent-length: %d" % length
        self._left = -1
        if self.bodiless:
            # What a GET would be answered with, as far as that can be told.
            return b"\r\ncontent-length: %d" % size if size and not more and status not in (204, 304) else b""
        if not more and self._trailers != SENDING:
            return b"\r\ncontent-length: %d" % size
        if self.version == "1.1":
            self._chunked = True
            return b"\r\ntransfer-encoding: chunked"
        self.keep_alive = False
        return b""

    @property
    def progress(self) -> int:
        """A number that grows with what is written of the response."""
        return self.sent if self.phase >= STREAMING else -1

    @property
    def ends_by_closing(self) -> bool:
        """Nothing but the end of the connection tells the client that it has all of the body."""
        return self.phase == STREAMING and not self._chunked and self._left < 0 and not self.bodiless

    def _continue_body(self, protocol: HTTPProtocol, body: bytes, more: bool) -> None:
        size = len(body)
        if not self.bodiless:
            if self._left >= 0:
                if size > self._left or (not more and size < self._left):
                    raise ValueError(f"the body is not as long as Content-Length says: {self._left} bytes were left")
                self._left -= size
            self.sent += size
            write = protocol.transport.write
            if not self._chunked:
                if size:
                    write(body)
            else:
                last = not more and self._trailers != SENDING
                if not size:
                    if last:
                        write(LAST_CHUNK)
                elif size < 4096:
                    data = chunk(body)
                    write(data + LAST_CHUNK if last else data)
                else:
                    end = b"\r\n" + LAST_CHUNK if last else b"\r\n"
                    _write_parts(protocol.transport, (b"%x\r\n" % size, body, end))
        if not more:
            self._finish(protocol)

    def _finish(self, protocol: HTTPProtocol) -> None:
        """The body is complete."""
        if self._trailers:
            self.phase = TRAILERS
            self._trailing = False
        else:
            self._complete(protocol)

    def _send_trailers(self, protocol: HTTPProtocol, message: Any) -> None:
        lines = encode_lines(message.get("headers", ()))[0]
        more = message.get("more_trailers", False)
        if self._trailers == SENDING and self._chunked:
            # The last chunk comes first; each line has its CRLF before it.
            protocol.transport.write((lines if self._trailing else b"0" + lines) + (b"" if more else b"\r\n\r\n"))
            self._trailing = True
        if not more:
            self._complete(protocol)

    async def _send_path(self, path: Any) -> None:
        """The file at this path is the body (ASGI extension ``http.response.pathsend``).

        As many bytes of it are sent as its head says, however long it has become meanwhile.

        Raises:
            ValueError: it is shorter than that.
        """
        loop = asyncio.get_running_loop()
        bodiless = self.bodiless or self.status in BODILESS
        with await loop.run_in_executor(None, open, path, "rb") as file:
            lines, length, asked = self._fields
            if length is None:
                length = os.fstat(file.fileno()).st_size
                self._fields = lines, length, asked
            left = 0 if bodiless else length
            phase = STARTED
            while True:
                # A file gives less than it is asked for at its end alone.
                wanted = min(left, FILE_PART)
                data = await loop.run_in_executor(None, file.read, wanted)
                left -= len(data)
                protocol = await self._writable()
                if protocol is None:
                    return
                if len(data) < wanted:
                    raise ValueError(f"{path!r} has {length - left} bytes, {length} were announced")
                if self.phase != phase:
                    # Another task of the application has sent something meanwhile.
                    raise self._unexpected({"type": "http.response.pathsend"})
                if phase == STARTED:
                    self._begin(protocol, data, left > 0)
                    phase = STREAMING
                else:
                    self._continue_body(protocol, data, left > 0)
                if not left:
                    return

    def _complete(self, protocol: HTTPProtocol) -> None:
        self.phase = COMPLETE
        self.protocol = None
        instance = self.instance
        if instance is not None:
            # What the application does not take from now on is nothing but http.disconnect.
            self._parts = None
            self._whole = self._received = True
            if instance.qsize():
                instance.get_nowait()
                instance.put_nowait({"type": "http.disconnect"})
                self._disconnects = 1
            elif instance._waiting():
                self._tell_waiting()
        protocol.response_complete(self)

    # The end of the application

    def application_ended(self, instance: Any) -> None:
        """Called by the server, from within the last step of the application."""
        self.instance = None
        # It has been told in the middle of its request, and may raise what it likes: Starlette does.
        told = self.broken_off and self._disconnects > 0 and not instance.qsize()
        if instance.qsize():
            instance._leftover()
        protocol, self.protocol = self.protocol, None
        if protocol is not None and self.phase != COMPLETE:
            self._cut_short(protocol, instance)
        error = instance._error
        if error is not None and self.disconnected and (told or tells_of(error, ClientDisconnected)):
            logger.debug("the client of %r has gone, and the application raised %r", self, error)
            instance._error = None

    def _cut_short(self, protocol: HTTPProtocol, instance: Any) -> None:
        """The application has ended and the response is not complete."""
        if instance._outcome == RETURNED and not self.disconnected:
            logger.error("an application returned before its response was complete: %s", describe(instance))
        if self.phase >= STREAMING or self.disconnected:
            protocol.abort()
        elif instance._outcome == CANCELLED:
            protocol.answer(503, "the request was cancelled")
        else:
            protocol.answer(500, "internal error")


def _write_parts(transport: Any, parts: Iterable[bytes]) -> None:
    if WRITELINES_PAUSES:
        transport.writelines(parts)
    else:
        transport.write(b"".join(parts))


def _as_bytes(body: Any) -> bytes:
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"'body' of an 'http.response.body' message must be bytes, got {type(body).__name__}")
    return bytes(body)


def tells_of(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether this error is, or comes of, one of that kind: the one that `send` raises when the client has gone."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, kind):
            return True
        seen.add(id(one))
        errors += one.__cause__, one.__context__
        if isinstance(one, BaseExceptionGroup):
            errors += one.exceptions
    return False
