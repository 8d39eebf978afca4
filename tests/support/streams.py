"""What the tests of the stream gateway share: a server at work, a client of lines, applications."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import ssl
import struct

from support.loops import PATIENCE
from support.serving import in_time

#: Deadlines that are reached, and those that are not.
SHORT, LONG = 0.3, 60.0


def gateway(cy):
    """The module of the stream gateway that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.gateways.stream")


def server_of(cy, application, max_applications=1000, *, binds="127.0.0.1:0", ssl=None, bases=(), **overrides):
    """A server of a subclass with these overrides, and these bases before it."""
    cls = type("Server", (*bases, gateway(cy).StreamServer), {"lifespan": "off", **overrides})
    return cls(application, max_applications, binds=binds, ssl=ssl)


@contextlib.asynccontextmanager
async def serving(server):
    """The server at work in this loop; gives its first address. In the end nothing of it is left."""
    before = asyncio.all_tasks()
    address = server.bind()[0]
    running = asyncio.create_task(server.arun())
    await in_time(lambda: server.serving or running.done())
    try:
        async with asyncio.timeout(PATIENCE / 2):
            yield address
        assert server.stopping or not running.done(), f"the server ended: {running!r}"
    finally:
        # A second stop would cut what is still at work.
        if not server.stopping:
            server.stop()
        await running
    assert not server.application_instances
    assert not server.connections
    assert server.waiting_bytes == 0
    assert server.deadlines._live == 0
    await in_time(lambda: asyncio.all_tasks() <= before)


def contexts_of(directory):
    """A server's context of TLS and a client's, with the certificates that were written into this directory."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return server, ssl.create_default_context(cafile=directory / "ca.pem")


class Client:
    """A client that sends any bytes, and reads lines or the rest."""

    def __init__(self, address, tls=None):
        self.address = address
        self.tls = tls

    async def __aenter__(self):
        if self.address[1] is None:
            self.reader, self.writer = await asyncio.open_unix_connection(self.address[0])
        else:
            self.reader, self.writer = await asyncio.open_connection(*self.address[:2], ssl=self.tls)
        return self

    async def __aexit__(self, *_):
        await self.close()

    def send(self, *data):
        for one in data:
            self.writer.write(one)

    async def line(self):
        async with asyncio.timeout(PATIENCE / 2):
            return await self.reader.readline()

    async def ask(self, line):
        self.send(line)
        return await self.line()

    async def exactly(self, size):
        async with asyncio.timeout(PATIENCE / 2):
            return await self.reader.readexactly(size)

    async def rest(self):
        """All bytes up to the end of the stream; those before a reset if it ends with one."""
        found = b""
        async with asyncio.timeout(PATIENCE / 2):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65_536):
                    found += data
        return found

    def half_close(self):
        self.writer.write_eof()

    def abort(self):
        """Resets the connection, if it is TCP: a mere close would leave it open that the client still reads."""
        sock = self.writer.get_extra_info("socket")
        if sock is None:
            # It was lost before.
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def echo(scope, receive, send):
    """Sends back what it receives, until its client has gone."""
    while (message := await receive())["type"] != "stream.disconnect":
        if message["type"] == "stream.receive":
            await send({"type": "stream.send", "data": message["data"]})


class Recorder:
    """An application that keeps what it receives, up to the first ``stream.disconnect``; then `last` is called."""

    def __init__(self, last=None):
        self.scopes = []
        self.messages = []
        self.errors = []
        self.last = last

    @property
    def kinds(self):
        return [message["type"].removeprefix("stream.") for message in self.messages]

    @property
    def data(self):
        return [message["data"] for message in self.messages if "data" in message]

    @property
    def end(self):
        return next((one for one in self.messages if one["type"] == "stream.disconnect"), None)

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        while True:
            message = await receive()
            self.messages.append(message)
            if message["type"] == "stream.disconnect":
                break
        if self.last is not None:
            try:
                await self.last(receive, send)
            except OSError as error:
                self.errors.append(error)
                raise
