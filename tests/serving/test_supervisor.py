"""Several servers in one loop: they begin together and end together."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import sys

import pytest

from support.loops import passes
from support.serving import Stubborn, eventually, for_ever, handling, python, reader


def supervisor(cy, servers, **keywords):
    """A Supervisor of the same twin."""
    return importlib.import_module(f"{cy.__name__}.supervisor").Supervisor(servers, **keywords)


class Notes(list):
    """What happened, in order; makes servers and applications that write into it."""

    def server(self, cy, name, *, handle=for_ever, application=reader, **attributes):
        async def noted(server):
            self.append(f"{name} begins")
            try:
                await handle(server)
            finally:
                self.append(f"{name} ends")

        return handling(cy.StatelessServer, noted, **attributes)(application)

    @contextlib.asynccontextmanager
    async def around(self):
        self.append("enter")
        try:
            yield
        finally:
            self.append("leave")


async def begun(notes, count):
    await eventually(lambda: len([note for note in notes if note.endswith("begins")]) == count)


@pytest.mark.slow
def test_begin_and_end_together(cy, run):
    """All begin; on stop() all end; what is around them is entered before and left after."""
    notes = Notes()

    async def main():
        several = supervisor(cy, [notes.server(cy, name) for name in "ab"], around=notes.around)
        for _ in range(2):
            running = asyncio.create_task(several.arun())
            await begun(notes, 2)
            assert several.stop() is True
            await running
            assert notes == ["enter", "a begins", "b begins", "a ends", "b ends", "leave"]
            notes.clear()
            assert several.stop() is False

    run(main())


def test_when_one_ends_the_others_do(cy, run):
    """A server that returns ends the others, which finish their work first."""
    notes = Notes()

    async def main():
        release = asyncio.Event()

        async def until_released(server):
            await release.wait()

        async def application(scope, receive, send):
            while True:
                await receive()
                release.set()
                await passes(10)
                notes.append("worked")

        one = notes.server(cy, "one", handle=until_released)
        other = notes.server(cy, "other", application=application)
        running = asyncio.create_task(supervisor(cy, [one, other]).arun())
        await begun(notes, 2)
        for number in range(3):
            other.get_or_create_application_instance("x", {}).put_nowait(number)
        await running
        assert sorted(notes[2:]) == ["one ends", "other ends", "worked", "worked", "worked"]

    run(main())


def test_what_one_raises(cy, run, caplog):
    """The error of the first one that fails is raised when all have ended; what others raise meanwhile is logged."""
    notes = Notes()

    async def fails(server):
        await passes(3)
        raise ZeroDivisionError("first")

    async def fails_at_the_end(server):
        try:
            await for_ever(server)
        finally:
            server.spawn(fails(server))
            raise KeyError("second")

    async def main():
        servers = [notes.server(cy, "a", handle=fails), notes.server(cy, "b"), notes.server(cy, "c", handle=fails)]
        with pytest.raises(ZeroDivisionError, match="first"):
            await supervisor(cy, servers, around=notes.around).arun()

    run(main())
    assert sorted(notes[1:-1]) == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]
    assert (notes[0], notes[-1]) == ("enter", "leave")
    assert [record.getMessage() for record in caplog.records] == ["a server failed while the others stopped"]


def test_cancelled(cy, run):
    """Cancelling arun() cancels all, and waits for their end, cancelled again too."""
    notes = Notes()

    async def main():
        with Stubborn() as stubborn:
            servers = [notes.server(cy, "a", application=stubborn, shutdown_timeout=0.01), notes.server(cy, "b")]
            running = asyncio.create_task(supervisor(cy, servers).arun())
            await begun(notes, 2)
            servers[0].get_or_create_application_instance("x", "scope").put_nowait("y")
            await passes(3)
            running.cancel()
            await passes(2)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert notes[2:] == ["a ends", "b ends"]
        assert stubborn.cancellations

    run(main())


def test_a_second_stop_ends_at_once(cy, run):
    """The first stop() waits for work, the second does not."""
    notes = Notes()

    async def never(scope, receive, send):
        await receive()
        await for_ever(None)

    async def main():
        servers = [notes.server(cy, name, application=never, shutdown_timeout=1000) for name in "ab"]
        several = supervisor(cy, servers)
        running = asyncio.create_task(several.arun())
        await begun(notes, 2)
        for server in servers:
            server.get_or_create_application_instance("x", {}).put_nowait("y")
        await passes(5)
        assert several.stop() is True
        await passes(20)
        assert not running.done()
        assert several.stop() is True
        await running
        assert several.stop() is False

    run(main())


def test_the_first_stop_is_in_order_although_one_has_failed(cy, run):
    """While the others drain because one has failed, a first stop() does not hurry them."""
    notes = Notes()

    async def main():
        release = asyncio.Event()

        async def fails(server):
            await started.wait()
            raise ZeroDivisionError

        async def application(scope, receive, send):
            await receive()
            started.set()
            await release.wait()
            notes.append("worked")
            await receive()

        started = asyncio.Event()
        servers = [notes.server(cy, "a", handle=fails), notes.server(cy, "b", application=application)]
        several = supervisor(cy, servers)
        running = asyncio.create_task(several.arun())
        await begun(notes, 2)
        servers[1].get_or_create_application_instance("x", {}).put_nowait("y")
        await eventually(lambda: "b ends" in notes)
        assert several.stop() is True
        await passes(20)
        release.set()
        with pytest.raises(ZeroDivisionError):
            await running
        assert notes[-1] == "worked"

    run(main())


def test_stopped_before_the_first_step(cy, run):
    """A stop() that comes before a server has taken its first step ends it all the same."""
    notes = Notes()

    async def main():
        several = supervisor(cy, [notes.server(cy, "a")])
        running = asyncio.create_task(several.arun())
        # This callback stands between the supervisor's first step and the server's.
        await passes(1)
        assert several.stop() is True
        await running
        assert notes in ([], ["a begins", "a ends"])

    run(main())


def test_a_failure_around_the_servers(cy, run):
    """What fails before the servers begin keeps them from it; what fails after them is raised."""
    notes = Notes()

    @contextlib.asynccontextmanager
    async def broken(before):
        if before:
            raise ZeroDivisionError
        yield
        raise KeyError

    async def main():
        with pytest.raises(ZeroDivisionError):
            await supervisor(cy, [notes.server(cy, "a")], around=lambda: broken(True)).arun()
        assert notes == []

        async def returns(server):
            pass

        with pytest.raises(KeyError):
            await supervisor(cy, [notes.server(cy, "a", handle=returns)], around=lambda: broken(False)).arun()
        assert notes == ["a begins", "a ends"]

    run(main())


def test_one_at_a_time(cy, run):
    """A second arun() while one runs is refused and disturbs nothing."""
    notes = Notes()

    async def main():
        several = supervisor(cy, [notes.server(cy, "a")])
        running = asyncio.create_task(several.arun())
        await begun(notes, 1)
        with pytest.raises(RuntimeError, match="running already"):
            await several.arun()
        assert several.stop() is True
        await running

    run(main())


def test_what_is_accepted(cy):
    """Servers alone, at least one, each once."""
    server = handling(cy.StatelessServer, for_ever)(reader)
    with pytest.raises(TypeError, match="must be a StatelessServer, got 7"):
        supervisor(cy, [server, 7])
    with pytest.raises(ValueError, match="at least one"):
        supervisor(cy, [])
    with pytest.raises(ValueError, match="once"):
        supervisor(cy, [server, server])
    assert supervisor(cy, [server]).shutdown_timeout == server.shutdown_timeout == 10.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(number, tmp_path):
    """run() ends by a signal: in the middle of what is around the servers, or when they serve."""
    code = """
        import asyncio, contextlib, os, signal, sys
        from cyasgi.server import StatelessServer
        from cyasgi.supervisor import Supervisor

        number = signal.Signals(int(sys.argv[1]))

        class Server(StatelessServer):
            async def handle(self):
                print("serving")
                os.kill(os.getpid(), number)
                await asyncio.get_running_loop().create_future()

        @contextlib.asynccontextmanager
        async def around(early):
            print("enter")
            try:
                if early:
                    os.kill(os.getpid(), number)
                    await asyncio.get_running_loop().create_future()
                yield
            finally:
                print("leave")

        for early in (True, False):
            Supervisor([Server(print), Server(print)], around=lambda: around(early)).run()
    """
    process = python(code, str(int(number)), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    # Two signals to two servers: the second one may come before the other server has begun.
    assert lines[:3] == ["enter", "leave", "enter"]
    assert lines[3] == "serving" and lines[-1] == "leave"
