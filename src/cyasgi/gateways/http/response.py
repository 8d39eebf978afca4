"""The response to one request: what the application sends, checked and written out (ASGI, "HTTP")."""

from __future__ import annotations

import asyncio
import os
from typing import Any, NoReturn

from ...core import Pass
from ...wire.headers import (
    CLOSE,
    OWN_DATE,
    OWN_SERVER,
    encode_lines,
)
from ...wire.http.response import EARLY_HINTS, LAST_CHUNK, STATUS_LINES, chunk
from ...wire.messages import check_type
from ..net.transports import write_parts
from .checks import KINDS, checked_path, encoded_links
from .fast_path import ClientDisconnected, FastExchange
from .phases import (
    BODILESS,
    COMPLETE,
    DROPPING,
    EXPECTED,
    JOIN_LIMIT,
    SENDING,
    STARTED,
    STREAMING,
    TRAILERS,
)
from .port import ExchangeConnection

#: A chunk of this many bytes or more is not copied between its size and its end.
JOIN_CHUNK_LIMIT = 4096

#: Bytes of a file that are read at a time.
FILE_PART = 262_144

#: Messages that an application may send after its client has gone, without an error; from half of them on, the event
#: loop runs others after each one. As many ``http.disconnect`` messages are given to it without a delay.
DISCONNECTED_LIMIT = 16

#: Messages that an application may send any number of, without a byte of a body.
ENDLESS = ("http.response.early_hint", "http.response.trailers")

#: The message that is expected in each phase.
EXPECTED_KINDS = ("http.response.start", "http.response.body", "http.response.body", "http.response.trailers")


