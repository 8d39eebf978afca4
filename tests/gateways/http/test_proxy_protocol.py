"""The PROXY protocol before HTTP, WebSockets and TLS: for whom connections come, and which are refused."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import ssl

import pytest

from support.certificates import write_certificates
from support.http_connection import hello, http, serving
from support.loops import PATIENCE
from support.managed_servers import lifecycle
from support.serving import in_time
from support.websockets_raw import request as handshake

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2 = SIGNATURE + b"\x21\x11\0\x14" + bytes([192, 0, 2, 1, 198, 51, 100, 2, 0xDC, 0x04, 1, 0xBB]) + b"\x04\0\x05skip!"
LOCAL = SIGNATURE + b"\x20\0\0\0"
UNIX = SIGNATURE + b"\x21\x31\0\xd8" + b"/run/a".ljust(108, b"\0") + bytes(108)
CLIENT, SERVER = ("192.0.2.1", 56324), ("198.51.100.2", 443)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n"
LAST = GET % b"Connection: close\r\n"


class Scopes(list):
    """An application that keeps its scopes."""

    async def __call__(self, scope, receive, send):
        self.append(scope)
        await hello(scope, receive, send)


@contextlib.asynccontextmanager
async def connected(address, *data, tls=None):
    """A connection on which this has been sent."""
    if address[1] is None:
        reader, writer = await asyncio.open_unix_connection(address[0])
    else:
        reader, writer = await asyncio.open_connection(*address)
    try:
        for one in data:
            writer.write(one)
            await writer.drain()
        if tls is not None:
            await writer.start_tls(tls, server_hostname="127.0.0.1")
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def ask(address, *data):
    """What comes back until the connection is closed, or reset."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE / 2), connected(address, *data) as (reader, _):
            return await reader.read()
    return b""


def make(cy, application, *, binds="127.0.0.1:0", managed=False, **settings):
    base = http(cy).HTTPServer
    cls = type("Server", (lifecycle(cy).ManagedServer, base), {}) if managed else base
    server = cls(application, binds=binds)
    server.lifespan = "off"
    server.proxy_protocol = True
    for name, value in settings.items():
        setattr(server, name, value)
    return server


@pytest.mark.parametrize("pieces", ["whole", "header first", "bytes"])
@pytest.mark.parametrize(
    ("header", "client", "asked"),
    [(V1, CLIENT, SERVER), (V2, CLIENT, SERVER), (UNIX, ("/run/a", None), None), (LOCAL, None, None)],
)
def test_headers(cy, run, pieces, header, client, asked):
    """The scope has the addresses of the header, or those of the connection if the proxy speaks for itself."""
    scopes = Scopes()

    async def main():
        server = make(cy, scopes)
        async with serving(server) as [address]:
            data = {
                "whole": [header + LAST],
                "header first": [header, LAST],
                "bytes": [bytes([byte]) for byte in header + LAST],
            }[pieces]
            assert (await ask(address, *data)).endswith(b"hello")
            [scope] = scopes
            if header is LOCAL:
                assert scope["client"][0] == "127.0.0.1" and scope["server"] == address
            else:
                assert (scope["client"], scope["server"]) == (client, asked)
        assert server.stats()["proxy_refused"] == 0

    run(main())


def test_a_connection_keeps_its_client(cy, run):
    """All requests of a connection are of one client, and what looks like a header later on is a malformed request."""
    scopes = Scopes()

    async def main():
        async with serving(make(cy, scopes)) as [address], connected(address, V2 + GET % b"") as (reader, writer):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
            writer.write(GET % b"X-A: b\r\n")
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
            writer.write(V1 + GET)
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
        assert [scope["client"] for scope in scopes] == [CLIENT] * 2

    run(main())


REFUSED = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "there is no PROXY header"),
    (b"\x16\x03\x01\x02\x00\x01", "there is no PROXY header"),
    (b"PROXY TCP4 192.0.2.256 198.51.100.2 56324 443\r\n", "malformed address"),
    (b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n", "longer than 107 bytes"),
    (SIGNATURE + b"\x21\x11\xff\xff", "bytes: accepted are"),
    (SIGNATURE + b"\x31\x11\0\0", "version and command 0x31"),
]


