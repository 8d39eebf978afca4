"""Faults of the reference in running and stopping: each is shown, and then what cyasgi does instead.

A test whose name ends in `_reference` shows what asgiref's class does, so that the list of differences stays true.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import pytest

from support.loops import passes
from support.recording_server import EVERY_PASS, recording, run_in_thread
from support.serving import in_time, python, reader

# ---- applications that resist cancellation -----------------------------------------------------------------------


def stubborn(released):
    """An application that goes on for as long as it was not released, however often it is cancelled."""

    async def application(scope, receive, send):
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    return application


@pytest.mark.slow
def test_swallowed_cancellation_reference(reference, run):
    """Reference: applications that swallow their cancellation pile up beyond any limit, seen by nobody."""

    async def main():
        released = asyncio.Event()
        server = recording(reference)(stubborn(released), max_applications=10)
        before = len(asyncio.all_tasks())
        for number in range(1000):
            server.get_or_create_application_instance(number, {})
            await passes(1)
        await passes(2)
        assert len(asyncio.all_tasks()) - before == 1000
        assert len(server.application_instances) == 11
        released.set()
        await passes(3)

    run(main())


@pytest.mark.slow
def test_swallowed_cancellation(cy, run):
    """An application that resists is out of the table at once, counted, and kept referenced until it ends."""

    async def main():
        released = asyncio.Event()
        server = recording(cy.StatelessServer)(stubborn(released), max_applications=10)
        for number in range(1000):
            server.get_or_create_application_instance(number, {}).put_nowait(None)
            await passes(1)
        await passes(2)
        assert len(server.application_instances) == 10
        assert (server.stats()["live"], server.stats()["closing"], server.stats()["evicted"]) == (10, 990, 990)
        gc.collect()
        released.set()
        await in_time(lambda: server.stats()["closing"] == 0)

    run(main())


def stubborn_in_run(base, refusals):
    """A server of one application that shrugs off cancellation for so many turns of the loop, or for ever."""

    async def application(scope, receive, send):
        turns = 0
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            server.refused = True
        while refusals is None or turns < refusals:
            try:
                turns += 1
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue
        server.relented = True

    class Server(recording(base)):
        shutdown_timeout = 0.02
        refused = relented = False

        async def handle(self):
            self.get_or_create_application_instance("a", {}).put_nowait(None)
            await passes(3)

    server = Server(application)
    return server


@pytest.mark.slow
def test_swallowed_cancellation_at_exit_reference(reference):
    """Reference: run() waits without bound for whoever swallows its cancellation: it ends when the application does."""
    server = stubborn_in_run(reference, refusals=100)
    assert run_in_thread(server) is None
    assert server.refused
    assert server.relented


@pytest.mark.slow
def test_swallowed_cancellation_at_exit(cy, caplog):
    """run() exits although an application never ends; the application is counted."""
    server = stubborn_in_run(cy.StatelessServer, refusals=None)
    assert run_in_thread(server) is None
    assert server.refused
    assert not server.relented
    assert len(server.application_instances) == 0
    assert server.stats()["closing"] == 1
    server.application = None
    gc.collect()
    assert "Task was destroyed" not in caplog.text


# ---- signals -----------------------------------------------------------------------------------------------------

SIGNALLED = """
import asyncio, importlib, os, signal, sys

class Server(importlib.import_module(sys.argv[1]).StatelessServer):
    async def handle(self):
        instance = self.get_or_create_application_instance("a", {})
        for number in range(5):
            instance.put_nowait(number)
        await asyncio.sleep(30)

    async def application_send(self, scope, message):
        pass

async def application(scope, receive, send):
    try:
        while True:
            number = await receive()
            print("begun", number, flush=True)
            if number == 0:
                os.kill(os.getpid(), getattr(signal, sys.argv[2]))
            for _ in range(20):
                await asyncio.sleep(0)
            print("done", number, flush=True)
    finally:
        print("cleaned up", flush=True)

