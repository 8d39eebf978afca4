"""What the hostile tests of the HTTP gateway share: raw sockets, answers taken apart, an application that records."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import socket
from typing import NamedTuple

from support.loops import PATIENCE
from support.serving import in_time

STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) [\t\x20-\x7e\x80-\xff]*")
HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
#: Seconds that short deadlines are set to.
SHORT = 0.2
#: Every deadline that a server has, so that the one in question is the only short one.
LONG = dict.fromkeys(
    ("first_byte_timeout", "header_timeout", "keep_alive_timeout", "body_timeout", "request_timeout"), 60.0
)
#: No byte more than this is read of an answer that ought to be short.
MOST = 1 << 20


def gateway(cy):
    """The module of the HTTP gateway that belongs to this twin."""
    return importlib.import_module(f"{cy.__name__}.gateways.http")


class Answer(NamedTuple):
    status: int
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def get(self, name):
        return b", ".join(value for one, value in self.headers if one == name)

    @property
    def closes(self):
        """Whether it says that the connection ends with it."""
        options = {option.strip().lower() for option in self.get(b"connection").split(b",")}
        return b"close" in options or (self.version == b"HTTP/1.0" and b"keep-alive" not in options)


class Incomplete(Exception):
    """More bytes are needed to tell."""


def parse_head(data):
    """The status, version and headers at the start of these bytes, and what follows them; strict."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        raise Incomplete
    line, *lines = head.split(b"\r\n")
    match = STATUS_LINE.fullmatch(line)
    assert match, line
    headers = []
    for one in lines:
        field = HEADER.fullmatch(one)
        assert field, one
        headers.append((field[1].lower(), field[2]))
    return int(match[1]), line[:8], headers, rest


def parse_chunks(data):
    """The body that these chunks make, and what follows it."""
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            raise Incomplete
        size = int(line, 16)
        if len(data) < size + 2:
            raise Incomplete
        assert data[size : size + 2] == b"\r\n"
        if not size:
            return body, data[2:]
        body += data[:size]
        data = data[size + 2 :]


def parse_answer(data, *, to_head=False, eof=False):
    """The answer at the start of these bytes, and what follows it.

    Raises:
        Incomplete: it does not end yet.
        AssertionError: it is not well-formed.
    """
    status, version, headers, rest = parse_head(data)
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    assert len(lengths) + len(codings) <= 1, headers
    if to_head or status in (204, 304) or status < 200:
        assert not (codings and status < 300), headers
        body = b""
    elif codings:
        assert codings == [b"chunked"] and version == b"HTTP/1.1"
        body, rest = parse_chunks(rest)
    elif lengths:
        length = int(lengths[0])
        if len(rest) < length:
            raise Incomplete
        body, rest = rest[:length], rest[length:]
    elif eof:
        body, rest = rest, b""
    else:
        raise Incomplete
    return Answer(status, version, headers, body), rest


