"""HTTPServer on real sockets: listening, TLS, Unix sockets, lifespan, stopping, settings."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import stat
import weakref

import pytest

from support.http_connection import Recording, echo, hello, http, serving, start, talk
from support.loops import passes
from support.serving import eventually, in_time

LOCAL = "127.0.0.1:0"
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
KEEP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def server_of(cy, application, max_applications=1000, binds=LOCAL, ssl=None, **overrides):
    """A server of a subclass with these overrides."""
    return type("Server", (http(cy).HTTPServer,), overrides)(application, max_applications, binds=binds, ssl=ssl)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Contexts of a server and of a client that trusts it."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


# ---- listening -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_serves(cy, run):
    """On IPv4 and IPv6, a request each on connections of their own; every counter says so."""

    async def main():
        server = server_of(cy, hello, binds=[LOCAL, "[::1]:0"])
        async with serving(server) as addresses:
            assert [host for host, _ in addresses] == ["127.0.0.1", "::1"]
            answers = await asyncio.gather(*(talk(address, GET) for address in addresses * 3))
            assert all(answer.endswith(b"\r\n\r\nhello") for answer in answers)
        stats = server.stats()
        assert (stats["requests"], stats["connections_total"], stats["finished"]) == (6, 6, 6)
        assert (stats["connections"], stats["live"], stats["undelivered"]) == (0, 0, 0)

    run(main())


def test_unix_socket(cy, run, tmp_path):
    """A path that is left behind is taken over, one at work is not; it is gone when the server is."""
    path = tmp_path / "s"

    async def main():
        application = Recording()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        server = server_of(cy, application, binds=f"unix:{path}", lifespan="off")
        async with serving(server) as (address,):
            assert address == (str(path), None)
            assert stat.S_ISSOCK(os.stat(path).st_mode)
            assert (await talk(address, GET)).startswith(b"HTTP/1.1 200 OK\r\n")
            with pytest.raises(http(cy).ListenError, match="cannot listen on unix:"):
                server_of(cy, hello, binds=f"unix:{path}").bind()
            # The look at who is there is a connection too: accepted before this one.
            assert (await talk(address, GET)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert not path.exists()
        for scope in application.scopes:
            assert (scope["server"], scope["client"]) == ((str(path), None), None)

    run(main())


@pytest.mark.parametrize(("said", "permissions"), [({}, 0o666), ({"unix_permissions": 0o620}, 0o620)])
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_permissions_of_a_unix_socket(cy, tmp_path, umask, said, permissions):
    """Those of the setting, by default so that a proxy of another user can connect, and never those of the umask."""
    path = tmp_path / "s"
    server = server_of(cy, hello, binds=f"unix:{path}", **said)
    before = os.umask(umask)
    try:
        server.bind()
        assert stat.S_IMODE(os.stat(path).st_mode) == permissions
    finally:
        os.umask(before)
        server.close()
    assert not path.exists()


def test_a_unix_socket_that_takes_no_permissions(cy, tmp_path, monkeypatch):
    """It is told as any other address that cannot be listened on, and nothing is left of it."""
    path = tmp_path / "s"

    def chmod(*arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    server = server_of(cy, hello, binds=f"unix:{path}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", chmod)
        with pytest.raises(http(cy).ListenError, match=r"cannot listen on unix:.*: Operation not permitted$"):
            server.bind()
    assert not path.exists() and server.addresses == []


def test_tls(cy, run, certificate):
    """A listener has TLS of its own, or the server's; the scope tells of it."""
    context, trusting = certificate

    async def main():
        application = Recording()
        listener = http(cy).Listener(LOCAL, ssl=context)
        async with serving(server_of(cy, application, binds=[LOCAL, listener], lifespan="off")) as (plain, secure):
            await talk(plain, GET)
            reader, writer = await asyncio.open_connection(*secure, ssl=trusting, server_hostname="localhost")
            writer.write(GET)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()
            await writer.wait_closed()
        first, second = application.scopes
        assert (first["scheme"], second["scheme"]) == ("http", "https")
        assert "tls" not in first["extensions"]
        tls = second["extensions"]["tls"]
        assert tls["tls_version"] in (0x0303, 0x0304) and tls["cipher_suite"] and tls["client_cert_chain"] == []

    run(main())


