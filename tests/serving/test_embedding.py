"""Servers inside other programs: stopped from any thread at any time, ready when they say so, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import threading

import pytest

from support.http_connection import hello, http, talk
from support.loops import PATIENCE, passes
from support.serving import eventually, quiet, reader
from support.udp import gateway

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LOCAL = "127.0.0.1:0"


async def echo(scope, receive, send):
    while True:
        await send({"type": "datagram.send", "data": (await receive())["data"]})


def plain(cy, **attributes):
    """A server whose handle() goes on until it is cancelled."""

    async def handle(self):
        await asyncio.get_running_loop().create_future()

    return type("Server", (quiet(cy.StatelessServer),), {"handle": handle, **attributes})(reader)


def servers(cy):
    """One of each kind."""
    supervisor = importlib.import_module(f"{cy.__name__}.supervisor")
    of_http = http(cy).HTTPServer(hello, binds=LOCAL)
    of_udp = gateway(cy).DatagramServer(echo, binds=LOCAL)
    several = [http(cy).HTTPServer(hello, binds=LOCAL), gateway(cy).DatagramServer(echo, binds=LOCAL)]
    return {
        "plain": plain(cy),
        "http": of_http,
        "udp": of_udp,
        "several": supervisor.Supervisor(several),
    }


KINDS = ("plain", "http", "udp", "several")


def embedding(cy):
    return importlib.import_module(f"{cy.__name__}.embedding")


def works(server):
    """Ask the server something over its socket, if it has one, from a thread that may wait."""
    for one in getattr(server, "servers", [server]):
        if not hasattr(one, "addresses"):
            continue
        (address,) = one.addresses
        datagram = type(one).__mro__[0].__name__ == "DatagramServer"
        with socket.socket(type=socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM) as client:
            client.settimeout(PATIENCE / 2)
            client.connect(address)
            client.sendall(b"hello" if datagram else GET)
            answer = b""
            while part := client.recv(10_000):
                answer += part
                if datagram:
                    break
            assert answer.endswith(b"hello")


# ---- stop()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("debug", [False, True])
def test_stop_from_another_thread(cy, run, kind, debug):
    """It ends the server in order, in asyncio's debug mode too."""

    async def main():
        server = servers(cy)[kind]
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        await asyncio.to_thread(server.stop)
        await asyncio.wait_for(running, PATIENCE / 2)

    run(main(), debug=debug)


@pytest.mark.parametrize("kind", KINDS)
def test_stop_before_the_loop_is_up(cy, kind):
    """A stop that comes before run() has begun, or made its loop, is kept for it."""
    server = servers(cy)[kind]
    server.stop()
    thread = threading.Thread(target=server.run)
    thread.start()
    thread.join(PATIENCE / 2)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", KINDS)
def test_stop_after_the_end_is_forgotten(cy, run, kind):
    """It was for the run that has ended; the next one is not stopped by it."""

    async def main():
        server = servers(cy)[kind]
        for _ in range(2):
            async with embedding(cy).serving(server):
                await asyncio.to_thread(works, server)
            server.stop()
            server.stop()

    run(main())


def test_a_second_stop_from_another_thread_does_not_wait(cy, run):
    """The first one lets work finish, the second ends it."""
    begun = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        begun.set()
        await asyncio.get_running_loop().create_future()

    async def main():
        server = plain(cy, shutdown_timeout=1000.0)
        server.application = application
        running = asyncio.create_task(server.arun())
        await server.wait_started()
        server.get_or_create_application_instance("a", {}).put_nowait("work")
        await begun.wait()
        await asyncio.to_thread(server.stop)
        await passes(10)
        assert not running.done()
        await asyncio.to_thread(server.stop)
        await asyncio.wait_for(running, PATIENCE / 2)
        assert server.stats()["cancelled"] == 1

    run(main())


def test_stop_while_the_supervisor_starts(cy, run):
    """What is around the servers is left in order, and none of them was started."""
    supervisor = importlib.import_module(f"{cy.__name__}.supervisor")
    notes = []
    entered = asyncio.Event()

    @contextlib.asynccontextmanager
    async def around():
        try:
            entered.set()
            await asyncio.get_running_loop().create_future()
            yield
        finally:
            notes.append("left")

    async def main():
        several = supervisor.Supervisor([plain(cy)], around=around)
        running = asyncio.create_task(several.arun())
        await entered.wait()
        await asyncio.to_thread(several.stop)
        await asyncio.wait_for(running, PATIENCE / 2)
        assert notes == ["left"]

    run(main())


# ---- waiting for the start