@pytest.mark.parametrize(("data", "why"), REFUSED)
def test_refused(cy, run, caplog, data, why):
    """Whatever does not begin with a header is closed without an answer, counted, and logged once a second at most."""
    scopes = Scopes()

    async def main():
        server = make(cy, scopes)
        async with serving(server) as [address]:
            for _ in range(5):
                assert await ask(address, data) == b""
            assert server.stats()["proxy_refused"] == 5
            assert (await ask(address, V1 + LAST)).endswith(b"hello")

    run(main())
    assert len(scopes) == 1
    lines = [record.getMessage() for record in caplog.records if record.name == "cyasgi.gateways.proxy"]
    # What came in the same second is told when the server stops.
    assert len(lines) == 2 and all(why in line and "127.0.0.1" in line for line in lines)
    assert lines[0].startswith("1 connection was refused") and lines[1].startswith("4 connections were refused")


def test_refused_from_elsewhere(cy, run, caplog):
    """The header of somebody who is not trusted is not even read."""
    scopes = Scopes()

    async def main():
        server = make(cy, scopes, forwarded_allow_ips="192.0.2.0/24")
        async with serving(server) as [address]:
            assert await ask(address, V1 + LAST) == b""
            assert server.stats()["proxy_refused"] == 1
            assert not server.connections

    run(main())
    assert not scopes
    assert "it is not among forwarded_allow_ips" in caplog.text


def test_who_leaves_without_a_word(cy, run, caplog):
    """Looking whether the port is open is no fault; leaving within a header is."""

    async def main():
        server = make(cy, hello)
        async with serving(server) as [address]:
            async with connected(address):
                pass
            async with connected(address, b"PROXY "):
                pass
            await in_time(lambda: server.stats()["proxy_refused"] == 1)
            assert (await ask(address, V1 + LAST)).endswith(b"hello")
        assert server.stats()["proxy_refused"] == 1

    run(main())
    [record] = [record for record in caplog.records if record.levelno > logging.INFO]
    assert "the PROXY header is incomplete" in record.getMessage()


@pytest.mark.slow
def test_a_header_that_does_not_come(cy, run, caplog):
    """It has `first_byte_timeout`, however slowly its bytes come."""

    async def main():
        server = make(cy, hello, first_byte_timeout=0.2)
        async with serving(server) as [address]:
            async with connected(address) as (silent, _), connected(address, b"PROXY") as (slow, _):
                async with asyncio.timeout(PATIENCE / 2):
                    assert await silent.read() == b""
                    assert await slow.read() == b""
            assert server.stats()["proxy_refused"] == 2

    run(main())
    assert "no PROXY header came within 0.2 seconds" in caplog.text


@pytest.mark.slow
def test_many_wait_for_a_header(cy, run):
    """Beyond what there is room for, the one that has waited longest goes."""

    async def main():
        server = make(cy, hello, max_connections=1)
        async with serving(server) as [address], contextlib.AsyncExitStack() as stack:
            first, _ = await stack.enter_async_context(connected(address, b"PROXY "))
            for _ in range(64):
                await stack.enter_async_context(connected(address, b"PROXY "))
            async with asyncio.timeout(PATIENCE / 2):
                with contextlib.suppress(ConnectionError):
                    assert await first.read() == b""
            assert server.refused == 1
            assert (await ask(address, V1 + LAST)).endswith(b"hello")

    run(main())


def test_a_stop_closes_what_waits(cy, run):
    async def main():
        server = make(cy, hello)
        async with contextlib.AsyncExitStack() as stack:
            async with serving(server) as [address]:
                reader, _ = await stack.enter_async_context(connected(address, b"PROXY "))
                assert (await ask(address, V1 + LAST)).endswith(b"hello")
            async with asyncio.timeout(PATIENCE / 2):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""

    run(main())


def test_each_listener_by_itself(cy, run):
    """Listeners may differ from the server, each in its own way."""
    scopes = Scopes()

    async def main():
        listener = http(cy).Listener
        binds = [listener("127.0.0.1:0"), listener("127.0.0.1:0", proxy_protocol=False)]
        async with serving(make(cy, scopes, binds=binds)) as [asks, asks_not]:
            assert (await ask(asks, V1 + LAST)).endswith(b"hello")
            assert await ask(asks, LAST) == b""
            assert (await ask(asks_not, LAST)).endswith(b"hello")
            assert (await ask(asks_not, V1 + LAST)).startswith(b"HTTP/1.1 400")

    run(main())
    assert [scope["client"][0] for scope in scopes] == ["192.0.2.1", "127.0.0.1"]
    with pytest.raises(TypeError, match="proxy_protocol=1: accepted is True, False or None"):
        http(cy).Listener("127.0.0.1:0", proxy_protocol=1)


