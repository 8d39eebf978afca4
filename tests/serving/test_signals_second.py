"""A second signal, or a bound: a server in a process of its own always exits, whatever its applications do."""

from __future__ import annotations

import signal
import sys

import pytest

from support.signalled import BOTH, TRACEBACK, start as start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


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
