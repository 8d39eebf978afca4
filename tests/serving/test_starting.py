"""How an application's start is waited for, bounded and reported: nobody can connect before it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import signal
import socket

import pytest
from starlette.applications import Starlette

from support.http_connection import hello, http, serving, start, talk
from support.loops import PATIENCE
from support.serving import eventually, in_time
from support.udp import Command

LOCAL = "127.0.0.1:0"
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def server_of(cy, application, **overrides):
    binds = overrides.pop("binds", LOCAL)
    return type("Server", (http(cy).HTTPServer,), overrides)(application, binds=binds)


def lifespan_error(cy):
    return importlib.import_module(f"{cy.__name__}.gateways.lifespan").LifespanError


def starting(lifespan):
    """An application with this lifespan, a coroutine function of (receive, send), that answers requests."""

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await hello(scope, receive, send)

    return application


async def raises(receive, send):
    await receive()
    raise OSError("no database")


async def refuses(receive, send):
    raise ValueError("what is a lifespan?")


# ---- nobody can connect before -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_nobody_can_connect_before_the_application_has_started(cy, run, tmp_path, caplog, kind):
    """The address is bound, and refuses connections until the application has started; a line says what is waited
    for."""
    caplog.set_level(logging.INFO)

    async def main():
        gate, asked = asyncio.Event(), asyncio.Event()

        async def slow(receive, send):
            await receive()
            asked.set()
            await gate.wait()
            await send({"type": "lifespan.startup.complete"})
            await receive()

        path = str(tmp_path / "server.sock")
        server = server_of(cy, starting(slow), binds=f"unix:{path}" if kind == "unix" else LOCAL)
        (address,) = server.bind()
        running = asyncio.create_task(server.arun())
        await asked.wait()

        def connect():
            return asyncio.open_unix_connection(path) if kind == "unix" else asyncio.open_connection(*address)

        with pytest.raises(ConnectionRefusedError):
            await connect()
        assert "waiting for the application to start" in caplog.text
        gate.set()
        await in_time(lambda: server.serving)
        reader, writer = await connect()
        writer.write(GET)
        assert (await reader.read()).endswith(b"hello")
        writer.close()
        server.stop()
        await running

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_address_whose_server_has_not_started_yet_is_taken(cy, tmp_path, kind):
    """A server that is bound and does not listen yet keeps its address, on TCP and on a Unix socket."""
    first = server_of(cy, hello, binds=f"unix:{tmp_path / 'server.sock'}" if kind == "unix" else LOCAL)
    (address,) = first.bind()
    second = server_of(cy, hello, binds=f"unix:{address[0]}" if kind == "unix" else address)
    with pytest.raises(http(cy).ListenError, match="Address already in use"):
        second.bind()
    first.close()
    assert second.bind() == [address]
    second.close()


def test_an_address_with_connections_of_the_server_before(cy, run):
    """Connections that wait for their end (TIME_WAIT) do not keep the next server from the address."""

    async def main():
        server = server_of(cy, hello)
        async with serving(server) as (address,):
            assert (await talk(address, GET)).endswith(b"hello")
        again = server_of(cy, hello, binds=address)
        async with serving(again) as addresses:
            assert addresses == [address]
            assert (await talk(address, GET)).endswith(b"hello")

    run(main())


# ---- applications that fail to start, or take too long -------------------------------------------------------------


@pytest.mark.slow
def test_startup_timeout(cy, run):
    """An application that does not start in time is cancelled, and the server ends with an error."""
    ended = []

    async def hangs(receive, send):
        await receive()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cancelled")

    async def main():
        server = server_of(cy, starting(hangs), startup_timeout=0.05)
        with pytest.raises(lifespan_error(cy), match=r"failed to start: it has not answered within 0\.05 seconds"):
            await asyncio.wait_for(server.arun(), PATIENCE / 2)
        assert ended == ["cancelled"]
        assert server.addresses == []

    run(main())


@pytest.mark.parametrize("value", [0, -1, float("nan"), "5", True])
def test_startup_timeout_is_checked(cy, value):
    with pytest.raises((TypeError, ValueError), match="startup_timeout"):
        server_of(cy, hello, startup_timeout=value)


def test_auto_serves_an_application_that_raises_while_it_starts(cy, run, caplog):
    """It has taken part and failed: a warning with its traceback says that it is served without its lifespan."""

    async def main():
        async with serving(server_of(cy, starting(raises))) as (address,):
            assert (await talk(address, GET)).endswith(b"hello")

    run(main())
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no database" in record.getMessage()
    assert "served without its lifespan" in record.getMessage()
    assert str(record.exc_info[1]) == "no database"


def test_auto_says_nothing_of_an_application_that_takes_no_part(cy, run, caplog):
    """One that refuses the scope without having taken a message knows no lifespan, which is no fault."""

    async def main():
        async with serving(server_of(cy, starting(refuses))) as (address,):
            assert (await talk(address, GET)).endswith(b"hello")

    run(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_on_ends_with_what_the_application_raised(cy, run):
    async def main():
        server = server_of(cy, starting(raises), lifespan="on")
        with pytest.raises(lifespan_error(cy), match="failed to start: it raised") as caught:
            await server.arun()
        assert str(caught.value.__cause__) == "no database"

    run(main())


def test_a_balanced_application_that_raises_while_it_starts(cy, run, caplog):
    """It is served all the same, with a warning that has its traceback; one that takes no part is not spoken of."""
    balancing = importlib.import_module(f"{cy.__name__}.balancing")

    async def main():
        balancer = balancing.LoadBalancer({"a": starting(raises), "b": starting(refuses)})
        async with serving(server_of(cy, balancer)) as (address,):
            for _ in range(2):
                assert (await talk(address, GET)).endswith(b"hello")

    run(main())
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("application 'a' raised")
    assert str(record.exc_info[1]) == "no database"


# ---- applications whose lifespan dies while they are served --------------------------------------------------------


def dying(trigger):
    """A Starlette application whose lifespan's task group fails when `trigger` is set."""

    async def fail():
        await trigger.wait()
        raise OSError("the queue has gone")

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            yield

    return Starlette(lifespan=lifespan)


