"""SIGINT and SIGTERM: a server in a process of its own ends in order at the first, at once at the second."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap

import pytest

from support.serving import environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

#: What every script begins with; `{block}` keeps uvloop away where asyncio's own loop is to be used.
PREAMBLE = """
import asyncio, contextlib, faulthandler, logging, os, signal, sys
faulthandler.dump_traceback_later(25, exit=True)    # a script that hangs says where, and is no burden to others
{block}
from cyasgi.server import StatelessServer

def say(*words):
    print(*words, flush=True)

async def for_ever():
    await asyncio.get_running_loop().create_future()

class Base(StatelessServer):
    async def application_send(self, scope, message):
        say("sent", message)

    async def handle(self):
        self.begin()
        say("ready")
        try:
            await for_ever()
        finally:
            say("stopping")

    def begin(self):
        pass

    def application_undelivered(self, messages, details):
        say("undelivered", *messages)
"""

BOTH = [signal.SIGINT, signal.SIGTERM]

#: The one traceback that a LookupError of a script's application has.
TRACEBACK = (
    r"Traceback \(most recent call last\):\n(?:  [^\n]*\n)*"
    r'  File "[^"\n]*script\.py", line \d+, in application\n    raise LookupError\nLookupError\n'
)


class Process:
    """A script under way, and what it has said."""

    def __init__(self, path, backend):
        self.lines = []
        self._errors = path.with_suffix(".err")
        with self._errors.open("w") as errors:
            self._process = self._start(path, backend, errors)

    @staticmethod
    def _start(path, backend, errors):
        return subprocess.Popen(
            [sys.executable, "-W", "error", str(path)],
            cwd=path.parent,
            env=environment(CYASGI_BACKEND=backend),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def wait_for(self, line):
        """Reads what it says up to this line."""
        while True:
            said = self._process.stdout.readline()
            assert said, (self.lines, self._errors.read_text())
            self.lines.append(said.rstrip("\n"))
            if self.lines[-1] == line:
                return

    def send(self, number):
        self._process.send_signal(number)

    def end(self, complaint="", rest=""):
        """Waits for its end; gives all the lines it has said. It must have ended well, with no complaint but this line,
        and with a `rest` that matches."""
        self.lines.extend(self._process.stdout.read().splitlines())
        self._process.wait(60)
        err = self._errors.read_text()
        assert self._process.returncode == 0, (self.lines, err)
        first, _, following = err.partition("\n")
        assert first == complaint, (self.lines, err)
        assert re.fullmatch(rest, following), (self.lines, err)
        return self.lines

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def start(request, tmp_path, cy):
    """start(script) runs it in a process of its own, on either loop."""
    processes = []

    def start(script):
        block = 'sys.modules["uvloop"] = None' if request.param == "asyncio" else "import uvloop"
        path = tmp_path / "script.py"
        path.write_text(PREAMBLE.format(block=block) + textwrap.dedent(script), encoding="utf-8")
        processes.append(Process(path, cy.backend))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


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
@pytest.mark.parametrize("number", BOTH)
def test_second_signal_cancels_at_once(start, number):
    """At the second signal nothing is drained any more: applications are cancelled, and clean up."""
    process = start("""
        class Server(Base):
            shutdown_timeout = 100.0

            def begin(self):
                queue = self.get_or_create_application_instance("a", {})
                queue.put_nowait("at work on")
                queue.put_nowait("left")

        async def application(scope, receive, send):
            try:
                await receive()
                await for_ever()
            finally:
                await asyncio.sleep(0.005)
                say("cleaned up")

        Server(application).run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(number)
    process.wait_for("stopping")
    process.send(number)
    said = process.end("1 application was cut with work in hand, at the second stop of the server: scope_id 'a'")
    assert said == ["ready", "stopping", "cleaned up", "undelivered left", "returned"]


@pytest.mark.slow
def test_second_signal_may_be_the_other_one(start):
    """It makes no difference which of the two signals comes second."""
    process = start("""
        class Server(Base):
            shutdown_timeout = 100.0

            def begin(self):
                self.get_or_create_application_instance("a", {}).put_nowait(1)

        async def application(scope, receive, send):
            await for_ever()

        Server(application).run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    process.wait_for("stopping")
    process.send(signal.SIGINT)
    said = process.end("1 application was cut with work in hand, at the second stop of the server: scope_id 'a'")
    assert said[-1] == "returned"


@pytest.mark.slow
def test_second_signal_while_handle_cleans_up(start):
    """A handle() that takes its time over its clean-up is not waited for after a second signal."""
    process = start("""
        class Server(Base):
            shutdown_timeout = 100.0

            async def handle(self):
                say("ready")
                try:
                    await for_ever()
                finally:
                    say("stopping")
                    try:
                        await for_ever()
                    finally:
                        say("stopped")

        async def application(scope, receive, send):
            await receive()

        Server(application).run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    process.wait_for("stopping")
    process.send(signal.SIGTERM)
    assert process.end() == ["ready", "stopping", "stopped", "returned"]


@pytest.mark.slow
def test_drain_is_bounded(start):
    """What does not settle within `shutdown_timeout` is cancelled."""
    process = start("""
        class Server(Base):
            shutdown_timeout = 0.1

            def begin(self):
                self.get_or_create_application_instance("a", {}).put_nowait("left")

        async def application(scope, receive, send):
            try:
                await for_ever()
            finally:
                say("cleaned up")

        Server(application).run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    said = process.end(
        "1 application was cut with work in hand when the server stopped (shutdown_timeout is 0.1 s): scope_id 'a'"
    )
    assert said == ["ready", "stopping", "cleaned up", "undelivered left", "returned"]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["application", "handle", "spawned", "stray", "hook"])
def test_always_exits(start, who):
    """Whoever swallows every cancellation, run() returns, and nothing complains of a pending task."""
    process = start(f"""
        logging.disable(logging.WARNING)
        who = {who!r}

        async def stubborn(*arguments):
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await for_ever()

        async def application(scope, receive, send):
            await receive()
            if who == "application":
                await stubborn()
            raise LookupError

        class Server(Base):
            shutdown_timeout = 0.1

            async def application_exception(self, exception, details):
                if who == "hook":
                    await stubborn()

            async def handle(self):
                queue = self.get_or_create_application_instance("a", {{}})
                queue.put_nowait(1)
                if who == "spawned":
                    self.spawn(stubborn())
                if who == "stray":
                    self.kept = asyncio.create_task(stubborn())
                await asyncio.sleep(0.01)
                say("ready")
                await (stubborn() if who == "handle" else for_ever())

        Server(application).run()
        say("returned")
    """)
    process.wait_for("ready")
    process.send(signal.SIGTERM)
    complaints = ()
    if who == "hook":
        # What it was told of is told to the log.
        complaints = "the hook application_exception was cancelled; it was called with LookupError()", TRACEBACK
    assert process.end(*complaints) == ["ready", "returned"]


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


@pytest.mark.slow
def test_answers_that_are_under_way(start):
    """The documented HTTP pattern: a call that is under way when the signal comes still answers its client."""
    process = start("""
        import socket, threading

        class Server(Base):
            async def handle(self):
                self.listener = await asyncio.start_server(self.connected, "127.0.0.1", 0)
                self.client = threading.Thread(target=client, args=self.listener.sockets[0].getsockname())
                self.client.start()
                await self.listener.serve_forever()

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
    """)
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
