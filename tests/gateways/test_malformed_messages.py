"""Messages that an application gets wrong: a TypeError or ValueError says what was given and what is accepted, in
whichever gateway and however busy the connection. Nothing of them is sent, and the application can go on."""

from __future__ import annotations

import asyncio
import collections
import importlib
import types

import pytest

from support.http_connection import Connection
from support.http_protocol_case import GET, case, part, start
from support.loops import passes
from support.websockets_raw import request
from support.websockets_serving import gateway

#: Wrong for every scope.
ANYWHERE = [
    ({}, ValueError, "unknown type of message None"),
    ({"status": 200}, ValueError, "unknown type of message None"),
    ({"type": None}, ValueError, "unknown type of message None"),
    ({"type": ["x"]}, ValueError, "unknown type of message ['x']"),
    ({"type": b"http.response.start"}, ValueError, "unknown type of message b'http.response.start'"),
    ({"type": "x.y"}, ValueError, "unknown type of message 'x.y'"),
    ("text", TypeError, "a message must be a dict, got 'text'"),
    (b"bytes", TypeError, "a message must be a dict, got b'bytes'"),
    (None, TypeError, "a message must be a dict, got None"),
    (5, TypeError, "a message must be a dict, got 5"),
    ([("type", "x")], TypeError, "a message must be a dict, got [('type', 'x')]"),
]

STATUS = "'status' of an 'http.response.start' message must be "
#: Wrong headers, and what is said of them.
HEADERS = [
    (None, TypeError, "headers of a response must be pairs of bytes: 'NoneType' object is not iterable"),
    (5, TypeError, "headers of a response must be pairs of bytes: 'int' object is not iterable"),
    ("ab", ValueError, "headers of a response must be pairs of bytes: not enough values to unpack"),
    ([b"a"], ValueError, "headers of a response must be pairs of bytes: not enough values to unpack"),
    ([None], TypeError, "headers of a response must be pairs of bytes: cannot unpack non-iterable NoneType"),
    ([("a", b"b")], TypeError, "the name of a response header must be bytes, got 'a'"),
    ([(b"a", "b")], TypeError, "the value of the response header b'a' must be bytes, got 'b'"),
    ([(b"a", None)], TypeError, "the value of the response header b'a' must be bytes, got None"),
    ([(b"content-length", 5)], TypeError, "the value of the response header b'content-length' must be bytes, got 5"),
    ([(b"content-length", b"x")], ValueError, "Content-Length must be a number of bytes, got b'x'"),
    ([(b"a b", b"")], ValueError, "b'a b' is not the name of a header"),
    ([(b"a", b"b\r\nc: d")], ValueError, "the value of the response header b'a' contains CR, LF or NUL"),
]
HTTP = {
    "before the response": (
        [],
        [
            *ANYWHERE,
            ({"type": "http.response.start"}, TypeError, STATUS + "an int, got None"),
            *((start(status), TypeError, f"{STATUS}an int, got {status!r}") for status in ("200", 200.0, True, [200])),
            *((start(status), ValueError, f"{STATUS}from 200 to 599, got {status}") for status in (0, 101, 199, 600)),
            *(({**start(), "headers": headers}, error, text) for headers, error, text in HEADERS),
            *(
                ({"type": "http.response.early_hint", **links}, TypeError, f"must be an iterable of bytes, got {got}")
                for links, got in (({}, "None"), ({"links": "</a>"}, "'</a>'"), ({"links": b"</a>"}, "b'</a>'"))
            ),
            ({"type": "http.response.early_hint", "links": ["</a>"]}, TypeError, "header b'link' must be bytes, got"),
            ({"type": "http.response.early_hint", "links": [b"a\r\nb"]}, ValueError, "b'link' contains CR, LF or NUL"),
            ({"type": "http.response.zerocopysend", "file": 5}, ValueError, "unknown type of message 'http.response.z"),
            ({"type": "http.response.push", "path": "/"}, ValueError, "unknown type of message 'http.response.push'"),
            ({"type": "http.response.debug", "info": {}}, ValueError, "unknown type of message 'http.response.debug'"),
            ({"type": "websocket.send", "text": ""}, ValueError, "unknown type of message 'websocket.send'"),
        ],
        [start(), part(b"ok")],
    ),
    "before the body": (
        [start()],
        [
            *ANYWHERE,
            *((part(body), TypeError, "must be bytes, got " + type(body).__name__) for body in ("a", 5, None, [b"a"])),
            *(
                (
                    {"type": "http.response.pathsend", **path},
                    TypeError,
                    f"'path' of an 'http.response.pathsend' message must be a str, got {path.get('path')!r}",
                )
                for path in ({}, {"path": 0}, {"path": None}, {"path": b"/etc/hostname"})
            ),
        ],
        [part(b"ok")],
    ),
    "in the body": (
        [start(), part(b"o", True)],
        [*ANYWHERE, (part("k"), TypeError, "'body' of an 'http.response.body' message must be bytes, got str")],
        [part(b"k")],
    ),
    "behind the body": (
        [start(trailers=True), part(b"ok")],
        [
            *ANYWHERE,
            *(({"type": "http.response.trailers", "headers": one}, error, text) for one, error, text in HEADERS),
        ],
        [{"type": "http.response.trailers"}],
    ),
}


