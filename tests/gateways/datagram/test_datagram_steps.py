"""Applications that a batch of datagrams has woken: each step is one of its task, whatever it comes to."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import eventually, in_time, reader
from support.udp import clients, echo, server_of, serving_datagrams


def test_the_step_of_an_application_is_its_task_s(cy, run):
    """Woken by a datagram, an application runs in its own task and context, and nothing else is at work."""

    async def main():
        import contextvars

        mine = contextvars.ContextVar("mine")
        seen = []

        async def application(scope, receive, send):
            task = asyncio.current_task()
            mine.set(scope["client"])
            while True:
                await receive()
                seen.append((asyncio.current_task() is task, mine.get() == scope["client"], task.cancelling()))

        async with serving_datagrams(server_of(cy, application)) as (address,):
            with clients(address, address) as both:
                for _ in range(3):
                    for client in both:
                        client.send(b"x", b"y")
                    await passes(8)
        assert seen == [(True, True, 0)] * 12
        assert asyncio.current_task() is not None

    run(main())


def test_what_a_step_may_come_to(cy, run, caplog):
    """Woken by a datagram, an application may wait for anything else, start tasks, time out, return, or raise."""

    async def main():
        loop = asyncio.get_running_loop()
        gate = loop.create_future()
        log = []

        async def application(scope, receive, send):
            while True:
                data = (await receive())["data"]
                if data == b"sleep":
                    await asyncio.sleep(0)
                elif data == b"future":
                    await gate
                elif data == b"task":
                    assert await loop.create_task(asyncio.sleep(0, "result")) == "result"
                elif data == b"timeout":
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0):
                            await loop.create_future()
                elif data == b"receive in a task":
                    data = (await asyncio.wait_for(receive(), 10))["data"]
                elif data == b"return":
                    log.append("returned")
                    return
                elif data == b"raise":
                    raise ValueError("on purpose")
                await send({"type": "datagram.send", "data": data})

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                for data in (b"plain", b"sleep", b"plain", b"task", b"timeout", b"plain", b"sleep"):
                    assert await client.ask(data) == data
                client.send(b"future", b"next")
                await passes(5)
                gate.set_result(None)
                assert await client.receive(2) == [b"future", b"next"]
                client.send(b"receive in a task")
                await passes(5)
                assert await client.ask(b"taken") == b"taken"
                assert await client.ask(b"plain") == b"plain"
                client.send(b"return")
                await eventually(lambda: log == ["returned"] and server.stats()["finished"] == 1)
                assert await client.ask(b"plain") == b"plain"
                client.send(b"raise")
                await in_time(lambda: server.stats()["failed"] == 1)
                assert await client.ask(b"plain") == b"plain"

    run(main())
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


@pytest.mark.parametrize("then", ["receive", "future", "sleep", "return", "raise", "task"])
def test_an_application_that_cancels_itself(cy, run, then):
    """In a step that a datagram has woken it may cancel its own task: what it waits for next raises CancelledError."""

    async def main():
        loop = asyncio.get_running_loop()
        ends = []
        child = []

        async def application(scope, receive, send):
            await receive()
            await send({"type": "datagram.send", "data": b"ready"})
            await receive()
            asyncio.current_task().cancel()
            if then == "return":
                ends.append("returned")
                return
            if then == "raise":
                ends.append("raised")
                raise asyncio.CancelledError
            try:
                if then == "receive":
                    await receive()
                elif then == "sleep":
                    await asyncio.sleep(0)
                elif then == "task":
                    child.append(loop.create_task(reader(scope, receive, send)))
                    await child[0]
                else:
                    await loop.create_future()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(address) as (client,):
                assert await client.ask(b"1") == b"ready"
                client.send(b"2")
                await eventually(lambda: ends)
                await eventually(lambda: server.stats()["cancelled"] + server.stats()["finished"] == 1)
                assert await client.ask(b"3") == b"ready"
        assert ends[0] == {"return": "returned", "raise": "raised"}.get(then, "cancelled")
        assert all(task.cancelled() for task in child)

    run(main())


def test_applications_that_fail_in_one_batch(cy, run, caplog):
    """Some of those that a batch wakes raise, or return: the others go on, and each failure is told of."""

    async def main():
        async def application(scope, receive, send):
            while True:
                data = (await receive())["data"]
                if data == b"raise":
                    raise ValueError(scope["client"])
                if data == b"base":
                    raise GeneratorExit
                if data == b"return":
                    return
                await send({"type": "datagram.send", "data": data})

        server = server_of(cy, application)
        async with serving_datagrams(server) as (address,):
            with clients(*[address] * 12) as some:
                for client in some:
                    assert await client.ask(b"ready") == b"ready"
                what = [b"echo", b"raise", b"return", b"base"] * 3
                for client, data in zip(some, what, strict=True):
                    client.send(data, b"next")
                for client, data in zip(some, what, strict=True):
                    if data == b"echo":
                        assert await client.receive(2) == [b"echo", b"next"]
                await eventually(lambda: server.stats()["failed"] == 6 and server.stats()["finished"] == 3)
                for client, data in zip(some, what, strict=True):
                    # What came behind was not received by the one that failed.
                    assert data == b"echo" or await client.ask(b"again") == b"again"

    run(main())
    failed = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[0] for record in failed].count(ValueError) == 3


def test_evicted_between_a_datagram_and_the_step(cy, run):
    """A client whose datagram is in the same batch as those of two new ones that push it out: it is cancelled, and what
    it was sent is told as undelivered."""

    async def main():
        told, cancelled = [], []

        async def application(scope, receive, send):
            try:
                await echo(scope, receive, send)
            except asyncio.CancelledError:
                cancelled.append(scope["client"])
                raise

        server = server_of(cy, application, max_applications=1)
        server.application_undelivered = lambda messages, details: told.extend(messages)
        async with serving_datagrams(server) as (address,):
            with clients(address, address) as (first, second):
                assert await first.ask(b"1") == b"1"
                first.send(b"2")
                second.send(b"3")
                assert await second.receive() == b"3"
                await eventually(lambda: cancelled)
                answered = server.stats()["datagrams_sent"] == 3
        assert cancelled[0] == first.address
        assert [message["data"] for message in told] == ([] if answered else [b"2"])

    run(main())


def test_no_step_in_debug_mode(cy, run):
    """In debug mode applications go on by way of the loop, which watches them; the answers are the same."""

    async def main():
        async with serving_datagrams(server_of(cy, echo)) as (address,):
            with clients(address) as (client,):
                client.send(*(b"%d" % number for number in range(100)))
                assert await client.receive(100) == [b"%d" % number for number in range(100)]

    run(main(), debug=True)