class ResponseWriter(FastExchange):
    """Writes the response of an exchange, in the less usual courses."""

    __slots__ = ()

    async def _send_later(self, message: Any) -> None:
        if await self._writable() is not None:
            await self.application_send(None, message, True)

    async def _writable(self) -> ExchangeConnection | None:
        """Return the connection when it takes more; None when it has gone."""
        while True:
            protocol = self.protocol
            if protocol is None or protocol.transport.is_closing():
                if self.phase == COMPLETE and not self.disconnected:
                    raise RuntimeError("nothing can be sent after the response was completed")
                # An application that finishes what it began may do so, also with what comes after the response; one
                # that waits for the disconnect beside the response gets to act on it. One that never stops is stopped.
                # The first messages wait for nothing: a sender that is to be cancelled is then cancelled where it gets
                # its messages from, where it can clean up, and not in here.
                self.sent_in_vain += 1
                if self.sent_in_vain > DISCONNECTED_LIMIT:
                    raise ClientDisconnected("the client has gone")
                if self.sent_in_vain > DISCONNECTED_LIMIT // 2:
                    await asyncio.sleep(0)
                return None
            if not protocol.paused:
                return protocol
            await protocol.writable()

    def header_lines(self) -> bytes:
        """Return the application's header lines, each with CRLF before it, if there are any yet."""
        return self._fields[0] if self.phase > EXPECTED else b""

    def _refuse_kind(self, message: Any) -> NoReturn:
        """Raise the error of a message that is not expected now."""
        kind = check_type(message, KINDS, "an HTTP scope")
        if self.phase == COMPLETE:
            raise RuntimeError(f"{kind!r} was sent after the response was completed")
        raise RuntimeError(f"a message of type {EXPECTED_KINDS[self.phase]!r} was expected, got {kind!r}")

    def _send_other(self, protocol: ExchangeConnection, message: Any, kind: Any) -> Any:
        """Take a message other than the head and a part of the body, and return an awaitable."""
        if kind in ENDLESS and protocol.transport.is_closing():
            # It was lost, and `connection_lost` is called soon: a sender that never waits would not let that happen.
            return self._send_later(message)
        if kind == "http.response.trailers" and self.phase == TRAILERS:
            self._send_trailers(protocol, message)
            return Pass()
        if kind == "http.response.pathsend" and self.phase == STARTED:
            return self._send_path(checked_path(message.get("path")))
        if kind == "http.response.early_hint" and self.phase == EXPECTED:
            self._send_early_hint(protocol, encoded_links(message.get("links")))
            return Pass()
        return self._refuse_kind(message)

    def _send_early_hint(self, protocol: ExchangeConnection, lines: bytes) -> None:
        """Tell the client what the response will link to; not in HTTP/1.0 (RFC 9110 section 15.2)."""
        if lines and self.version != "1.0":
            protocol.transport.write(EARLY_HINTS + lines + b"\r\n\r\n")

    # Head and body

    def _write_head(self, protocol: ExchangeConnection, body: bytes, more: bool) -> None:
        """Write the head with the first part of the body."""
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
        line = protocol.id_line
        if line is not None and line[: line.index(b":") + 1] not in lines:
            common += line
        head = b"".join((STATUS_LINES[status], common, lines, framing, b"\r\n\r\n"))
        self.waits_for_continue = False
        if self.bodiless:
            body = b""
        else:
            self.sent = size
            if self._chunked:
                body = (chunk(body) if size else b"") + (b"" if more or self._trailers == SENDING else LAST_CHUNK)
        self.phase = STREAMING
        if len(body) < JOIN_LIMIT:
            protocol.transport.write(head + body)
        else:
            write_parts(protocol.transport, (head, body))
        if not more:
            self._finish(protocol)

    def _framing(self, status: int, length: int | None, size: int, more: bool) -> bytes:
        """Return the header line that tells where the body ends (RFC 9112 section 6)."""
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
            return b"\r\ncontent-length: %d" % size if size and not more and status not in BODILESS else b""
        if not more and self._trailers != SENDING:
            return b"\r\ncontent-length: %d" % size
        if self.version == "1.1":
            self._chunked = True
            return b"\r\ntransfer-encoding: chunked"
        self.keep_alive = False
        return b""

    def _write_body(self, protocol: ExchangeConnection, body: bytes, more: bool) -> None:
        """Write a further part of the body."""
        size = len(body)
        if not self.bodiless:
            if self._left >= 0:
                if size > self._left or (not more and size < self._left):
                    raise ValueError(
                        f"the body is not as long as Content-Length says: {self._left} bytes were left, got {size}"
                    )
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
                elif size < JOIN_CHUNK_LIMIT:
                    data = chunk(body)
                    write(data + LAST_CHUNK if last else data)
                else:
                    end = b"\r\n" + LAST_CHUNK if last else b"\r\n"
                    write_parts(protocol.transport, (b"%x\r\n" % size, body, end))
        if not more:
            self._finish(protocol)

    def _finish(self, protocol: ExchangeConnection) -> None:
        """End the body: trailers follow, or the response is complete."""
        if self._trailers:
            self.phase = TRAILERS
            self._trailers_begun = False
        else:
            self.complete(protocol)

    @property
    def progress(self) -> int:
        """A number that grows with what is written of the response."""
        return self.sent if self.phase >= STREAMING else -1

    @property
    def ends_by_closing(self) -> bool:
        """Whether nothing but the end of the connection tells the client that it has all of the body."""
        return self.phase == STREAMING and not self._chunked and self._left < 0 and not self.bodiless

    # Trailers and files

    def _announce_trailers(self, protocol: ExchangeConnection, announced: Any) -> None:
        """Expect trailers; they are sent to a client only if it has said that it takes them (ASGI, "HTTP Trailers")."""
        if announced:
            takes = self.version == "1.1" and not self.bodiless and protocol.parser.takes_trailers
            self._trailers = SENDING if takes else DROPPING
            self.usual = False

    def _send_trailers(self, protocol: ExchangeConnection, message: Any) -> None:
        lines = encode_lines(message.get("headers", ()))[0]
        more = message.get("more_trailers", False)
        if self._trailers == SENDING and self._chunked:
            # The last chunk comes first; each line has its CRLF before it.
            first = b"" if self._trailers_begun else b"0"
            protocol.transport.write(first + lines + (b"" if more else b"\r\n\r\n"))
            self._trailers_begun = True
        if not more:
            self.complete(protocol)

    async def _send_path(self, path: Any) -> None:
        """Send the file at this path as the body (ASGI extension ``http.response.pathsend``).

        As many bytes of it are sent as its head says, however long it has become meanwhile.

        Raises:
            ValueError: the file is shorter than that.
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
                # A file gives less than it is asked for only at its end.
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
                    self._refuse_kind({"type": "http.response.pathsend"})
                if phase == STARTED:
                    self._write_head(protocol, data, left > 0)
                    phase = STREAMING
                else:
                    self._write_body(protocol, data, left > 0)
                if not left:
                    return
