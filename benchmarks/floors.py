"""What no ASGI server can beat: as little as there can be between a parsed request and its answer, and nothing checked.

`Constant` parses with httptools and writes the same bytes for every request. `Minimal` is as few lines of Python as an
application can be served with: a scope, a task and two sends for each request, and no regard for anything else.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools

from benchmarks.applications import ANSWER

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


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