def test_listeners_differ_in_strictness(cy, run):
    """One may be lenient where the others are not."""

    async def main():
        lenient = http(cy).Listener(LOCAL, strict=False)
        async with serving(server_of(cy, hello, binds=[LOCAL, lenient])) as (strict, other):
            request = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
            assert (await talk(strict, request)).startswith(b"HTTP/1.1 400 ")
            assert (await talk(other, request)).startswith(b"HTTP/1.1 200 ")

    run(main())


@pytest.mark.parametrize("binds", [(), 5, "nowhere", "unix:", ("127.0.0.1", 70_000), {"a": 1}, b"unix:x", [None]])
def test_wrong_binds(cy, binds):
    """What is no address is refused with an error that says what is accepted."""
    with pytest.raises((TypeError, ValueError), match=r"address|binds"):
        http(cy).HTTPServer(hello, binds=binds)


def test_a_taken_address(cy):
    """The error names it; nothing stays open."""
    first = server_of(cy, hello)
    (address,) = first.bind()
    second = server_of(cy, hello, binds=[LOCAL, address])
    with pytest.raises(http(cy).ListenError, match=f"tcp 127.0.0.1:{address[1]}"):
        second.bind()
    assert second.addresses == []
    first.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_header_size", 0),
        ("max_partial_heads", 0),
        ("max_header_count", "5"),
        ("max_target_size", 1.5),
        ("max_body_size", -1),
        ("max_connections", None),
        ("max_queue_size", 0),
        ("header_timeout", 0),
        ("keep_alive_timeout", float("inf")),
        ("request_timeout", "1"),
        ("strict", 1),
        ("access_log", "yes"),
        ("lifespan", "maybe"),
        ("root_path", "api"),
        ("root_path", "/api/"),
        ("server_header", "a\r\nb"),
        ("request_id_header", "content-length"),
        ("request_id_header", b"a"),
        ("headers", [(b"a", b"b")]),
        ("headers", (("a", "b"),)),
        ("headers", ((b"a", b"b\r\nc: d"),)),
        ("headers", ((b"Content-Length", b"1"),)),
        ("headers", ((b"connection", b"close"),)),
    ],
)
def test_settings_are_checked_when_set(cy, name, value):
    """The message names the setting, the value and what is accepted."""
    server = http(cy).HTTPServer(hello)
    before = getattr(server, name)
    with pytest.raises((TypeError, ValueError), match=f"{name}=.*accepted is"):
        setattr(server, name, value)
    assert getattr(server, name) == before


# ---- lifespan ------------------------------------------------------------------------------------------------------


class Living:
    """An application that takes part in the lifespan protocol; `fails` says in what it does not."""

    def __init__(self, fails=""):
        self.events = []
        self.fails = fails

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.events.append(scope["state"])
            await hello(scope, receive, send)
            return
        if self.fails == "not known":
            raise ValueError(scope["type"])
        scope["state"]["a"] = 1
        for phase in ("startup", "shutdown"):
            message = await receive()
            assert message == {"type": f"lifespan.{phase}"}
            self.events.append(phase)
            if self.fails == phase:
                await send({"type": f"lifespan.{phase}.failed", "message": "no luck"})
                return
            await send({"type": f"lifespan.{phase}.complete"})


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_lifespan(cy, run, mode):
    """The application starts before the first request and stops after the last; its state is in each scope, copied."""

    async def main():
        application = Living()
        server = server_of(cy, application, lifespan=mode)
        if mode == "off":
            server.state = {"b": 2}
        async with serving(server) as (address,):
            await talk(address, GET)
        if mode == "off":
            assert application.events == [{"b": 2}]
        else:
            assert application.events == ["startup", {"a": 1}, "shutdown"]
            assert application.events[1] is not server.state

    run(main())