@pytest.mark.parametrize(("named", "expected"), [(b"192.0.2.1", "192.0.2.1"), (b"10.0.0.1", "203.0.113.9")])
def test_with_headers(cy, run, named, expected):
    """Headers count if whom the PROXY protocol names is a proxy that is trusted, and not if it is a client."""
    scopes = Scopes()

    async def main():
        server = make(cy, scopes, proxy_headers=True, forwarded_allow_ips="127.0.0.1,10.0.0.0/8")
        async with serving(server) as [address]:
            head = b"PROXY TCP4 %b 198.51.100.2 1 443\r\n" % named
            forged = GET % b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n"
            assert (await ask(address, head + forged)).endswith(b"hello")

    run(main())
    [scope] = scopes
    assert scope["client"][0] == expected
    assert scope["scheme"] == ("https" if expected == "203.0.113.9" else "http")


@pytest.mark.slow
@pytest.mark.parametrize("header", [V1, V2])
def test_tls(cy, run, tmp_path, header):
    """The header comes before the handshake, and nothing of that is lost to it."""
    scopes = Scopes()
    write_certificates(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")

    async def main():
        binds = [http(cy).Listener("127.0.0.1:0", served)]
        server = make(cy, scopes, binds=binds)
        async with serving(server) as [address]:
            async with asyncio.timeout(PATIENCE / 2), connected(address, header, tls=context) as (reader, writer):
                writer.write(LAST)
                assert (await reader.read()).endswith(b"hello")
            assert await ask(address, b"\x16\x03\x01\x02\x00\x01") == b""
            assert server.stats()["proxy_refused"] == 1

    run(main())
    [scope] = scopes
    assert (scope["client"], scope["server"], scope["scheme"]) == (CLIENT, SERVER, "https")


@pytest.mark.slow
def test_limits_and_the_access_log(cy, run):
    """Each client behind the proxy has its own limit and its own lines in the log."""
    log = io.StringIO()

    async def main():
        limits = {"max_messages_per_second": 0.001, "message_burst": 1}
        async with serving(make(cy, hello, managed=True, access_log=log, **limits)) as [address]:
            heads = [V1, V2, V1.replace(b"192.0.2.1", b"192.0.2.9")]
            return [(await ask(address, head + LAST)).split()[1] for head in heads]

    assert run(main()) == [b"200", b"429", b"200"]
    clients = [line.split()[0] for line in log.getvalue().splitlines()]
    assert clients == ["192.0.2.1:56324", "192.0.2.1:56324", "192.0.2.9:56324"]


@pytest.mark.slow
@pytest.mark.parametrize("trusted", ["unix", "127.0.0.1"])
def test_unix_sockets(cy, run, tmp_path, trusted):
    scopes = Scopes()

    async def main():
        server = make(cy, scopes, binds=f"unix:{tmp_path / 's'}", forwarded_allow_ips=trusted)
        async with serving(server) as [address]:
            found = await ask(address, V2 + LAST)
            assert found.endswith(b"hello") if trusted == "unix" else found == b""

    run(main())
    assert [scope["client"] for scope in scopes] == ([CLIENT] if trusted == "unix" else [])


@pytest.mark.slow
def test_websockets(cy, run):
    scopes = []

    async def application(scope, receive, send):
        scopes.append(scope)
        await receive()
        await send({"type": "websocket.close"})

    async def main():
        async with serving(make(cy, application)) as [address]:
            assert b" 403 " in await ask(address, V2 + handshake())

    run(main())
    [scope] = scopes
    assert (scope["type"], scope["client"], scope["server"]) == ("websocket", CLIENT, SERVER)


@pytest.mark.slow
@pytest.mark.parametrize("data", [V1, V2])
def test_a_server_that_hands_over_its_sockets(cy, run, data):
    """It still serves whoever has been accepted and whose header is on its way."""
    scopes = Scopes()

    async def main():
        server = make(cy, scopes, keep_alive_timeout=0.2)
        async with serving(server) as [address], connected(address, data[:5]) as (reader, writer):
            [accepting] = server._accepting
            await in_time(lambda: accepting.beginning)
            handing_over = asyncio.create_task(server.hand_over())
            await asyncio.sleep(0)
            writer.write(data[5:] + GET % b"")
            async with asyncio.timeout(PATIENCE / 2):
                assert (await reader.read()).endswith(b"hello")
                await handing_over

    run(main())
    assert [scope["client"] for scope in scopes] == [CLIENT]
