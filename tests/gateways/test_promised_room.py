"""A bounded queue whose free place somebody owns who has waited for it: what a client sends meanwhile is not lost."""

from __future__ import annotations

import asyncio

import pytest

from support import streams, websockets_serving
from support.http_protocol_case import POST, case
from support.loops import passes
from support.serving import in_time
from support.udp import clients, server_of as udp_server_of, serving_datagrams
from support.websockets_raw import text


def push(number):
    return {"type": "push", "number": number}


class Meanwhile:
    """An application that waits, with a place in its queue promised, when `act` is called; it notes what it receives.

    Args:
        last: the type of the message with which it returns.
        opening: what it sends when it has received its first message.
    """

    def __init__(self, last, *opening):
        self.last = last
        self.opening = opening
        self.ready = asyncio.Event()
        self.got = []
        self.putting = None

    async def __call__(self, scope, receive, send):
        await receive()
        for message in self.opening:
            await send(message)
        await self.ready.wait()
        asyncio.get_running_loop().call_soon(self.act)
        while (message := await receive())["type"] != self.last:
            self.got.append(message)

    async def promise(self, instance, act):
        """Have `act` called when the application has received what one task has put, and before another task can put
        what it has waited for room with."""
        await in_time(instance.empty)

        def watched():
            # The premise of it all.
            assert instance.idle and instance.full()
            act()

        self.act = watched
        instance.put_nowait(push(0))
        self.putting = asyncio.create_task(instance.put(push(1)))
        await passes(2)
        assert not self.putting.done()
        self.ready.set()

    def given_up(self):
        """Have the task give up the place that it owns."""
        self.putting.cancel()

    def check(self, *others, given_up=False):
        """All was received, what each has sent in its order."""
        assert [one["number"] for one in self.got if one["type"] == "push"][: 1 if given_up else 2] == (
            [0] if given_up else [0, 1]
        )
        assert [one for one in self.got if one not in (push(0), push(1))] == [*others]


def received(*lines):
    return [{"type": "stream.receive", "data": line} for line in lines]


@pytest.mark.parametrize("given_up", [False, True], ids=["put", "given up"])
@pytest.mark.parametrize("parts", [[b"one\n"], [b"one\n", b"two\n"], [b"one\ntwo\n"], [b"on", b"e\ntwo\nthr", b"ee\n"]])
def test_lines(cy, run, quiet, parts, given_up):
    async def main():
        application = Meanwhile("stream.disconnect")
        server = streams.server_of(cy, application, max_queue_size=1)

        def act():
            if given_up:
                application.given_up()
            for data in parts:
                connection.data_received(data)

        async with streams.serving(server) as address, streams.Client(address):
            await in_time(lambda: server.application_instances)
            [connection] = server.connections
            [instance] = server.application_instances.values()
            await application.promise(instance, act)
            await in_time(lambda: len(application.got) == 2 - given_up + b"".join(parts).count(b"\n"))
            application.check(*received(*b"".join(parts).split()), given_up=given_up)

    run(main())


@pytest.mark.parametrize("given_up", [False, True], ids=["put", "given up"])
def test_the_end_of_a_stream(cy, run, quiet, given_up):
    """A client that goes in that moment: its last line, and its end."""

    async def main():
        application = Meanwhile("stream.disconnect")
        server = streams.server_of(cy, application, max_queue_size=1)

        def act():
            if given_up:
                application.given_up()
            connection.data_received(b"one\n")
            connection.eof_received()

        async with streams.serving(server) as address, streams.Client(address) as client:
            await in_time(lambda: server.application_instances)
            [connection] = server.connections
            [instance] = server.application_instances.values()
            await application.promise(instance, act)
            assert await client.rest() == b""
            assert application.got == [push(0), *([] if given_up else [push(1)]), *received(b"one")]

    run(main())


def test_pushed_to_a_stream(cy, run, quiet):
    async def main():
        application = Meanwhile("stream.disconnect")
        server = streams.server_of(cy, application, max_queue_size=1)

        def act():
            assert server.send_to(instance.scope_id, push(2))
            assert server.send_to(instance.scope_id, push(3))

        async with streams.serving(server) as address, streams.Client(address):
            await in_time(lambda: server.application_instances)
            [instance] = server.application_instances.values()
            await application.promise(instance, act)
            await in_time(lambda: len(application.got) == 4)
            application.got.sort(key=lambda one: one["number"] > 1)
            application.check(push(2), push(3))

    run(main())


@pytest.mark.parametrize("given_up", [False, True], ids=["put", "given up"])
def test_a_body(cy, run, given_up):
    async def test(connection):
        def act():
            if given_up:
                application.given_up()
            connection.feed(b"wor")
            connection.feed(b"ld")

        await connection.ask(POST % 10 + b"hello")
        [instance] = connection.server.application_instances.values()
        await application.promise(instance, act)
        await passes(20)
        body = b"".join(one["body"] for one in application.got if one["type"] == "http.request")
        assert body == b"world"
        assert [one["more_body"] for one in application.got if one["type"] == "http.request"][-1] is False
        application.got = [one for one in application.got if one["type"] == "push"]
        application.check(given_up=given_up)

    application = Meanwhile("http.disconnect")
    case(cy, run, application, test, max_queue_size=1)


def test_pushed_to_a_request(cy, run):
    async def test(connection):
        def act():
            assert connection.server.send_to(instance.scope_id, push(2))
            assert connection.server.send_to(instance.scope_id, push(3))

        await connection.ask(POST % 10 + b"hello")
        [instance] = connection.server.application_instances.values()
        await application.promise(instance, act)
        await passes(20)
        assert application.got == [push(number) for number in range(4)]

    application = Meanwhile("http.disconnect")
    case(cy, run, application, test, max_queue_size=1)


def test_frames(cy, run, quiet):
    async def main():
        application = Meanwhile("websocket.disconnect", {"type": "websocket.accept"})
        server = websockets_serving.server_of(cy, application, max_queue_size=1)

        def act():
            connection.data_received(text("one"))
            connection.data_received(text("two"))
            assert server.send_to(instance.scope_id, push(2))

        async with (
            websockets_serving.serving(server) as address,
            await websockets_serving.Client(address).open(),
        ):
            [connection] = server.connections
            [instance] = server.application_instances.values()
            await application.promise(instance, act)
            await in_time(lambda: len(application.got) == 5)
            assert [one.get("number", one.get("text")) for one in application.got] == [0, 1, "one", "two", 2]

    run(main())


def test_pushed_to_who_sends_datagrams(cy, run, quiet):
    async def main():
        application = Meanwhile(None)
        server = udp_server_of(cy, application, max_queue_size=1)

        def act():
            assert server.send_to(instance.scope_id, push(2))
            assert server.send_to(instance.scope_id, push(3))

        async with serving_datagrams(server) as [address]:
            with clients(address) as [client]:
                client.send(b"hello")
                await in_time(lambda: server.application_instances)
                [instance] = server.application_instances.values()
                await application.promise(instance, act)
                await in_time(lambda: len(application.got) == 4)
                assert application.got == [push(number) for number in range(4)]

    run(main())
