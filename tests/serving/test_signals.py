"""SIGINT and SIGTERM: a server in a process of its own ends in order at the first of them."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from support.signalled import BOTH, start as start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
def test_ends_run(start, number):
    """A signal ends run(), which returns; the handlers that were there before are there again."""
    process = start("""
        async def application(scope, receive, send):
            await receive()

        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        Base(application).run()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        say("returned")
    """)
    process.wait_for("ready")
    process.send(number)
    assert process.end() == ["ready", "stopping", "returned"]


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
def test_drains_first(start, number):
    """At the first signal the messages that are queued are worked off, then applications are cancelled and clean up."""
    process = start("""
        class Server(Base):
            def begin(self):
                queue = self.get_or_create_application_instance("a", {})
                for number in range(20):
                    queue.put_nowait(number)

        async def application(scope, receive, send):
            try:
                while True:
                    message = await receive()
                    await asyncio.sleep(0.005)
                    await send(message)
            finally:
                await asyncio.sleep(0.005)
                say("cleaned up")

        server = Server(application)
        server.run()
        say("left", len(server.application_instances), server.stats()["closing"], server.stats()["undelivered"])
    """)
    process.wait_for("ready")
    process.send(number)
    lines = process.end()
    assert [line for line in lines if line.startswith("sent")] == [f"sent {number}" for number in range(20)]
    assert lines[-2:] == ["cleaned up", "left 0 0 0"]


@pytest.mark.slow
def test_with_a_listener_and_handle_returned(start):
    """With handle() returned and a listener open, a signal closes that before anything is drained."""
    process = start("""
        import warnings

        # Nobody closes what asyncio has accepted as its last.
        warnings.simplefilter("ignore", ResourceWarning)

        class Server(Base):
            async def handle(self):
                listener = await asyncio.start_server(self.connected, "127.0.0.1", 0)
                self.address = listener.sockets[0].getsockname()
                self.get_or_create_application_instance("a", {}).put_nowait(1)
                say("ready")

            async def connected(self, reader, writer):
                writer.close()

        async def application(scope, receive, send):
            await receive()
            while True:
                try:
                    reader, writer = await asyncio.open_connection(*server.address)
                except OSError:
                    say("refused")
                    return
                writer.close()
                await asyncio.sleep(0.005)

        server = Server(application)
        server.run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    assert process.end() == ["ready", "refused", "returned"]


#: Newer releases of asyncio close all connections when serve_forever() ends.
CLOSES_CLIENTS = "close_clients" in asyncio.base_events.Server.serve_forever.__code__.co_names


@pytest.mark.slow
@pytest.mark.parametrize(
    "waits",
    [
        "await for_ever()",
        pytest.param(
            "await self.listener.serve_forever()",
            marks=pytest.mark.skipif(CLOSES_CLIENTS, reason="here serve_forever() closes all connections at its end"),
        ),
    ],
)
def test_answers_that_are_under_way(start, waits):
    """The documented HTTP pattern: a call that is under way when the signal comes still answers its client."""
    process = start(
        """
        import socket, threading

        class Server(Base):
            async def handle(self):
                self.listener = await asyncio.start_server(self.connected, "127.0.0.1", 0)
                self.client = threading.Thread(target=client, args=self.listener.sockets[0].getsockname())
                self.client.start()
                try:
                    {waits}
                finally:
                    self.listener.close()

            async def connected(self, reader, writer):
                instance = await self.get_or_create_application_instance(id(writer), {})

                async def send(message):
                    writer.write(message)
                    await writer.drain()

                await instance["application"]({}, reader.readline, send)
                await self.delete_application_instance(id(writer))
                writer.close()

        def client(host, port):
            with socket.create_connection((host, port)) as connection:
                connection.sendall(b"hello\\n")
                say(connection.recv(1000).decode())

        async def application(scope, receive, send):
            await receive()
            say("ready")
            while True:
                await asyncio.sleep(0.005)
                if not server.listener.is_serving():
                    break
            await asyncio.sleep(0.02)
            await send(b"answer")

        server = Server(application)
        server.run()
        server.client.join()
        say("returned", len(server.application_instances))
    """.replace("{waits}", waits)
    )
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    assert process.end() == ["ready", "answer", "returned 0"]


