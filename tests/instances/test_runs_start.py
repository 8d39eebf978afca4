"""When the server starts an application: in the reference's order, once, and never if it was deleted before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.instances import make
from support.loops import passes


class Log(list):
    """What happened, in order; with a turn noted for each loop pass, between whose callbacks it happened."""

    def watch(self) -> None:
        self.ticker = asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self.append("turn")
        self.watch()

    def note(self, *what: Any) -> None:
        self.append(what)


def feed_each(server: Any, log: Log) -> None:
    """Five are made, each fed at once."""
    for scope_id in range(5):
        asyncio.get_running_loop().call_soon(log.note, "before", scope_id)
        make(server, scope_id, {"id": scope_id}).put_nowait(("m", scope_id))
        asyncio.get_running_loop().call_soon(log.note, "after", scope_id)


def feed_in_reverse(server: Any, log: Log) -> None:
    """Five are made, then fed, the last one first."""
    queues = [make(server, scope_id, {"id": scope_id}) for scope_id in range(5)]
    asyncio.get_running_loop().call_soon(log.note, "made")
    for scope_id, queue in reversed(list(enumerate(queues))):
        asyncio.get_running_loop().call_soon(log.note, "feeding", scope_id)
        queue.put_nowait(("m", scope_id))


def feed_many(server: Any, log: Log) -> None:
    """Several messages for each, in rounds."""
    for number in range(4):
        for scope_id in range(3):
            make(server, scope_id, {"id": scope_id}).put_nowait(("m", number))


async def feed_waiting(server: Any, log: Log) -> None:
    """Fed once, and again after all wait in receive, the last one first."""
    feed_each(server, log)
    await passes(4)
    for scope_id in reversed(range(5)):
        make(server, scope_id, {"id": scope_id}).put_nowait(("again", scope_id))
        asyncio.get_running_loop().call_soon(log.note, "between", scope_id)


async def feed_by_put(server: Any, log: Log) -> None:
    """Fed by awaiting put."""
    for scope_id in range(5):
        await make(server, scope_id, {"id": scope_id}).put(("m", scope_id))
        asyncio.get_running_loop().call_soon(log.note, "after", scope_id)


async def feed_from_tasks(server: Any, log: Log) -> None:
    """Several feeders at once, for ids in common."""

    async def feeder(name):
        for number in range(4):
            make(server, (name + number) % 5, {"id": (name + number) % 5}).put_nowait((name, number))
            log.note("fed", name, number)
            if number % 2:
                await passes(1)

    await asyncio.gather(*map(feeder, range(3)))


async def feed_and_delete(server: Any, log: Log) -> None:
    """Every other one is deleted before it starts, one while it waits."""
    for scope_id in range(5):
        make(server, scope_id, {"id": scope_id}).put_nowait(("m", scope_id))
    for scope_id in (0, 2, 4):
        server.delete_application_instance(scope_id)
    log.note(list(server.application_instances))
    await passes(3)
    server.delete_application_instance(1)
    asyncio.get_running_loop().call_soon(log.note, "deleted")


def feed_to_the_end(server: Any, log: Log) -> None:
    """Some return, some fail, some start others."""
    for scope_id, message in enumerate(["end", "fail", ("m", 0), "start", "end", "start"]):
        make(server, scope_id, {"id": scope_id}).put_nowait(message)


SCRIPTS = [
    feed_each,
    feed_in_reverse,
    feed_many,
    feed_waiting,
    feed_by_put,
    feed_from_tasks,
    feed_and_delete,
    feed_to_the_end,
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_fed_before_the_loop_turns_it_starts_when_the_reference_starts_it(cy, reference, run, script):
    """Fed in time, applications start, receive, send and end in the reference's order, between the same callbacks."""

    async def play(cls):
        log = Log()

        class Server(cls):
            async def application_send(self, scope, message):
                log.note(scope["id"], "sent", message)

            def application_undelivered(self, messages, details):
                pass

        async def application(scope, receive, send):
            log.note(scope["id"], "begins")
            try:
                while True:
                    message = await receive()
                    log.note(scope["id"], "received", message)
                    await send(message)
                    if message == "end":
                        return
                    if message == "fail":
                        raise ValueError("on purpose")
                    if message == "start":
                        other = scope["id"] + 10
                        make(server, other, {"id": other}).put_nowait(("m", other))
            except BaseException as error:
                log.note(scope["id"], type(error))
                raise

        server = Server(application)
        log.watch()
        fed = script(server, log)
        if fed is not None:
            await fed
        await passes(6)
        log.ticker.cancel()
        futures = [(scope_id, entry["future"]) for scope_id, entry in server.application_instances.items()]
        log.note(sorted((scope_id, future.done() and repr(future.exception())) for scope_id, future in futures))
        for scope_id in sorted(server.application_instances):
            server.delete_application_instance(scope_id)
        await passes(3)
        return log

    async def main():
        await put_until_the_loop_turns(cy.StatelessServer)
        assert await play(cy.StatelessServer) == await play(reference)

    run(main())


async def put_until_the_loop_turns(cls):
    """One of 64 puts lets the loop turn, which the reference's do not: after this it is not one of the next few."""

    async def application(scope, receive, send):
        while True:
            await receive()

    server = cls(application)
    instance = make(server, 0, {"id": 0})
    turned = []
    while not turned:
        handle = asyncio.get_running_loop().call_soon(turned.append, True)
        await instance.put(None)
        handle.cancel()
    server.delete_application_instance(0)
    await passes(3)


def test_never_fed_it_starts_all_the_same(impl, run):
    """An instance that nobody feeds or holds starts within two passes of the loop."""

    async def main():
        begun = []

        async def application(scope, receive, send):
            begun.append(scope["id"])
            await receive()

        server = impl.StatelessServer(application)
        for scope_id in range(3):
            make(server, scope_id, {"id": scope_id})
        assert begun == []
        await passes(2)
        assert begun == [0, 1, 2]

    run(main())


def test_it_is_run_once(impl, run):
    """However often an id is looked up and fed, from whatever task, its application is started once."""

    async def main():
        begun = []

        async def application(scope, receive, send):
            begun.append(scope)
            while True:
                await receive()

        server = impl.StatelessServer(application)

        async def feeder():
            for number in range(3):
                make(server).put_nowait(number)
                await passes(number)

        await asyncio.gather(feeder(), feeder(), feeder())
        await passes(3)
        assert len(begun) == 1

    run(main())


def test_deleted_before_it_starts_it_never_starts(impl, run):
    """An instance that is deleted in the pass of its creation never runs a step of its application."""

    async def main():
        begun = []

        async def application(scope, receive, send):
            begun.append(scope)

        class Server(impl.StatelessServer):
            def application_undelivered(self, messages, details):
                pass

        server = Server(application)
        make(server, "fed").put_nowait("message")
        make(server, "unfed")
        server.delete_application_instance("fed")
        server.delete_application_instance("unfed")
        await passes(5)
        assert begun == []

    run(main())
