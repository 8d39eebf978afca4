"""HTTP without sockets, a connection whose transport is a list of bytes, and with them: a server at work, a client."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys

from support.loops import PATIENCE, passes
from support.serving import in_time


def http(cy):
    """The module of the HTTP gateway that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.gateways.http")


def connection_protocol(cy, proxied=False):
    module, name = ("proxied", "ProxiedProtocol") if proxied else ("protocol", "HTTPProtocol")
    return getattr(importlib.import_module(f"{cy.__name__}.gateways.http.{module}"), name)


class Transport(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self, **info):
        super().__init__({"peername": ("127.0.0.1", 1234), "sockname": ("127.0.0.1", 80), **info})
        self.sent = b""
        self.closed = self.aborted = self.eof = False
        self.reading = True
        self.unwritten = 0

    def write(self, data):
        assert not self.closed and not self.eof, data
        self.sent += bytes(data)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.eof = True

    def pause_reading(self):
        assert self.reading
        self.reading = False

    def resume_reading(self):
        assert not self.reading
        self.reading = True

    def is_reading(self):
        return self.reading

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = self.aborted = True

    def get_write_buffer_size(self):
        return self.unwritten


class Connection:
    """A connection to a server that is not running, of whose loop time is the test's."""

    def __init__(self, cy, application, *, server=None, strict=True, transport=None, **settings):
        if server is None:
            server = http(cy).HTTPServer(application)
            server.server_header = None
        self.server = server
        for name, value in settings.items():
            setattr(server, name, value)
        server.head_limits = type(server.head_limits)(
            server.max_target_size, server.max_header_size, server.max_header_count
        )
        self.transport = transport or Transport()
        self.protocol = connection_protocol(cy, server.proxy_headers)(server, strict)
        self.protocol.connection_made(self.transport)

    def feed(self, *data):
        for one in data:
            self.protocol.data_received(one)

    def take(self):
        """What was sent since the last call, without Date."""
        sent, self.transport.sent = self.transport.sent, b""
        lines = sent.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.startswith(b"date: "))

    async def ask(self, *data):
        self.feed(*data)
        await passes(20)
        return self.take()

    async def later(self, seconds):
        """Lets so much time pass for the deadlines, tick by tick and without waiting."""
        let_pass(self.server.deadlines, seconds)
        await passes(20)

    async def block(self, seconds):
        """As if the loop had been blocked for so long; everybody was read since."""
        jump(self.server.deadlines, seconds)
        await passes(20)

    def lose(self, error=None):
        self.protocol.connection_lost(error)

    async def end(self):
        """Ends the connection and looks at what is left."""
        if self.protocol in self.server.connections:
            self.lose()
        self.server.deadlines.close()
        for entry in list(self.server.application_instances):
            await self.server.delete_application_instance(entry)
        await passes(5)
        assert not self.server.connections
        assert not self.server.application_instances


class FakeClock:
    """An event loop whose clock is the test's, and whose timers never ring; `delay` is that of the last one."""

    def __init__(self, now):
        self.now = now
        self.delay = 0.0

    def time(self):
        return self.now

    def call_later(self, delay, callback, *arguments, context=None):
        self.delay = delay
        return self

    def cancel(self):
        pass


def jump(deadlines, seconds):
    """Has the next tick come after so many seconds; gives the delay that the one after it was set to."""
    if deadlines._timer is not None:
        deadlines._timer.cancel()
    clock = deadlines._loop = FakeClock(deadlines._ticked + seconds)
    deadlines._tick()
    if deadlines._loop is clock:
        deadlines._loop = asyncio.get_running_loop()
    return clock.delay


def let_pass(deadlines, seconds):
    """Has so many seconds pass in ticks that come in time."""
    resolution = sys.modules[type(deadlines).__module__].RESOLUTION
    while seconds > 0:
        jump(deadlines, min(resolution, seconds))
        seconds -= resolution


async def hello(scope, receive, send):
    """Answers each request with a few bytes, reading nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def echo(scope, receive, send):
    """Answers with the body of the request, once it is there as a whole."""
    body = b""
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Recording:
    """Answers with the path, and keeps scopes."""

    def __init__(self):
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


def response(body=b"hello", *fields, status=b"200 OK", kind=b"content-type: text/plain\r\n"):
    """A response as the server writes it, without Date."""
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n%s\r\n%s" % (status, kind, len(body), lines, body)


async def start(server):
    """Starts the server in this loop, and gives its task once it listens; raises what ends it before."""
    server.bind()
    running = asyncio.create_task(server.arun())
    await in_time(lambda: server.serving or running.done())
    if running.done():
        await running
    return running


@contextlib.asynccontextmanager
async def serving(server):
    """The server at work in this loop; gives its addresses. It must go on until it is stopped, in order."""
    running = await start(server)
    try:
        yield server.addresses
        assert not running.done(), f"the server ended: {running!r}"
    finally:
        server.stop()
        await running
    assert not server.application_instances and not server.connections
    assert server.addresses == []


async def talk(address, data, *, half_close=False):
    """All that the server answers to these bytes until it closes the connection."""
    async with asyncio.timeout(PATIENCE / 2):
        if address[1] is None:
            reader, writer = await asyncio.open_unix_connection(address[0])
        else:
            reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(data)
            if half_close:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