class RawClient:
    """A TCP or Unix socket within the loop that sends any bytes and takes answers apart.

    It reads while it sends, as good clients do, unless it is told not to.
    """

    def __init__(self, address):
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        if family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = address
        self.data = b""
        #: What ended reading: "eof", "reset", or nothing yet.
        self.ended = None
        #: The interim answers that came, 100 for instance.
        self.interim = []

    async def connect(self):
        await asyncio.get_running_loop().sock_connect(self.socket, self.address)
        return self

    async def send(self, data):
        """Sends all of it; False if the server no longer takes it."""
        try:
            await asyncio.get_running_loop().sock_sendall(self.socket, data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def send_in_pieces(self, data, size):
        """Sends so many bytes at a time, the loop turning in between."""
        for start in range(0, len(data), size):
            if not await self.send(data[start : start + size]):
                return False
            await asyncio.sleep(0)
        return True

    async def read_some(self):
        """Takes in what comes next; False at the end."""
        if self.ended:
            return False
        try:
            data = await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
        except ConnectionResetError:
            self.ended = "reset"
            return False
        if not data:
            self.ended = "eof"
            return False
        self.data += data
        assert len(self.data) <= MOST
        return True

    async def answer(self, *, to_head=False):
        """The next final answer, or None if the connection ends without another one."""
        while True:
            try:
                answer, self.data = parse_answer(self.data, to_head=to_head, eof=self.ended is not None)
            except Incomplete:
                if not await self.read_some():
                    assert not self.data, f"cut off ({self.ended}): {self.data[:500]!r}"
                    return None
                continue
            if answer.status >= 200:
                return answer
            self.interim.append(answer.status)

    async def ask(self, data, *, to_head=False):
        assert await self.send(data)
        return await self.answer(to_head=to_head)

    async def get(self, path=b"/", *lines):
        """The answer to a plain request that keeps the connection."""
        return await self.ask(b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: x", *lines, b"", b""]))

    async def end(self):
        """Reads to the end, which must come; gives how it came and what came before it."""
        while await self.read_some():
            pass
        return self.ended, self.data

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def abort(self):
        """Closes with RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self):
        self.socket.close()


@contextlib.asynccontextmanager
async def raw_client(address):
    """A connected client for the length of a block."""
    client = RawClient(address)
    try:
        yield await client.connect()
    finally:
        client.close()


class Recorder:
    """An application that reads the whole body, records the request and answers with its number.

    `begun` has a (method, raw path) for each call, `requests` what was received whole, `ended` the reasons for which
    calls ended otherwise.
    """

    def __init__(self):
        self.begun = []
        self.requests = []
        self.scopes = []
        self.ended = []

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        self.begun.append((scope["method"], scope["raw_path"]))
        body = b""
        more = True
        while more:
            try:
                message = await receive()
            except asyncio.CancelledError as error:
                self.ended.append(error)
                raise
            if message["type"] == "http.disconnect":
                self.ended.append(message)
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.requests.append((scope["method"], scope["raw_path"], body))
        self.scopes.append(scope)
        content = b"%d" % len(self.requests)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]}
        )
        await send({"type": "http.response.body", "body": content})


def server_of(cy, application, max_applications=1000, binds=("127.0.0.1", 0), **overrides):
    """A server of a subclass with these overrides."""
    overrides = {"lifespan": "off", **overrides}
    return type("Server", (gateway(cy).HTTPServer,), overrides)(application, max_applications, binds=binds)


@contextlib.asynccontextmanager
async def serving_http(server):
    """The server at work in this loop; gives its addresses. It must go on until it is stopped, and leave nothing."""
    before = asyncio.all_tasks()
    addresses = server.bind()
    running = asyncio.create_task(server.arun())
    try:
        await in_time(lambda: server.serving or running.done())
        async with asyncio.timeout(PATIENCE / 2):
            yield addresses
        assert not running.done(), f"the server ended: {running!r}"
    finally:
        server.stop()
        await running
    assert not server.application_instances
    assert not server.connections
    await in_time(lambda: asyncio.all_tasks() <= before)


class Served:
    """A well-behaved client that asks again and again while an attack goes on; each answer must be 200."""

    def __init__(self, address, path=b"/other"):
        self.address = address
        self.path = path
        self.count = 0

    async def __aenter__(self):
        self.client = await RawClient(self.address).connect()
        await self.ask()
        self.asking = asyncio.create_task(self.go_on())
        return self

    async def ask(self):
        answer = await self.client.get(self.path)
        assert answer is not None and answer.status == 200
        self.count += 1

    async def go_on(self):
        while True:
            await self.ask()
            await asyncio.sleep(0.001)

    async def __aexit__(self, kind, *_):
        before = self.count
        if kind is None:
            await in_time(lambda: self.count > before or self.asking.done())
        self.asking.cancel()
        await asyncio.wait([self.asking])
        self.client.close()
        if kind is None:
            assert self.asking.cancelled(), self.asking.exception()


async def others(scope, receive, send):
    """What the well-behaved client asks for."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def beside(application):
    """The application, and the one for well-behaved clients beside it."""

    async def both(scope, receive, send):
        await (others if scope["path"] == "/other" else application)(scope, receive, send)

    return both


class Streaming:
    """An application that sends without end, or so many times; it counts what was taken, and how calls ended."""

    def __init__(self, size=65_536, times=None):
        self.chunk = b"a" * size
        self.times = times
        self.sent = 0
        self.running = 0

    async def __call__(self, scope, receive, send):
        self.running += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(self.times or 1_000_000_000):
                await send({"type": "http.response.body", "body": self.chunk, "more_body": True})
                self.sent += len(self.chunk)
            await send({"type": "http.response.body"})
        finally:
            self.running -= 1


async def trickle(client: RawClient, data: bytes, size: int = 1) -> int:
    """Sends bytes, over and over, with pauses far shorter than any deadline, until the server ends the connection.

    Gives how many were sent.
    """
    sent = 0

    async def drip() -> None:
        nonlocal sent
        while client.ended is None:
            start = sent % len(data)
            if not await client.send(data[start : start + size]):
                return
            sent += size
            await asyncio.sleep(0.005)

    dripping = asyncio.create_task(drip())
    try:
        await client.end()
    finally:
        dripping.cancel()
        await asyncio.wait([dripping])
    return sent