@pytest.mark.slow
def test_usable_again_after_a_signal(start):
    """After a signal the same server runs again, and a signal ends it again."""
    process = start("""
        class Server(Base):
            def begin(self):
                self.get_or_create_application_instance("a", {}).put_nowait("hello")

        async def application(scope, receive, send):
            while True:
                await send(await receive())

        server = Server(application)
        server.run()
        say("again")
        server.run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    process.wait_for("again")
    process.wait_for("ready")
    process.send(signal.SIGINT)
    lines = process.end()
    assert lines.count("sent hello") == 2, "|".join(lines)
    assert lines[-1] == "returned"


@pytest.mark.slow
def test_own_handlers_come_back(start):
    """Handlers that the program has installed before run() are called again after it, not meanwhile."""
    process = start("""
        signal.signal(signal.SIGTERM, lambda *arguments: say("mine"))

        async def application(scope, receive, send):
            await receive()

        Base(application).run()
        os.kill(os.getpid(), signal.SIGTERM)
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    assert process.end() == ["ready", "stopping", "mine", "returned"]


@pytest.mark.slow
def test_loop_that_sleeps_is_woken(start):
    """A loop with nothing to do and no timer set is woken by the signal."""
    process = start("""
        class Server(Base):
            application_checker_interval = 3600

        async def application(scope, receive, send):
            await receive()

        Server(application).run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    assert process.end() == ["ready", "stopping", "returned"]


@pytest.mark.slow
def test_signal_before_handle_is_there(start):
    """A signal that comes as the very first thing ends the server as well."""
    process = start("""
        class Server(Base):
            async def arun(self):
                os.kill(os.getpid(), signal.SIGTERM)
                await super().arun()

        async def application(scope, receive, send):
            await receive()

        Server(application).run()
        say("returned")
    """)
    assert process.end()[-1] == "returned"


@pytest.mark.slow
def test_overrides_clean_up_at_a_signal(start):
    """An `async def` override of delete_application_instance runs to its end when a signal ends the server."""
    process = start("""
        class Server(Base):
            def begin(self):
                for name in "ab":
                    self.get_or_create_application_instance(name, {})

            async def delete_application_instance(self, scope_id):
                await asyncio.sleep(0.01)
                await super().delete_application_instance(scope_id)
                say("deleted", scope_id)

        async def application(scope, receive, send):
            await receive()

        Server(application).run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    lines = process.end()
    assert sorted(lines) == ["deleted a", "deleted b", "ready", "returned", "stopping"]
    assert lines[-1] == "returned"


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
def test_arun_of_ones_own_is_not_handled(start, number):
    """arun() under asyncio.run() leaves signals to Python: SIGINT is its KeyboardInterrupt, with the clean-up done."""
    process = start("""
        class Server(Base):
            def begin(self):
                self.get_or_create_application_instance("a", {})

        async def application(scope, receive, send):
            say("started")
            try:
                await receive()
            finally:
                say("cleaned up")

        async def main():
            # What Python itself does with SIGTERM is to end the process on the spot.
            signal.signal(signal.SIGTERM, lambda *arguments: say("terminated") or os._exit(0))
            await server.arun()

        server = Server(application)
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say("interrupted", len(server.application_instances))
    """)
    process.wait_for("started")
    process.send(number)
    lines = process.end()
    if number == signal.SIGTERM:
        assert lines == ["ready", "started", "terminated"]
    else:
        assert sorted(lines) == ["cleaned up", "interrupted 0", "ready", "started", "stopping"]