def test_an_application_without_lifespan(cy, run):
    """It is served all the same, unless lifespan is to be on."""

    async def main():
        server = server_of(cy, Living("not known"))
        async with serving(server) as (address,):
            assert (await talk(address, GET)).endswith(b"hello")
        server.lifespan = "on"
        with pytest.raises(RuntimeError, match="takes no part in the lifespan protocol"):
            await server.arun()
        assert server.addresses == []

    run(main())


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_lifespan_fails(cy, run, phase):
    """What the application says ends arun()."""

    async def main():
        application = Living(phase)
        server = server_of(cy, application)
        task = asyncio.create_task(server.arun())
        await eventually(lambda: server.serving or task.done())
        server.stop()
        with pytest.raises(RuntimeError, match="no luck"):
            await task
        assert server.addresses == []

    run(main())


# ---- stopping ------------------------------------------------------------------------------------------------------


def test_stopping(cy, run):
    """The listener closes, connections at rest are closed, a request at work, even one whose body is still coming, is
    finished and its connection told to close."""

    async def main():
        server = server_of(cy, echo)
        running = await start(server)
        (address,) = server.addresses
        resting = await asyncio.open_connection(*address)
        working = await asyncio.open_connection(*address)
        working[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
        await in_time(lambda: len(server.connections) == 2 and server.requests == 1)
        server.stop()
        assert await resting[0].read() == b""
        with pytest.raises(OSError):
            await asyncio.open_connection(*address)
        assert not running.done()
        working[1].write(b"llo")
        answer = await working[0].read()
        assert answer.endswith(b"hello") and b"connection: close" in answer
        for _, writer in (resting, working):
            writer.close()
        await running
        assert not server.application_instances and not server.connections

    run(main())


@pytest.mark.parametrize("how", ["late", "second request"])
def test_stopping_without_patience(cy, run, how, caplog):
    """A request that takes longer than `shutdown_timeout`, or than the second request to stop, is cancelled; the log
    tells of it."""
    seen = []

    async def application(scope, receive, send):
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("over")

    async def main():
        server = server_of(cy, application, shutdown_timeout=0.05 if how == "late" else 1000.0, lifespan="off")
        running = await start(server)
        reader, writer = await asyncio.open_connection(*server.addresses[0])
        writer.write(KEEP)
        await in_time(lambda: server.requests == 1)
        await passes(5)
        server.stop()
        if how != "late":
            await passes(5)
            assert not running.done()
            server.stop()
        await running
        assert seen == ["over"]
        answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
        writer.close()
        assert not server.application_instances and not server.connections

    run(main())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "1 connection was cut with work in hand when the server stopped" in warnings


def test_runs_again(cy, run):
    """A server that has ended can be run again, on other sockets."""

    async def main():
        server = server_of(cy, hello)
        for _ in range(2):
            async with serving(server) as (address,):
                assert (await talk(address, GET)).endswith(b"hello")

    run(main())


def test_half_closed_client(cy, run):
    """A client that closes its half after the request gets the answer."""

    async def main():
        async with serving(server_of(cy, hello)) as (address,):
            assert (await talk(address, KEEP, half_close=True)).endswith(b"hello")

    run(main())


def test_the_answer_to_a_refused_request_arrives(cy, run):
    """Even if the client goes on sending, and reads only then."""

    async def main():
        async with serving(server_of(cy, hello)) as (address,):
            answer = await talk(address, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1_000_000, half_close=True)
            assert answer.startswith(b"HTTP/1.1 431 ")

    run(main())


def test_nothing_refers_to_what_is_over(cy, run):
    """Requests and connections are gone with their last reference: no collector is needed."""
    alive = []

    async def application(scope, receive, send):
        alive.append(weakref.ref(asyncio.current_task()))
        await hello(scope, receive, send)

    async def main():
        server = server_of(cy, application, lifespan="off")
        async with serving(server) as (address,):
            gc.collect()
            gc.disable()
            try:
                for _ in range(3):
                    await talk(address, KEEP + GET)
                await passes(5)
                connections = [one for one in gc.get_objects() if type(one).__name__ == "Exchange"]
                assert connections == []
                assert [one() for one in alive] == [None] * 6
            finally:
                gc.enable()

    run(main())
