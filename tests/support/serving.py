"""What the tests of the server share: a server that sends nowhere, two ways to wait, and a way to run a script."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap

from support.loops import passes


def quiet(cls):
    """A subclass that sends nowhere and keeps what its hooks were given."""

    class Server(cls):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.undelivered = []
            self.failures = []

        async def application_send(self, scope, message):
            pass

        def application_undelivered(self, messages, details):
            self.undelivered.append((messages, details))

        async def application_exception(self, exception, details):
            self.failures.append(exception)

    return Server


def fast(cls):
    """A quiet server whose checker looks every millisecond."""
    return type("Server", (quiet(cls),), {"application_checker_interval": 0.001})


def handling(cls, handle, **attributes):
    """A subclass whose handle() is this coroutine function of the server."""
    return type("Server", (fast(cls),), {"handle": handle, **attributes})


def serving_until(cls, application, condition):
    """A server whose handle() returns when the condition holds."""

    class Server(cls):
        async def handle(self):
            await in_time(condition)

    return Server(application)


async def for_ever(server):
    await asyncio.get_running_loop().create_future()


async def end_all(tasks):
    """Ends these: a server that is dropped with work in hand leaves it to the garbage collector, which complains."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def recording(cls, kind):
    """A server whose overrides, of either kind, note each call and leave the work to the class above."""

    class Base(quiet(cls)):
        application_checker_interval = 0.001

        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.deleted = []
            self.oldest = 0

    if kind == "def":

        class Server(Base):
            def delete_application_instance(self, scope_id):
                self.deleted.append(scope_id)
                return super().delete_application_instance(scope_id)

            def delete_oldest_application_instance(self):
                self.oldest += 1
                return super().delete_oldest_application_instance()

    else:

        class Server(Base):
            async def delete_application_instance(self, scope_id):
                self.deleted.append(scope_id)
                await passes(2)
                await super().delete_application_instance(scope_id)

            async def delete_oldest_application_instance(self):
                self.oldest += 1
                await passes(2)
                await super().delete_oldest_application_instance()

    return Server


async def eventually(condition):
    """Lets the loop turn until the condition holds; asserts that it did. Other threads get a few seconds more."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    await in_time(condition)


async def in_time(condition):
    """As eventually(), for what depends on a clock: a few seconds at most."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.001)
    assert condition()


async def reader(scope, receive, send):
    """An application that waits for messages and does nothing with them."""
    while True:
        await receive()


def collecting(seen):
    """An application that notes the type of its scope, and each message."""

    async def application(scope, receive, send):
        seen.append(scope["type"])
        while True:
            seen.append(await receive())

    return application


async def one_shot(scope, receive, send):
    """An application that returns after one message."""
    await receive()


async def deaf(scope, receive, send):
    """An application that never looks at its queue."""
    await asyncio.get_running_loop().create_future()


async def echo(scope, receive, send):
    """An application at module level, which can be pickled by its name: it sends what it gets."""
    while True:
        await send(await receive())


class Sending:
    """A mix-in with the methods that a server must have; it keeps what was sent."""

    application_checker_interval = 0.001

    async def application_send(self, scope, message):
        self.__dict__.setdefault("sent", []).append(message)

    async def handle(self):
        self.get_or_create_application_instance("a", {}).put_nowait("hello")
        await in_time(lambda: "sent" in self.__dict__)


async def works(server):
    """Goes once through all that a server does."""
    await server.arun()
    assert server.sent == ["hello"]
    del server.sent
    limit = server.max_applications
    server.max_applications = 2
    for name in "abc":
        server.get_or_create_application_instance(name, {}).put_nowait(name)
        await passes(5)
    assert len(server.application_instances) <= 3
    server.delete_application_instance("c")
    assert "c" not in server.application_instances
    server.max_applications = limit
    async with checking(server):
        server.application = one_shot
        server.get_or_create_application_instance("e", {}).put_nowait("e")
        await in_time(lambda: "e" not in server.application_instances)
    server.application = echo


class Stubborn:
    """An application that swallows every cancellation until it is released, at the latest when its block ends."""

    def __init__(self):
        self.release = asyncio.Event()
        self.cancellations = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # A test that fails must not leave the loop with a task that cannot be cancelled.
        self.release.set()

    async def __call__(self, scope, receive, send):
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancellations.append(scope)


@contextlib.asynccontextmanager
async def checking(server):
    """The checker as a task of its own; it must still be running at the end."""
    checker = asyncio.create_task(server.application_checker())
    try:
        yield checker
        assert not checker.done()
    finally:
        checker.cancel()
        await asyncio.wait([checker])


def environment(**changes):
    """The environment for a fresh interpreter that finds what this one finds; None takes a variable out."""
    environ = dict(os.environ)
    environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environ.pop("PYTHONWARNINGS", None)
    environ.pop("CYASGI_BACKEND", None)
    # It has print() write a line in two pieces: those of several processes would mix.
    environ.pop("PYTHONUNBUFFERED", None)
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    return environ


def python(code, *arguments, cwd, backend=None, **changes):
    """Runs a script in a fresh interpreter in which every warning is an error; gives the completed process."""
    path = cwd / "script.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", str(path), *arguments],
        cwd=cwd,
        env=environment(CYASGI_BACKEND=backend, **changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output(process):
    """The lines that a script wrote, once it has ended well and without a word of complaint."""
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout.splitlines()


def left(server):
    """All messages that the hook of this server was given, in the order in which it got them."""
    return [message for messages, _ in server.undelivered for message in messages]


async def dies_of_the_first(scope, receive, send):
    raise ValueError(await receive())


def stop(server):
    """As the first signal does under run()."""
    server._cyasgi.server_run.request_stop()
