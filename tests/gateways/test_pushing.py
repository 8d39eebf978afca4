"""`send_to` and `send_to_all` of every gateway: what comes from outside an instance, in order and within bounds."""

from __future__ import annotations

import asyncio
import importlib
import socket
import struct
import threading

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
                assert server.send_to_all([one, "nobody", two], push(number)) == ["nobody"]
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


def test_threads(cy, run, quiet):
    """From several threads at once: each one's messages come in its order, and nobody waits for ever."""

    async def main():
        recorder = streams.Recorder()
        server = streams.server_of(cy, recorder)
        async with streams.serving(server) as address, streams.Client(address):
            await in_time(lambda: recorder.messages)
            [scope_id] = server.application_instances

            def work(thread):
                return [server.send_to_all([scope_id, thread], push((thread, number))) for number in range(50)]

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
            thread.append(threading.Thread(target=lambda: answers.append(server.send_to_all(["a"], push(0)))))
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
    assert server.send_to_all(iter(["a", "b"]), push(0)) == ["a", "b"]

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
                assert server.send_to_all([scope_id], push(7)) == []
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
            assert [server.send_to_all(scope_ids, push(number)) for number in range(10)] == [[]] * 10
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
