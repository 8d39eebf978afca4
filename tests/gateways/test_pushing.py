"""`send_to` and `broadcast` of every gateway: what comes from outside an instance, in order and within bounds."""

from __future__ import annotations

import asyncio
import importlib
import socket
import struct
import threading
import types
from concurrent import futures

import pytest

from support import streams, websockets_serving
from support.real_clients import client as http_client, serving as serving_http
from support.serving import in_time
from support.udp import clients, server_of as udp_server_of, serving_datagrams
from support.websockets_raw import text


def push(number):
    return {"type": "push", "number": number}


def pushes(messages):
    return [one["number"] for one in messages if one["type"] == "push"]


def test_streams(cy, run, quiet):
    """In order, each a copy of its own; who is not there is told."""

    async def main():
        recorders = streams.Recorder()
        server = streams.server_of(cy, recorders)
        async with streams.serving(server) as address, streams.Client(address), streams.Client(address):
            await in_time(lambda: len(recorders.messages) == 2)
            one, two = server.application_instances
            for number in range(100):
                assert server.broadcast([one, "nobody", two], push(number)) == ["nobody"]
            assert server.send_to("nobody", push(0)) is False
            await in_time(lambda: len(recorders.messages) == 202)
            assert sorted(pushes(recorders.messages)) == sorted([*range(100)] * 2)
            copies = [one for one in recorders.messages if one["type"] == "push" and one["number"] == 7]
            assert copies[0] is not copies[1]

    run(main())


def test_bounds(cy, run, quiet):
    """Beyond `max_pushed` an instance is not reached; those that were accepted arrive."""

    async def main():
        got = []

        async def application(scope, receive, send):
            await ready.wait()
            while (message := await receive())["type"] != "stream.disconnect":
                got.append(message)

        ready = asyncio.Event()
        server = streams.server_of(cy, application, max_pushed=10)
        async with streams.serving(server) as address, streams.Client(address) as client:
            client.send(b"a\nb\nc\n")
            await in_time(lambda: server.waiting_bytes)
            [scope_id] = server.application_instances
            assert [server.send_to(scope_id, push(number)) for number in range(12)] == [True] * 10 + [False] * 2
            ready.set()
            await in_time(lambda: len(got) == 14)
            assert pushes(got) == [*range(10)]
            # The client's own messages take turns with them.
            assert [one["type"] for one in got].index("stream.receive") < 4

    run(main())


def nested(number):
    """A message of some 6,000 bytes, most of them within."""
    return {**push(number), "more": [{"bytes": b"x" * 2000, "text": "y" * 2000}, (memoryview(b"z" * 2000),)]}


def test_bytes(cy, run, quiet):
    """Beyond `max_pushed_bytes` an instance is not reached; there is room again when it has received."""

    async def main():
        got = []

        async def application(scope, receive, send):
            await ready.wait()
            while (message := await receive())["type"] != "stream.disconnect":
                got.append(message)

        ready = asyncio.Event()
        server = streams.server_of(cy, application, max_pushed_bytes=10_000)
        async with streams.serving(server) as address, streams.Client(address):
            await in_time(lambda: server.application_instances)
            [scope_id] = server.application_instances
            assert [server.send_to(scope_id, nested(number)) for number in range(4)] == [True, True, False, False]
            ready.set()
            await in_time(lambda: len(got) == 3)
            assert [server.send_to(scope_id, nested(number)) for number in range(4, 6)] == [True, True]
            await in_time(lambda: len(got) == 5)
            assert pushes(got) == [0, 1, 4, 5]

    run(main())


