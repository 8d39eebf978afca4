"""An override of `scope_id`: a client that comes back finds its instance again, with what was queued meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from support.serving import in_time
from support.streams import SHORT, Client, server_of, serving


def by_token(self, connection, first_message):
    """The first message is a token."""
    assert connection.client[0] == "127.0.0.1"
    if first_message == b"fail":
        raise ValueError("on purpose")
    return first_message or None


class Session:
    """An application that survives its connections: it notes what it receives, and sends on what is pushed."""

    def __init__(self):
        self.messages = []

    @property
    def brief(self):
        return [one.get("data") or one.get("reason") or one["type"] for one in self.messages]

    async def __call__(self, scope, receive, send):
        while True:
            message = await receive()
            self.messages.append(message)
            if message.get("data") == b"quit":
                return
            if message["type"] == "push":
                await send({"type": "stream.send", "data": message["text"]})


def test_coming_back(cy, run, quiet):
    async def main():
        session = Session()
        server = server_of(cy, session, scope_id=by_token)
        async with serving(server) as address:
            async with Client(address) as client:
                client.send(b"token\nfirst\n")
                await in_time(lambda: b"first" in session.brief)
            await in_time(lambda: session.brief[-1] == "eof")
            assert list(server.application_instances) == [b"token"]
            # What is sent meanwhile waits for the client.
            for number in range(3):
                assert server.send_to(b"token", {"type": "push", "text": b"%d" % number})
            async with Client(address) as client:
                client.send(b"token\nsecond\n")
                assert [await client.line() for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
                await in_time(lambda: b"second" in session.brief)
                client.send(b"quit\n")
                assert await client.rest() == b""
            assert session.brief[:5] == ["stream.connect", b"token", b"first", "eof", "push"]
            assert [one for one in session.brief if one != "push"] == [
                "stream.connect", b"token", b"first", "eof", "stream.connect", b"token", b"second", b"quit",
            ]  # fmt: skip
            stats = server.stats()
            assert (stats["created"], stats["streams"]) == (1, 2)

    run(main())


def test_what_came_by_the_old_connection_comes_first(cy, run, quiet):
    """Nothing is lost or overtaken, though the application was busy while its client went and came back."""

    async def main():
        seen = []
        ready = asyncio.Event()

        async def application(scope, receive, send):
            await ready.wait()
            while (message := await receive()).get("data") != b"quit":
                seen.append(message.get("data") or message.get("reason") or message["type"])

        server = server_of(cy, application, scope_id=by_token)
        async with serving(server) as address:
            for number in range(3):
                async with Client(address) as client:
                    client.send(b"token\n%d\n" % number)
                    await in_time(lambda count=number + 1: server.streams == count)
                    await in_time(lambda: len(server.connections) <= 2)
            async with Client(address) as client:
                client.send(b"token\nquit\n")
                await in_time(lambda: server.streams == 4)
                ready.set()
                assert await client.rest() == b""
            order = [one for one in seen if isinstance(one, bytes)]
            assert order == [b"token", b"0", b"token", b"1", b"token", b"2", b"token"]
            assert seen.count("stream.connect") == 4

    run(main())


def test_what_is_sent_while_a_connection_breaks(cy, run, quiet):
    """It waits for the client to come back, as it does once the server knows; what has come before is received."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            while (message := await receive()).get("data") != b"quit":
                seen.append(message.get("data") or message.get("reason") or message["type"])
                if message.get("data") == b"break":
                    [connection] = server.connections
                    connection.transport.abort()
                    late.append(asyncio.ensure_future(send({"type": "stream.send", "data": b"late"})))

        late = []
        server = server_of(cy, application, scope_id=by_token)
        async with serving(server) as address:
            async with Client(address) as client:
                client.send(b"token\nbreak\nunread\n")
                await client.rest()
                await in_time(lambda: "lost" in seen)
                assert seen == ["stream.connect", b"token", b"break", b"unread", "lost"]
                assert not late[0].done()
            async with Client(address) as client:
                assert await client.ask(b"token\n") == b"late\n"
                await late[0]
                client.send(b"quit\n")
                assert await client.rest() == b""

    run(main())