@pytest.mark.parametrize("kind", KINDS)
def test_wait_started(cy, run, kind):
    """Waited for before the run begins, by several, one of whom gives up; port 0 has become a port."""

    async def main():
        server = servers(cy)[kind]
        waiting = [asyncio.create_task(server.wait_started()) for _ in range(3)]
        await passes(3)
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        running = asyncio.create_task(server.arun())
        await asyncio.wait_for(asyncio.gather(*waiting[1:]), PATIENCE / 2)
        await asyncio.to_thread(works, server)
        await server.wait_started()
        server.stop()
        await running

    run(main())


@pytest.mark.parametrize("kind", ["http", "udp", "several"])
def test_a_server_that_cannot_start(cy, run, kind):
    """Whoever waits is given the error that ends the run."""

    async def main():
        sock_kind = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
        with socket.socket(type=sock_kind) as taken:
            taken.bind(("127.0.0.1", 0))
            if kind != "udp":
                taken.listen()
            server = servers(cy)[kind]
            for one in getattr(server, "servers", [server])[:1]:
                one.binds = type(one)(hello, binds=taken.getsockname()).binds
            running = asyncio.create_task(server.arun())
            with pytest.raises(OSError, match="cannot listen"):
                await server.wait_started()
            with pytest.raises(OSError, match="cannot listen"):
                await running

    run(main())


def test_a_server_that_ends_before_it_serves(cy, run):
    async def main():
        server = http(cy).HTTPServer(hello, binds=LOCAL)
        server.stop()
        waiting = asyncio.create_task(server.wait_started())
        await passes(1)
        await server.arun()
        with pytest.raises(RuntimeError, match="ended before it served"):
            await waiting

    run(main())


def test_a_gateway_of_ones_own_says_when_it_serves(cy, run):
    """With `announces_start` it serves when it says so."""
    gate = asyncio.Event()

    async def handle(self):
        await gate.wait()
        self.announce_started()
        await asyncio.get_running_loop().create_future()

    async def main():
        server = plain(cy, handle=handle, announces_start=True)
        running = asyncio.create_task(server.arun())
        waiting = asyncio.create_task(server.wait_started())
        await passes(10)
        assert not waiting.done()
        gate.set()
        await waiting
        server.stop()
        await running

    run(main())


# ---- the blocks


@pytest.mark.parametrize("kind", KINDS)
def test_serving(cy, run, kind):
    """The server serves in the block, and has ended behind it."""

    async def main():
        async with embedding(cy).serving(servers(cy)[kind]) as server:
            await asyncio.to_thread(works, server)
        for one in getattr(server, "servers", [server]):
            assert one._cyasgi.server_run is None

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_in_thread(cy, kind):
    """The same for programs without a loop, as in a fixture."""
    before = threading.active_count()
    with embedding(cy).in_thread(servers(cy)[kind]) as server:
        works(server)
    assert threading.active_count() == before


def test_serving_what_cannot_start(cy, run):
    async def main():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            server = http(cy).HTTPServer(hello, binds=taken.getsockname())
            with pytest.raises(OSError, match="cannot listen"):
                async with embedding(cy).serving(server):
                    raise AssertionError("never reached")

    run(main())


def test_in_thread_what_cannot_start(cy):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = http(cy).HTTPServer(hello, binds=taken.getsockname())
        with pytest.raises(OSError, match="cannot listen"), embedding(cy).in_thread(server):
            raise AssertionError("never reached")


@pytest.mark.slow
def test_in_thread_what_does_not_start(cy):
    """It is stopped when its time is over."""

    async def handle(self):
        await asyncio.get_running_loop().create_future()

    server = plain(cy, handle=handle, announces_start=True)
    with pytest.raises(TimeoutError, match="does not serve after"), embedding(cy).in_thread(server, timeout=0.05):
        raise AssertionError("never reached")


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
def test_serving_a_server_that_ends_by_itself(cy, run, error):
    """The block is interrupted, and told why."""
    gate = asyncio.Event()

    async def handle(self):
        await gate.wait()
        if error is not None:
            raise error

    async def embedded():
        async with embedding(cy).serving(plain(cy, handle=handle)):
            gate.set()
            await asyncio.get_running_loop().create_future()

    async def main():
        with pytest.raises(RuntimeError if error is None else ZeroDivisionError):
            await embedded()

    run(main())


def test_the_blocks_own_error_is_raised(cy, run):
    """The server is stopped in order all the same."""

    async def main():
        server = plain(cy)
        with pytest.raises(ZeroDivisionError):
            async with embedding(cy).serving(server):
                raise ZeroDivisionError
        await eventually(lambda: server._cyasgi.server_run is None)

    run(main())


def test_many_times(cy, run):
    """A server can be started again, on another port."""

    async def main():
        server = http(cy).HTTPServer(hello, binds=LOCAL)
        for _ in range(3):
            async with embedding(cy).serving(server):
                assert (await talk(server.addresses[0], GET)).endswith(b"hello")

    run(main())