def plainly_dying(trigger):
    """The same without a framework that says so by itself."""

    async def lifespan(receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trigger.wait()
        raise OSError("the queue has gone")

    return starting(lifespan)


@pytest.mark.parametrize("build", [dying, plainly_dying])
def test_a_lifespan_that_dies_while_serving_is_logged_at_once(cy, run, caplog, build):
    """The error comes when it happens; requests are served on, and the stop tells that something was wrong."""

    async def main():
        trigger = asyncio.Event()
        server = server_of(cy, build(trigger))
        running = await start(server)
        trigger.set()
        await eventually(lambda: "the application's lifespan failed while it is served" in caplog.text)
        assert "the queue has gone" in caplog.text
        assert (await talk(server.addresses[0], GET)).startswith(b"HTTP/1.1 ")
        told = len(caplog.records)
        server.stop()
        with pytest.raises(lifespan_error(cy), match="failed while it was served"):
            await running
        assert len(caplog.records) == told

    run(main())


# ---- the command ---------------------------------------------------------------------------------------------------

CODE = """
import asyncio, contextlib, sys
from starlette.applications import Starlette

async def leaves(scope, receive, send):
    await receive()
    sys.exit(7)

async def says_why(scope, receive, send):
    await receive()
    sys.exit("DATABASE_URL is not set")

async def raises(scope, receive, send):
    await receive()
    raise OSError("no database")

async def fail():
    raise OSError("no database")

@contextlib.asynccontextmanager
async def lifespan(app):
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await asyncio.get_running_loop().create_future()
        yield

grouped = Starlette(lifespan=lifespan)

async def hangs(scope, receive, send):
    await receive()
    await asyncio.get_running_loop().create_future()
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("name", "arguments", "code", "last", "traceback"),
    [
        ("leaves", [], 7, "the application has ended the server by sys.exit(7)", False),
        ("says_why", [], 1, "DATABASE_URL is not set", False),
        (
            "raises",
            ["--lifespan", "on"],
            1,
            "the application failed to start: it raised OSError('no database')",
            True,
        ),
        ("grouped", [], 1, "the application failed to start: OSError: no database", True),
        (
            "hangs",
            ["--startup-timeout", "0.1"],
            1,
            "the application failed to start: it has not answered within 0.1 seconds",
            False,
        ),
    ],
)
def test_the_command(tmp_path, loop, name, arguments, code, last, traceback):
    """The command ends with one line, after the application's own traceback if it has raised something."""
    (tmp_path / "starts.py").write_text(CODE, encoding="utf-8")
    options = ["--http", LOCAL, "--loop", loop, *arguments]
    with Command("serve", *options, f"starts:{name}", cwd=tmp_path) as command:
        assert command.wait() == code
        assert command.lines[-1] == f"cyasgi: {last}"
        assert any("Traceback" in line for line in command.lines) is traceback
        assert not [line for line in command.lines if "never retrieved" in line or "listening" in line]


@pytest.mark.slow
def test_the_command_does_not_listen_while_the_application_starts(tmp_path):
    (tmp_path / "starts.py").write_text(CODE, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Command("serve", "--http", f"127.0.0.1:{port}", "starts:hangs", cwd=tmp_path) as command:
        command.until("waiting for the application to start")
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
        command.stop(signal.SIGTERM)
        assert not [line for line in command.lines if "listening" in line]