def test_bytes_to_websockets(cy, run, quiet):
    async def main():
        got = []

        async def application(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            await ready.wait()
            while (message := await receive())["type"] != "websocket.disconnect":
                got.append(message)

        ready = asyncio.Event()
        server = websockets_serving.server_of(cy, application, max_pushed_bytes=10_000)
        async with (
            websockets_serving.serving(server) as address,
            await websockets_serving.Client(address).open(),
        ):
            [scope_id] = server.application_instances
            # One is in the queue; what waits behind that counts.
            assert [server.send_to(scope_id, nested(number)) for number in range(5)] == [True, True, True, False, False]
            ready.set()
            await in_time(lambda: len(got) == 3)
            assert [server.send_to(scope_id, nested(number)) for number in range(5, 7)] == [True, True]
            await in_time(lambda: pushes(got) == [0, 1, 2, 5, 6])

    run(main())


@pytest.mark.parametrize("max_queue_size", [0, 1])
def test_bytes_to_who_sends_datagrams(cy, run, quiet, max_queue_size):
    """In the queue and behind it."""

    async def main():
        got = []

        async def application(scope, receive, send):
            await receive()
            await ready.wait()
            while True:
                got.append(await receive())

        ready = asyncio.Event()
        server = udp_server_of(cy, application, max_pushed_bytes=10_000, max_queue_size=max_queue_size)
        async with serving_datagrams(server) as [address]:
            with clients(address) as [client]:
                client.send(b"hello")
                await in_time(lambda: server.stats()["idle"] == 0 and server.application_instances)
                [instance] = server.application_instances.values()
                await in_time(instance.empty)
                scope_id = instance.scope_id
                assert [server.send_to(scope_id, nested(number)) for number in range(4)] == [True, True, False, False]
                ready.set()
                await in_time(lambda: pushes(got) == [0, 1])
                assert server.send_to(scope_id, nested(4))
                await in_time(lambda: pushes(got) == [0, 1, 4])

    run(main())


def test_a_message_without_end(cy):
    """One that contains itself is too large, and counted no further."""
    pushing = importlib.import_module(f"{cy.__name__}.gateways.pushing")
    message = push(0)
    message["self"] = [message]
    assert 1000 <= pushing.size_of(message, 1000) < 2000


def test_pushes_come_after_the_beginning(cy, run, quiet):
    """What is pushed to an instance that has just been made comes behind its ``stream.connect``."""

    async def main():
        def begin(self, connection, first_message):
            super(type(server), self).begin(connection, first_message)
            assert self.send_to(connection, push(0))

        recorder = streams.Recorder()
        server = streams.server_of(cy, recorder, begin=begin)
        async with streams.serving(server) as address, streams.Client(address):
            await in_time(lambda: len(recorder.messages) == 2)
            assert recorder.kinds == ["connect", "push"]

    run(main())


def test_pushes_do_not_put_off_the_end(cy, run, quiet):
    """Where there is always another one, the application is told all the same that its client has gone."""

    async def main():
        async def application(scope, receive, send):
            me = current_instance()
            while (message := await receive())["type"] != "stream.disconnect":
                if message["type"] == "push":
                    assert me.server.send_to(me.scope_id, push(0))

        current_instance = importlib.import_module(f"{cy.__name__}.core.context").current_instance
        server = streams.server_of(cy, application, application_undelivered=lambda self, *_: None)
        async with streams.serving(server) as address:
            async with streams.Client(address):
                await in_time(lambda: server.application_instances)
                assert server.send_to(*server.application_instances, push(0))
            await in_time(lambda: not server.application_instances)

    run(main())


def test_pushes_before_the_end_are_received(cy, run, quiet):
    async def main():
        async def application(scope, receive, send):
            await ready.wait()
            await recorder(scope, receive, send)

        ready, recorder = asyncio.Event(), streams.Recorder()
        server = streams.server_of(cy, application)
        async with streams.serving(server) as address, streams.Client(address) as client:
            await in_time(lambda: server.application_instances)
            for number in range(5):
                assert server.send_to(*server.application_instances, push(number))
            client.send(b"a\n")
            client.half_close()
            await in_time(lambda: all(connection.end for connection in server.connections))
            ready.set()
            await in_time(lambda: recorder.end)
            assert pushes(recorder.messages) == [*range(5)]
            assert recorder.kinds[-1] == "disconnect"

    run(main())


def test_a_push_that_is_done_as_its_thread_looks(cy, monkeypatch):
    """It counts as done, though the wait for it has ended without it."""
    pushing = importlib.import_module(f"{cy.__name__}.gateways.pushing")

    class Late(futures.Future):
        def result(self, timeout=None):
            if timeout is None:
                return super().result(0)
            super().result(timeout)
            raise futures.TimeoutError

    class Loop:
        def call_soon_threadsafe(self, callback):
            callback()

    monkeypatch.setattr(pushing, "futures", types.SimpleNamespace(Future=Late, TimeoutError=futures.TimeoutError))
    assert pushing.in_loop(Loop(), lambda: True, lambda scope_ids: ["missed"], ["reached", "missed"]) == ["missed"]


def test_threads(cy, run, quiet):
    """From several threads at once: each one's messages come in its order, and nobody waits for ever."""

    async def main():
        recorder = streams.Recorder()
        server = streams.server_of(cy, recorder)
        async with streams.serving(server) as address, streams.Client(address):
            await in_time(lambda: recorder.messages)
            [scope_id] = server.application_instances

            def work(thread):
                return [server.broadcast([scope_id, thread], push((thread, number))) for number in range(50)]

            missed = await asyncio.gather(*(asyncio.to_thread(work, thread) for thread in range(4)))
            assert missed == [[[thread]] * 50 for thread in range(4)]
            await in_time(lambda: len(pushes(recorder.messages)) == 200)
            for thread in range(4):
                own = [number for one, number in pushes(recorder.messages) if one == thread]
                assert own == [*range(50)]
        assert await asyncio.to_thread(server.send_to, scope_id, push(0)) is False

    run(main())


def test_a_thread_that_waits_while_the_server_ends(cy, run, quiet):
    """It is told that nobody was reached, when the loop ends before it was its turn."""
    answers = []

    async def main():
        server = streams.server_of(cy, streams.echo)
        async with streams.serving(server):
            thread.append(threading.Thread(target=lambda: answers.append(server.broadcast(["a"], push(0)))))
            thread[0].start()

    thread = []
    run(main())
    thread[0].join(10)
    assert answers == [["a"]]


@pytest.mark.parametrize(
    ("message", "error"),
    [("x", TypeError), (None, TypeError), ([("type", "x")], TypeError), ({}, ValueError), ({"type": 1}, ValueError)],
)
def test_what_is_no_message(cy, message, error):
    with pytest.raises(error, match="a message must"):
        streams.server_of(cy, streams.echo).send_to("a", message)


def test_without_a_run(cy, run):
    """Where no server runs, nobody is reached."""
    server = streams.server_of(cy, streams.echo)
    assert server.broadcast(iter(["a", "b"]), push(0)) == ["a", "b"]

    async def main():
        assert server.send_to("a", push(0)) is False

    run(main())


def test_datagrams(cy, run, quiet):
    """A client that has sent one datagram is sent others later."""

    async def main():
        async def application(scope, receive, send):
            while True:
                message = await receive()
                if message["type"] == "push":
                    await send({"type": "datagram.send", "data": b"%d" % message["number"]})

        server = udp_server_of(cy, application)
        async with serving_datagrams(server) as [address]:
            with clients(address) as [client]:
                client.send(b"hello")
                await in_time(lambda: len(server.application_instances) == 1)
                [scope_id] = server.application_instances
                assert server.broadcast([scope_id], push(7)) == []
                assert await client.receive() == b"7"

    run(main())


def test_websockets(cy, run, quiet):
    """Very many at once, more than the queue holds, arrive in order; what the client sends comes in between."""

    async def main():
        recorder = websockets_serving.Recorder()
        server = websockets_serving.server_of(cy, recorder)
        async with (
            websockets_serving.serving(server) as address,
            await websockets_serving.Client(address).open() as client,
        ):
            await in_time(lambda: recorder.messages)
            [scope_id] = server.application_instances
            client.send(text("from the client"))
            for number in range(500):
                assert server.send_to(scope_id, push(number))
            await in_time(lambda: len(recorder.messages) >= 502)
            assert pushes(recorder.messages) == [*range(500)]
            assert any(one.get("text") == "from the client" for one in recorder.messages)

    run(main())


def test_what_an_instance_that_ends_has_not_received(cy, run):
    """It goes to the hook, also what had no room in the queue."""

    async def main():
        left = []

        def undelivered(self, messages, details):
            left.extend(messages)

        async def application(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            await release.wait()
            raise ValueError("on purpose")

        release = asyncio.Event()
        server = websockets_serving.server_of(
            cy, application, application_undelivered=undelivered, application_exception=lambda self, *_: None
        )
        async with (
            websockets_serving.serving(server) as address,
            await websockets_serving.Client(address).open(),
        ):
            [scope_id] = server.application_instances
            for number in range(5):
                assert server.send_to(scope_id, push(number))
            release.set()
            await in_time(lambda: len(left) >= 4)
            assert set(pushes(left)) >= {1, 2, 3, 4}

    run(main())


def test_requests(cy, run, quiet):
    """A response may be made of what is pushed, while the client waits."""

    async def main():
        scope_ids = []
        current_instance = importlib.import_module(f"{cy.__name__}.core.context").current_instance

        async def application(scope, receive, send):
            scope_ids.append(current_instance().scope_id)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                message = await receive()
                if message["type"] == "push":
                    number = message["number"]
                    await send({"type": "http.response.body", "body": b"%d" % number, "more_body": number < 9})
                    if number == 9:
                        return

        async with serving_http(cy, application, lifespan="off") as server, http_client(server) as client:
            asking = asyncio.create_task(client.get("/"))
            await in_time(lambda: scope_ids)
            assert [server.broadcast(scope_ids, push(number)) for number in range(10)] == [[]] * 10
            assert (await asking).text == "0123456789"

    run(main())


def test_a_push_to_a_request_whose_client_goes(cy, run, quiet):
    """What was pushed is not lost when ``http.disconnect`` comes behind it."""

    async def main():
        got = []
        release = asyncio.Event()

        async def application(scope, receive, send):
            while (await receive())["more_body"]:
                pass
            await release.wait()
            got.append(await receive())
            got.append(await receive())

        async with serving_http(cy, application, lifespan="off") as server:
            _, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
            await in_time(lambda: server.application_instances)
            await in_time(lambda: server.requests)
            [scope_id] = server.application_instances
            await asyncio.sleep(0.01)
            assert server.send_to(scope_id, push(1))
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            await in_time(lambda: not server.connections)
            release.set()
            await in_time(lambda: len(got) == 2)
            assert [one["type"] for one in got] == ["push", "http.disconnect"]

    run(main())