def balancing(cy):
    return importlib.import_module(f"{cy.__name__}.balancing")


def trying(before, wrong, after, told, ready=None):
    """An application that sends what is wrong in between, and keeps what it is told."""

    async def application(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
        for message in before:
            await send(message)
        for message, _, _ in wrong:
            if ready is not None:
                await ready()
            try:
                await send(message)
            except Exception as error:
                told.append((message, type(error), str(error)))
        for message in after:
            await send(message)

    return application


def compare(told, wrong):
    for (message, error, text), found in zip(wrong, told, strict=True):
        assert found[:2] == (message, error), found
        assert text in found[2]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("when", HTTP)
def test_http(cy, run, when, busy):
    """The response goes on as if nothing had been sent, also where the client has not taken what came before."""
    told = []
    before, wrong, after = HTTP[when]

    async def test(connection):
        async def pause():
            connection.protocol.pause_writing()
            asyncio.get_running_loop().call_soon(connection.protocol.resume_writing)

        ready.append(pause)
        sent = await connection.ask(GET[:-2] + b"TE: trailers\r\n\r\n")
        await passes(100)
        sent += connection.take()
        compare(told, wrong)
        body = sent.partition(b"\r\n\r\n")[2]
        assert body in (b"ok", b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n")
        assert not connection.transport.closed

    ready = []

    async def until_ready():
        if busy:
            await ready[0]()

    case(cy, run, trying(before, wrong, after, told, until_ready), test)


def of_websocket(kind, name, value, error, text):
    return {"type": f"websocket.{kind}", name: value}, error, text


WEBSOCKET = {
    "before it is accepted": (
        [],
        [
            *ANYWHERE,
            *(
                of_websocket("accept", "headers", headers, error, text)
                for headers, error, text in HEADERS
                if headers is not None
            ),
            of_websocket("accept", "headers", [(b"upgrade", b"h2c")], ValueError, "b'upgrade' of a 'websocket.accept'"),
            of_websocket("accept", "subprotocol", 5, TypeError, "must be a str or None, got 5"),
            of_websocket("accept", "subprotocol", "x", ValueError, "subprotocol='x': accepted is None or what"),
            of_websocket("close", "code", "1000", TypeError, "a close code must be an int, got '1000'"),
            of_websocket("close", "code", True, TypeError, "a close code must be an int, got True"),
            of_websocket("close", "reason", 5, TypeError, "the reason of a close must be a str, got 5"),
            of_websocket("http.response.start", "x", 5, TypeError, "must be an int, got None"),
            of_websocket("http.response.start", "status", "403", TypeError, "must be an int, got '403'"),
            of_websocket("http.response.start", "status", 101, ValueError, "must be from 200 to 599, got 101"),
            ({"type": "http.response.start", "status": 200}, ValueError, "unknown type of message 'http.response.st"),
        ],
        [{"type": "websocket.accept"}],
    ),
    "when it is open": (
        [{"type": "websocket.accept"}],
        [
            *ANYWHERE,
            (
                {"type": "websocket.send"},
                TypeError,
                "must have either 'text', a str, or 'bytes', got NoneType and None",
            ),
            ({"type": "websocket.send", "text": 5}, TypeError, "got int and NoneType"),
            ({"type": "websocket.send", "text": b"a"}, TypeError, "got bytes and NoneType"),
            ({"type": "websocket.send", "bytes": "a"}, TypeError, "got NoneType and str"),
            ({"type": "websocket.send", "text": "a", "bytes": b"a"}, TypeError, "got str and bytes"),
            of_websocket("close", "code", 1006, ValueError, "the close code 1006 may not be sent"),
            of_websocket("close", "code", 1000.0, TypeError, "a close code must be an int, got 1000.0"),
            of_websocket("close", "reason", b"x", TypeError, "the reason of a close must be a str, got b'x'"),
        ],
        [],
    ),
    "in a response": (
        [{"type": "websocket.http.response.start", "status": 403}],
        [*ANYWHERE, of_websocket("http.response.body", "body", "a", TypeError, "must be bytes, got str")],
        [],
    ),
}


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("when", WEBSOCKET)
def test_websocket(cy, run, when, busy):
    """The WebSocket is what it was before."""
    told = []
    before, wrong, after = WEBSOCKET[when]
    end = {"type": "websocket.send", "text": "ok"}
    if when == "in a response":
        end = {"type": "websocket.http.response.body", "body": b"ok"}

    async def main():
        server = gateway(cy).WebSocketServer(None)
        connection = None

        async def pause():
            if busy:
                connection.protocol.pause_writing()
                asyncio.get_running_loop().call_soon(connection.protocol.resume_writing)

        application = trying(before, wrong, [*after, end], told, pause)
        server.application = application
        connection = Connection(cy, application, server=server)
        connection.feed(request())
        connection.protocol = connection.transport.protocol
        await passes(200)
        compare(told, wrong)
        assert connection.take().removesuffix(b"\x88\x02\x03\xe8").endswith(b"ok")
        await connection.end()

    run(main())


@pytest.mark.parametrize("when", HTTP)
def test_http_behind_a_balancer(cy, run, when):
    """The balancer passes it on, and what is said of it back; a response that is right in the end is a success."""
    told = []
    before, wrong, after = HTTP[when]
    balancer = balancing(cy).LoadBalancer([trying(before, wrong, after, told)])

    async def test(connection):
        await connection.ask(GET[:-2] + b"TE: trailers\r\n\r\n")
        await passes(100)
        compare(told, wrong)
        [tally] = balancer.stats()["applications"].values()
        assert (tally["succeeded"], tally["failed"]) == (1, 0)

    case(cy, run, balancer, test)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("mapping", [types.MappingProxyType, collections.UserDict])
def test_any_mapping_is_a_message(cy, run, mapping, status):
    """For the gateway and for a balancer before it."""

    async def application(scope, receive, send):
        await send(mapping(start(status)))
        await send(mapping(part(b"o", True)))
        await send(mapping(part(b"k")))

    balancer = balancing(cy).LoadBalancer([application])

    async def test(connection):
        assert (await connection.ask(GET)).endswith(b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n")
        [tally] = balancer.stats()["applications"].values()
        assert (tally["succeeded"], tally["failed"]) == ((1, 0) if status == 200 else (0, 1))

    case(cy, run, balancer, test)


LIFESPAN = [
    *ANYWHERE,
    ({"type": "lifespan.startup"}, ValueError, "unknown type of message 'lifespan.startup'"),
    (
        {"type": "lifespan.startup.failed", "message": 5},
        TypeError,
        "'message' of a 'lifespan.startup.failed' message must be a str, got 5",
    ),
]


def test_lifespan(cy, run):
    """The start goes on."""
    told = []
    lifespan = importlib.import_module(f"{cy.__name__}.gateways.lifespan")

    async def main():
        life = lifespan.Lifespan(trying([], LIFESPAN, [{"type": "lifespan.startup.complete"}], told), "on")
        await life.startup()
        compare(told, LIFESPAN)
        await life.shutdown(1)

    run(main())


def test_lifespan_behind_a_balancer(cy, run):
    """So it does where the application is one of several; there an unknown type is one that is not expected now."""
    told = []
    wrong = [
        (message, RuntimeError, f"unexpected message {message['type']!r}")
        if isinstance(message, dict) and isinstance(message.get("type"), str)
        else (message, error, text)
        for message, error, text in LIFESPAN[:-1]
    ]
    lifespan = importlib.import_module(f"{cy.__name__}.gateways.lifespan")

    async def main():
        application = trying([], wrong, [{"type": "lifespan.startup.complete"}], told)
        life = lifespan.Lifespan(balancing(cy).LoadBalancer([application]), "on")
        await life.startup()
        compare(told, wrong)
        await life.shutdown(1)

    run(main())


DATAGRAM = [
    *ANYWHERE,
    ({"type": "datagram.send"}, ValueError, "a 'datagram.send' message must have 'data'"),
    ({"type": "datagram.send", "data": "a"}, TypeError, "must be bytes, got str"),
    ({"type": "datagram.send", "data": None}, TypeError, "must be bytes, got NoneType"),
    ({"type": "datagram.send", "data": bytes(65_508)}, ValueError, "must be at most 65507 bytes, got 65508"),
    ({"type": "datagram.send", "data": b"", "client": "a"}, TypeError, "'client' of a 'datagram.send' message"),
    ({"type": "datagram.send", "data": b"", "server": ("127.0.0.1", 0.5)}, TypeError, "'server' of a 'datagram.send'"),
]


def test_datagram(cy, run):
    """What is right behind it is sent."""
    told = []
    datagram = importlib.import_module(f"{cy.__name__}.gateways.datagram")

    class Client(asyncio.DatagramProtocol):
        def __init__(self):
            self.came = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, address):
            self.came.set_result(data)

    async def main():
        application = trying([], DATAGRAM, [{"type": "datagram.send", "data": b"ok"}], told)
        server = datagram.DatagramServer(application, binds="127.0.0.1:0")
        address = server.bind()[0]
        running = asyncio.create_task(server.arun())
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_datagram_endpoint(Client, remote_addr=address)
        try:
            transport.sendto(b"hello")
            assert await client.came == b"ok"
            compare(told, DATAGRAM)
        finally:
            transport.close()
            server.stop()
            await running

    run(main())