Server(application).run()
print("returned", flush=True)
"""


def signalled(folder, module, name, backend=None):
    """The exit code and the lines of a server that gets this signal in the middle of its first message of five."""
    finished = python(SIGNALLED, module, name, cwd=folder, backend=backend)
    assert finished.stderr == ""
    return finished.returncode, finished.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals on Windows")
def test_signal_reference(tmp_path):
    """Reference: SIGTERM kills without any clean-up; SIGINT cuts the message in flight and drops the queue."""
    assert signalled(tmp_path, "asgiref.server", "SIGTERM") == (-signal.SIGTERM, ["begun 0"])
    assert signalled(tmp_path, "asgiref.server", "SIGINT") == (0, ["begun 0", "cleaned up", "returned"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals on Windows")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal(cy, tmp_path, name):
    """On a first signal what was taken in is worked off, then the applications clean up and run() returns."""
    code, lines = signalled(tmp_path, "cyasgi.server", name, cy.backend)
    worked_off = [line for number in range(5) for line in (f"begun {number}", f"done {number}")]
    assert lines == [*worked_off, "cleaned up", "returned"]
    assert code == 0


# ---- instances and loops -----------------------------------------------------------------------------------------


def worker(base):
    """A server that keeps what its applications receive; handle() feeds `todo` to one instance and waits a while."""

    class Server(recording(base)):
        application_checker_interval = EVERY_PASS
        todo = ()

        async def handle(self):
            for message in self.todo:
                self.get_or_create_application_instance("a", {}).put_nowait(message)
            await passes(30)

    async def application(scope, receive, send):
        while True:
            server.worked.append(await receive())

    server = Server(application)
    server.worked = []
    return server


@pytest.fixture
def loop_that_never_runs():
    """What the main thread has on some Python versions before anything runs: a loop that is set and idle."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


def test_created_before_the_loop_reference(reference, loop_that_never_runs):
    """Reference: an instance that was made before run() never runs, and what it was fed is lost."""
    server = worker(reference)
    queue = server.get_or_create_application_instance("a", {})
    for number in range(21):
        queue.put_nowait(number)
    server.run()
    assert server.worked == []
    assert queue.qsize() == 21


def test_created_before_the_loop(cy):
    """An instance that was made and fed before run() is kept and starts with the loop."""
    server = worker(cy.StatelessServer)
    queue = server.get_or_create_application_instance("a", {})
    for number in range(21):
        queue.put_nowait(number)
    server.run()
    assert server.worked == list(range(21))
    assert server.handed_over == []


def test_second_run_reference(reference):
    """Reference: a second run() of one server dies of the records that the first one left."""
    server = worker(reference)
    server.todo = "abc"
    server.run()
    assert "".join(server.worked) == "abc"
    server.todo = "def"
    assert isinstance(run_in_thread(server), asyncio.CancelledError)
    assert "".join(server.worked) == "abc"


def test_second_run(cy):
    """A server can be run again, with the same ids: a record of a closed loop is a finished one."""
    server = worker(cy.StatelessServer)
    for server.todo in ("abc", "def"):
        server.run()
        assert "".join(server.worked).endswith(server.todo)
        assert len(server.application_instances) == 0
    assert "".join(server.worked) == "abcdef"


# ---- what is left when the server ends ---------------------------------------------------------------------------


async def run_often(base):
    """The tasks that fifty runs of arun(), each with one instance, leave behind, and the server."""

    class Server(recording(base)):
        async def handle(self):
            self.get_or_create_application_instance("a", {}).put_nowait(None)
            await passes(2)

    server, before = Server(reader), asyncio.all_tasks()
    for _ in range(50):
        await server.arun()
    return server, asyncio.all_tasks() - before


async def run_and_cancel(base):
    """The tasks that a cancelled arun() with one instance leaves behind, and the server."""
    server, before = recording(base)(reader), asyncio.all_tasks()
    running = asyncio.create_task(server.arun())
    server.get_or_create_application_instance("a", {}).put_nowait(None)
    await passes(5)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    return server, asyncio.all_tasks() - before


def test_what_is_left_when_handle_ends_reference(reference, run):
    """Reference: when handle() ends its checker lives on, one for each arun(), and so do the applications."""

    async def main():
        server, left = await run_often(reference)
        assert sum(task.get_coro().__name__ == "application_checker" for task in left) == 50
        assert server.application_instances["a"]["future"] in left

    run(main())


def test_what_is_left_when_arun_is_cancelled_reference(reference, run):
    """Reference: the applications of a cancelled arun() live on."""

    async def main():
        server, left = await run_and_cancel(reference)
        assert left == {server.application_instances["a"]["future"]}

    run(main())


@pytest.mark.parametrize("ended", [run_often, run_and_cancel])
def test_what_is_left(cy, run, ended):
    """When arun() has ended no task of its own is left, nor anything in the table."""

    async def main():
        server, left = await ended(cy.StatelessServer)
        assert left == set()
        assert len(server.application_instances) == 0
        assert server.stats()["closing"] == 0

    run(main())
