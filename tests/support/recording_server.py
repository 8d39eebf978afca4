"""For the tests of asgiref's faults: a server that records what its hooks are given, run in a task or in a thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

from support.loops import PATIENCE, passes
from support.serving import quiet

#: With this interval the reference's checker sweeps at every turn of the loop, so that turns count its sweeps.
EVERY_PASS = 0


def recording(base, interval=0.001):
    """A subclass that serves until it is cancelled and keeps what its hooks are given."""

    class Recording(quiet(base)):
        application_checker_interval = interval

        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.sent = []

        @property
        def handed_over(self):
            """The undelivered messages, in the order in which the hook got them."""
            return [message for messages, _ in self.undelivered for message in messages]

        async def handle(self):
            await asyncio.get_running_loop().create_future()

        async def application_send(self, scope, message):
            self.sent.append(message)

    return Recording


def counting_rounds(base, interval=0.001):
    """The same, which counts how often its checker's interval is read: once for each of the checker's rounds."""

    class CountingRounds(recording(base)):
        rounds = 0

        @property
        def application_checker_interval(self):
            self.rounds += 1
            return interval

    return CountingRounds


async def echo(scope, receive, send):
    """An application that sends back what it receives."""
    while True:
        await send(await receive())


@asynccontextmanager
async def served(server):
    """`server.arun()` in the background: nothing that happens inside the block may end it."""
    running = asyncio.create_task(server.arun())
    await passes(2)
    try:
        yield running
        assert not running.done(), f"the server ended: {running!r}"
    finally:
        running.cancel()
        await asyncio.wait([running])


def run_in_thread(server):
    """`server.run()`, bounded in time; gives what it raised."""
    raised = []

    def run():
        try:
            server.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "run() never ended"
    return raised[0] if raised else None
