"""What no ASGI server can beat: as little as there can be between a parsed request and its answer, and nothing checked.

`Constant` parses with httptools and writes the same bytes for every request; `Logged`, `Stream` and `Echo` do so for
their kinds of requests, `WebSocket` for messages. `Minimal` is as few lines of Python as an application can be served
with: a scope, a task and two sends for each request, and no regard for anything else.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, ClassVar

import httptools

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

from benchmarks.applications import ANSWER, PART, PARTS, POSTED

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


#: One of the parts of `benchmarks.applications.stream`, and all that stands around it.
CHUNK = (b"%x\r\n" % len(PART), PART, b"\r\n")


class Constant(asyncio.Protocol):
    """A constant answer to every request."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(RESPONSE)


class Logged(Constant):
    """A constant answer and, written many at a time, a constant line for it."""

    LINE = b'127.0.0.1:50000 - - [01/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1" 200 13\n'
    lines: ClassVar[list[bytes]] = []

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.lines.append(self.LINE)
        if len(self.lines) == 1:
            asyncio.get_running_loop().call_later(0.05, self.write_lines)

    def write_lines(self) -> None:
        os.write(1, b"".join(self.lines))
        self.lines.clear()


class Stream(Constant):
    """Chunks, as fast as the client takes them."""

    resumed: asyncio.Future[None] | None = None

    def pause_writing(self) -> None:
        self.resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self.resumed is not None:
            self.resumed.set_result(None)
            self.resumed = None

    def on_message_complete(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.stream())

    async def stream(self) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(PARTS):
            if self.resumed is not None:
                await self.resumed
            self.transport.writelines(CHUNK)
        self.transport.write(b"0\r\n\r\n")


class Echo(Constant):
    """The parts of the body, as they came, behind a head that knows how long they are together."""

    HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(POSTED)

    def on_message_begin(self) -> None:
        self.parts = [self.HEAD]

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.transport.writelines(self.parts)


class WebSocket(asyncio.Protocol):
    """The handshake by rote; then each read is taken for one whole short message, unmasked and sent back."""

    #: For the one key that the load generator sends.
    HANDSHAKE = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.take = self.shake

    def data_received(self, data: bytes) -> None:
        self.take(data)

    def shake(self, data: bytes) -> None:
        self.transport.write(self.HANDSHAKE)
        self.take = self.answer

    def answer(self, data: bytes) -> None:
        # RFC 6455 section 5.2: two bytes, the mask in four, at most 125 bytes of payload.
        self.transport.write(b"%c%c%b" % (data[0], data[1] & 0x7F, apply_mask(data[6:], data[2:6])))


class Minimal(asyncio.Protocol):
    """A task for each request; one request after the other, no body in, and a body in one part."""

    transport: Any
    application: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.loop = asyncio.get_running_loop()
        self.server, self.client = transport.get_extra_info("sockname"), transport.get_extra_info("peername")

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        path, _, query = self.url.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": self.parser.get_http_version(),
            "server": self.server,
            "client": self.client,
            "scheme": "http",
            "method": self.parser.get_method().decode(),
            "path": path.decode(),
            "raw_path": path,
            "query_string": query,
            "headers": self.headers,
        }
        self.task = self.loop.create_task(type(self).application(scope, self.receive, self.send))

    async def receive(self) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            lines = [b"HTTP/1.1 %d OK" % message["status"]]
            lines += [b"%b: %b" % header for header in message["headers"]]
            self.head = b"\r\n".join(lines)
        else:
            self.transport.write(b"%b\r\n\r\n%b" % (self.head, message["body"]))
