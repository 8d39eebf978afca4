"""What the tests of the WebSocket gateway share: a server at work, a client made of frames, applications."""

from __future__ import annotations

import asyncio
import contextlib
import importlib

from support.loops import PATIENCE
from support.serving import in_time
from support.websockets_raw import close, parse, request

CONNECT = {"type": "websocket.connect"}


def gateway(cy):
    """The module of the WebSocket gateway that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.gateways.websocket")


def server_of(cy, application, max_applications=1000, base="websocket", **overrides):
    """A server of a subclass with these overrides."""
    module = importlib.import_module(f"{cy.__name__}.gateways.{base}")
    cls = {"websocket": "WebSocketServer", "http": "HTTPServer"}[base]
    return type("Server", (getattr(module, cls),), {"lifespan": "off", **overrides})(
        application, max_applications, binds="127.0.0.1:0"
    )


@contextlib.asynccontextmanager
async def serving(server):
    """The server at work in this loop; gives its address. In the end nothing of it is left."""
    [address] = server.bind()
    running = asyncio.create_task(server.arun())
    await in_time(lambda: server.serving or running.done())
    try:
        yield address
    finally:
        server.stop()
        await running
    assert not server.application_instances
    assert not server.connections
    assert server.deadlines._live == 0


class Client:
    """A client that sends any bytes, and takes what comes apart into frames."""

    def __init__(self, address):
        self.address = address
        self.head = b""
        self._data = b""

    async def connect(self, *headers, target=b"/", rest=b""):
        """Connects and asks for a WebSocket."""
        self.reader, self.writer = await asyncio.open_connection(*self.address)
        self.send(request(*headers, target=target) + rest)
        return self

    async def open(self, *headers, target=b"/", rest=b""):
        """As `connect`, and reads the answer, which must accept."""
        await self.connect(*headers, target=target, rest=rest)
        async with asyncio.timeout(PATIENCE / 2):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        return self

    def send(self, *data):
        for one in data:
            self.writer.write(one)

    async def drained(self):
        async with asyncio.timeout(PATIENCE / 2):
            await self.writer.drain()

    async def receive(self):
        """The next frame, as (first byte, payload)."""
        async with asyncio.timeout(PATIENCE / 2):
            head = await self.reader.readexactly(2)
            length = head[1]
            if length > 125:
                size = 2 if length == 126 else 8
                length = int.from_bytes(await self.reader.readexactly(size), "big")
            return head[0], await self.reader.readexactly(length)

    async def rest(self):
        """All bytes up to the end of the stream."""
        async with asyncio.timeout(PATIENCE / 2):
            return await self.reader.read()

    async def frames(self):
        """The frames up to the end of the stream."""
        return parse(await self.rest())

    async def ask(self, data):
        self.send(data)
        return await self.receive()

    async def finish(self):
        """Closes in order; gives the frames that came until the server had closed."""
        self.send(close())
        frames = await self.frames()
        await self.close()
        return frames

    def half_close(self):
        self.writer.write_eof()

    def abort(self):
        self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()


async def echo(scope, receive, send):
    """Accepts, and sends back what it receives."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


class Recorder:
    """An application that keeps what it receives; `then` is run once it has accepted."""

    def __init__(self, then=None, accept=True):
        self.then = then
        self.accept = accept
        self.scopes = []
        self.messages = []
        self.errors = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        self.messages.append(await receive())
        if self.accept:
            await send({"type": "websocket.accept"})
        if self.then is not None:
            await self.then(scope, receive, send)
            return
        while True:
            message = await receive()
            self.messages.append(message)
            if message["type"] == "websocket.disconnect":
                return


async def sockets(server, count=1):
    """The open WebSockets of the server, once there are so many."""

    def found():
        return [one for one in server.connections if hasattr(one, "websocket")]

    await in_time(lambda: len(found()) >= count)
    return found()


def url(address, path="/"):
    return f"ws://{address[0]}:{address[1]}{path}"


def disconnect(code, reason=""):
    return {"type": "websocket.disconnect", "code": code, "reason": reason}
