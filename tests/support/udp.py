"""What the tests of the datagram gateway share: clients, a running server, and the command in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from cyasgi.wire.datagram import MAX_DATA
from support.loops import PATIENCE
from support.serving import environment, eventually


def gateway(cy):
    """The module of the datagram gateway that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.gateways.datagram")


def batches(cy):
    """Its module for sockets that are read and written many datagrams at a time."""
    return importlib.import_module(f"{cy.__name__}.gateways.datagram.batches")


class Client:
    """A UDP client within the loop, connected to one address; received datagrams from others are none of its."""

    def __init__(self, address):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(address)
        self.address = self.socket.getsockname()[:2]

    def send(self, *data):
        for one in data:
            self.socket.send(one)

    async def receive(self, count=1):
        """The next datagrams, in a list if `count` is given."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE / 2):
            received = [await loop.sock_recv(self.socket, 70_000) for _ in range(count)]
        return received if count > 1 else received[0]

    async def ask(self, data):
        self.send(data)
        return await self.receive()

    def close(self):
        self.socket.close()


@contextlib.contextmanager
def clients(*addresses):
    """A client for each address."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Client(address))) for address in addresses]


async def start(server):
    """Starts the server in this loop, and gives its task once it listens."""
    addresses = server.bind()
    running = asyncio.create_task(server.arun())
    await eventually(lambda: [endpoint.open for endpoint in server.endpoints] == [True] * len(addresses))
    return running


@contextlib.asynccontextmanager
async def serving_datagrams(server):
    """The server at work in this loop; gives its addresses. It must go on until it is stopped, in order."""
    running = await start(server)
    try:
        yield server.addresses
        assert not running.done(), f"the server ended: {running!r}"
    finally:
        server.stop()
        await running
    assert not server.application_instances
    assert server.addresses == [] and server.endpoints == []


#: `python -m cyasgi`, in which every warning is an error.
PROGRAM = (sys.executable, "-W", "error", "-X", "dev", "-m", "cyasgi")


#: What asyncio's debug mode says of a step that took long, as any step may on a busy machine.
SLOW = re.compile(r"Executing <.*> took \d+\.\d+ seconds")


class Command:
    """The command with these arguments in a process of its own; `prefix` is the command that runs it, and `pass_fds`
    are the descriptors that it inherits."""

    def __init__(
        self,
        *arguments,
        cwd,
        backend=None,
        program=PROGRAM,
        prefix=(),
        pass_fds=(),
        stdin=subprocess.DEVNULL,
        **changes,
    ):
        self.process = subprocess.Popen(
            [*prefix, *program, *arguments],
            cwd=cwd,
            env=environment(CYASGI_BACKEND=backend, **changes),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self.lines = []
        self._coming = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            if not SLOW.search(line):
                self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def _next(self, deadline):
        try:
            line = self._coming.get(timeout=max(0.001, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"no further line comes: {self.lines}") from None
        if line is not None:
            self.lines.append(line)
        return line

    def until(self, pattern):
        """Reads on until a line of the standard error matches; gives the match."""
        deadline = time.monotonic() + PATIENCE
        while (line := self._next(deadline)) is not None:
            match = re.search(pattern, line)
            if match:
                return match
        raise AssertionError(f"no line matches {pattern!r}: {self.lines}")

    def listening(self):
        """The address that it says it listens on."""
        match = self.until(r"listening on udp \[?(.+?)\]?:(\d+)$")
        return match[1], int(match[2])

    def stop(self, number):
        """Sends the signal, and gives the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        deadline = time.monotonic() + PATIENCE
        while self._next(deadline) is not None:
            pass
        return self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            # With what it has started itself.
            with contextlib.suppress(AttributeError, ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        self.process.stdout.close()
        self.process.stderr.close()


BAD_MESSAGES = [
    (None, TypeError, "a message must be a dict, got None"),
    (b"x", TypeError, "a message must be a dict, got b'x'"),
    ({}, ValueError, "unknown type of message None"),
    ({"type": "datagram.receive", "data": b"x"}, ValueError, "unknown type of message 'datagram.receive'"),
    ({"type": "http.response.start"}, ValueError, "accepts datagram.send"),
    ({"type": "datagram.send"}, ValueError, "must have 'data'"),
    ({"type": "datagram.send", "data": "x"}, TypeError, "must be bytes, got str"),
    ({"type": "datagram.send", "data": bytearray(b"x")}, TypeError, "must be bytes, got bytearray"),
    ({"type": "datagram.send", "data": None}, TypeError, "must be bytes, got NoneType"),
    ({"type": "datagram.send", "data": bytes(MAX_DATA + 1)}, ValueError, "at most 65507 bytes, got 65508"),
    ({"type": "datagram.send", "data": b"x", "client": "::1"}, TypeError, "'client' .* must be .host, port."),
    ({"type": "datagram.send", "data": b"x", "server": ("::1",)}, ValueError, "'server' .* must be .host, port."),
    ({"type": "datagram.send", "data": b"x", "client": ("::1", 1 << 16)}, ValueError, "a port from 0 to 65535"),
]


V4, V6 = ("127.0.0.1", 0), ("::1", 0)


async def echo(scope, receive, send):
    """Sends back what it receives."""
    while True:
        await send({"type": "datagram.send", "data": (await receive())["data"]})


class Numbering:
    """Answers with the number of its instance and of the datagram within it; keeps scopes and messages."""

    def __init__(self):
        self.scopes = []
        self.messages = []

    async def __call__(self, scope, receive, send):
        number = len(self.scopes)
        self.scopes.append(scope)
        count = 0
        while True:
            self.messages.append(await receive())
            count += 1
            await send({"type": "datagram.send", "data": b"%d.%d" % (number, count)})


def server_of(cy, application, max_applications=1000, binds=V4, **overrides):
    """A server of a subclass with these overrides."""
    base = gateway(cy).DatagramServer
    return type("Server", (base,), overrides)(application, max_applications, binds=binds)