def test_the_new_connection_replaces_the_old_one(cy, run, quiet):
    """A client that comes back before the server knows that it has gone is served by its new connection."""

    async def main():
        session = Session()
        server = server_of(cy, session, scope_id=by_token)
        async with serving(server) as address, Client(address) as old:
            old.send(b"token\n")
            await in_time(lambda: b"token" in session.brief)
            async with Client(address) as new:
                new.send(b"token\n")
                assert await old.rest() == b""
                await in_time(lambda: session.brief.count(b"token") == 2)
                assert session.brief == ["stream.connect", b"token", "replaced", "stream.connect", b"token"]
                assert server.send_to(b"token", {"type": "push", "text": b"to the new one"})
                assert await new.line() == b"to the new one\n"
                new.send(b"quit\n")
                assert await new.rest() == b""

    run(main())


def test_too_many_connections_of_one_client(cy, run, quiet):
    """As many as wait to be read are bounded: the next one is refused, and the instance goes on."""

    async def main():
        ready = asyncio.Event()

        async def application(scope, receive, send):
            await ready.wait()

        server = server_of(cy, application, scope_id=by_token)
        async with serving(server) as address:
            for number in range(9):
                async with Client(address) as client:
                    client.send(b"token\n")
                    await in_time(lambda count=number + 1: server.streams + server.refused == count)
            assert server.refused == 4
            ready.set()
            await in_time(lambda: not server.application_instances)

    run(main())


@pytest.mark.slow
def test_not_back_in_time(cy, run, quiet):
    """An instance whose client does not come back is ended, and what it wants to send fails."""

    async def main():
        errors = []

        async def application(scope, receive, send):
            while (await receive())["type"] != "stream.disconnect":
                pass
            try:
                await send({"type": "stream.send", "data": b"anybody?"})
            finally:
                errors.append("ended")

        server = server_of(cy, application, scope_id=by_token, reconnect_timeout=SHORT)
        async with serving(server) as address:
            async with Client(address) as client:
                client.send(b"token\n")
                await in_time(lambda: server.application_instances)
            await in_time(lambda: errors)
            await in_time(lambda: not server.application_instances)
            assert server.stats()["cancelled"] == 1

    run(main())


@pytest.mark.parametrize("sent", [b"\n", b"fail\n", b"no line"])
def test_no_session(cy, run, caplog, sent):
    """None, an error and a missing first message close the connection, without an instance."""

    async def main():
        server = server_of(cy, Session(), scope_id=by_token)
        async with serving(server) as address, Client(address) as client:
            client.send(sent)
            client.half_close()
            assert await client.rest() == b""
            assert server.stats()["created"] == 0

    run(main())
    assert ("a connection could not be begun" in caplog.text) == (sent == b"fail\n")


@pytest.mark.parametrize(
    ("limit", "counter"), [("max_message_size", "bad_messages"), ("max_waiting_bytes", "overloaded")]
)
def test_a_first_message_that_is_too_long(cy, run, quiet, limit, counter):
    """The connection is closed at once, without an instance."""

    async def main():
        server = server_of(cy, Session(), scope_id=by_token, **{limit: 5000})
        async with serving(server) as address, Client(address) as client:
            client.send(b"x" * 6000)
            assert await client.rest() == b""
            assert (server.stats()["created"], server.stats()[counter]) == (0, 1)

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize(("framing", "nothing"), [("cobs", b"\0"), ("resp", b"\r\n")])
def test_a_client_that_sends_nothing_all_the_time(cy, run, quiet, framing, nothing):
    """What the framing skips is no first message: that has to come in time."""

    async def main():
        server = server_of(cy, Session(), scope_id=by_token, framing=framing, message_timeout=SHORT)
        async with serving(server) as address, Client(address) as client, asyncio.TaskGroup() as group:
            drip = group.create_task(dripping(client))
            assert await client.rest() == b""
            drip.cancel()
            assert server.stats()["timeouts"] == 1

    async def dripping(client):
        while True:
            client.send(nothing)
            await asyncio.sleep(0.02)

    run(main())


@pytest.mark.slow
def test_a_silent_client_has_no_session(cy, run, quiet):
    async def main():
        server = server_of(cy, Session(), scope_id=by_token, message_timeout=SHORT)
        async with serving(server) as address, Client(address) as client:
            client.send(b"no line")
            assert await client.rest() == b""
            assert server.stats()["timeouts"] == 1

    run(main())


def test_a_stop_while_the_client_is_away(cy, run, quiet):
    """The server does not wait for clients that have gone."""

    async def main():
        session = Session()
        server = server_of(cy, session, scope_id=by_token)
        async with serving(server) as address:
            async with Client(address) as client:
                client.send(b"token\n")
                await in_time(lambda: b"token" in session.brief)
            await in_time(lambda: "eof" in session.brief)
            assert server.send_to(b"token", {"type": "push", "text": b"never"})
            await in_time(lambda: "push" in session.brief)

    run(main())
