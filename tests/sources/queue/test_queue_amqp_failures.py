"""RabbitMQ that fails, refuses, or has been tampered with: what a server makes of it."""

from __future__ import annotations

import asyncio
import re

import pytest

from cyasgi.wire.queue import Letter
from support.queues import Seen, queues
from support.rabbitmq import (
    PARTITIONS,
    aiormq as aiormq,
    client,
    dead_letter,
    name as name,
    publish,
    running,
    server_of,
)
from support.rabbitmq_process import free_port
from support.serving import in_time

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.few_combinations(1)]


async def counted(channel, name, count):
    """Wait until so many workers are counted."""
    async with asyncio.timeout(10):
        while True:
            declared = await channel.queue_declare(f"{name}.workers", durable=True, auto_delete=True)
            if declared.consumer_count == count:
                return


def test_a_partition_whose_queue_is_deleted(cy, run, broker, aiormq, name):
    """It is made anew, whether it is held or not, and the others are not touched."""

    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)) as server, client(aiormq, broker) as channel:
            await channel.queue_delete(f"{name}.1")
            await in_time(lambda: server.stats()["partitions_lost"] == 1)
            await in_time(lambda: server.stats()["partitions"] == PARTITIONS)
            for number in range(40):
                await publish(channel, name, b"x", scope_id=f"scope-{number}")
            await in_time(lambda: len(seen.by_scope) == 40)
            assert server.stats()["partitions_lost"] == 1

    run(main())


def test_the_queue_of_dead_letters_is_deleted(cy, run, broker, aiormq, name):
    """It is made anew for the next one."""

    async def main():
        async with running(server_of(cy, broker, name, Seen())) as server, client(aiormq, broker) as channel:
            await channel.queue_delete(f"{name}.dead")
            await publish(channel, name, b"reject")
            await in_time(lambda: server.stats()["buried"] == 1)
            assert (await dead_letter(channel, name)).body == b"reject"

    run(main())


def test_the_properties_of_a_dead_letter(cy, run, broker, aiormq, name):
    """It keeps those of the message; the user, which only its publisher may give, is in a header."""
    properties = {
        "content_type": "application/json",
        "content_encoding": "gzip",
        "message_type": "order",
        "app_id": "shop",
        "message_id": "m",
        "correlation_id": "c",
        "reply_to": "r",
        "priority": 3,
    }

    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)), client(aiormq, broker) as channel:
            for user in ("guest", None):
                headers = {"x-published-by": "somebody"}
                await publish(channel, name, b"reject", user_id=user, headers=headers, **properties)
                dead = (await dead_letter(channel, name)).header.properties
                assert {key: getattr(dead, key) for key in properties} == properties
                assert (dead.headers.get("x-published-by"), dead.user_id) == (user, None)
            assert seen.messages[0]["content_encoding"] == "gzip"

    run(main())


def test_the_queue_of_workers_is_deleted(cy, run, broker, aiormq, name):
    """The workers make it anew, lose nothing, and are counted again, so that one that comes gets its share."""

    async def main():
        first, second = Seen(), Seen()
        async with (
            running(server_of(cy, broker, name, first)) as one,
            running(server_of(cy, broker, name, second)) as other,
            client(aiormq, broker) as channel,
        ):
            await in_time(lambda: [len(one.holdings), len(other.holdings)] == [PARTITIONS // 2] * 2)
            await channel.queue_delete(f"{name}.workers")
            await counted(channel, name, 2)
            async with running(server_of(cy, broker, name, Seen())) as third:
                await in_time(lambda: third.holdings)
            assert [server.stats()["partitions_lost"] for server in (one, other)] == [0, 0]

    run(main())


def test_a_worker_that_is_no_longer_counted(cy, run, broker, aiormq, name):
    """Its consumer was cancelled, and nothing else has happened."""

    async def main():
        async with running(server_of(cy, broker, name, Seen())) as server, client(aiormq, broker) as channel:
            session = server._session
            await session._control.basic_cancel(session._counted)
            await counted(channel, name, 1)
            assert server._session is session

    run(main())


def test_a_channel_that_is_closed(cy, run, broker, aiormq, name):
    """Even the one by which the session asks: the server begins a new session."""

    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)) as server, client(aiormq, broker) as channel:
            session = server._session
            await session._control.close()
            await in_time(lambda: server._session is not session and server.stats()["partitions"] == PARTITIONS)
            await publish(channel, name, b"x")
            await in_time(lambda: seen.messages)

    run(main())


def test_notes_of_suspects(cy, run, broker, aiormq, name):
    """They outlive the session, and are forgotten when they are cleared."""

    async def main():
        for number in range(3):
            async with running(server_of(cy, broker, name, Seen())) as server:
                assert [await server._session.note_suspect("a"), await server._session.note_suspect("b")] == [
                    number
                ] * 2
                await server._session.clear_suspect("unknown")
        async with running(server_of(cy, broker, name, Seen())) as server:
            await server._session.clear_suspect("a")
            assert [await server._session.note_suspect("a"), await server._session.note_suspect("b")] == [0, 3]

    run(main())


def test_answers_of_one_message_id_that_nobody_waits_for(cy, run, broker, aiormq, name):
    """Published together, each is known to have been dropped, and no other one is thought to be."""

    async def main():
        async with running(server_of(cy, broker, name, Seen())) as server, client(aiormq, broker) as channel:
            await channel.queue_declare(f"{name}.answers", auto_delete=True)
            letter = Letter(b"x", message_id="same")
            queues = [f"{name}.answers" if number % 3 else f"{name}.nobody" for number in range(30)]
            async with asyncio.timeout(20):
                confirmed = await asyncio.gather(*[server._session.reply(queue, letter) for queue in queues])
            assert confirmed == [bool(number % 3) for number in range(30)]
            assert (await channel.queue_declare(f"{name}.answers", passive=True)).message_count == 20

    run(main())


def test_sure_while_a_partition_takes_its_time(cy, run, broker, aiormq, name):
    """One that waits for what is in hand, far longer than a heartbeat, holds up no other."""

    async def main():
        first, second = Seen(), Seen()
        attributes = {"heartbeat": 1, "shutdown_timeout": 20}
        async with (
            running(server_of(cy, broker, name, first, **attributes)) as one,
            client(aiormq, broker) as channel,
        ):
            for number in range(40):
                await publish(channel, name, b"hold", scope_id=f"scope-{number}")
            await in_time(lambda: len(first.messages) == 40)
            async with running(server_of(cy, broker, name, second, **attributes)):
                await in_time(lambda: any(holding.letting_go for holding in one.holdings.values()))
                for _ in range(30):
                    await asyncio.sleep(0.1)
                    assert all(holding.sure for holding in one.holdings.values())
                first.release.set()

    run(main())


def test_a_connection_that_breaks(cy, run, broker, aiormq, name):
    """What is in hand is cut off and delivered again, marked; the server connects anew."""

    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)) as server, client(aiormq, broker) as channel:
            await publish(channel, name, b"hold", b"after")
            await in_time(lambda: seen.messages)
            server._session._connection._writer_task.cancel()
            await in_time(lambda: server.stats()["partitions_lost"])
            seen.release.set()
            await in_time(lambda: b"after" in seen.bodies)
            assert [message["body"] for message in seen.messages if message["redelivered"]][:1] == [b"hold"]

    run(main())


def test_a_connection_that_breaks_again_and_again(cy, run, broker, aiormq, name):
    """Whatever the server was waiting for at that moment."""

    async def main():
        seen = Seen()
        async with running(server_of(cy, broker, name, seen)) as server, client(aiormq, broker) as channel:
            for number in range(12):
                connection = server._session._connection
                (connection._reader_task if number % 2 else connection._writer_task).cancel()
                await publish(channel, name, b"%d" % number)
                await in_time(lambda body=b"%d" % number: body in seen.bodies)
                await in_time(lambda: server.stats()["partitions"] == PARTITIONS)
            assert server.stats()["partitions_lost"] >= 12

    run(main())


def test_a_frozen_broker(cy, run, own_broker, aiormq, name):
    """It is noticed by its silence, and found again when it goes on."""

    async def main():
        seen = Seen()
        server = server_of(cy, own_broker, name, seen)
        async with running(server), client(aiormq, own_broker) as channel:
            await publish(channel, name, b"one")
            await in_time(lambda: seen.messages)
            own_broker.freeze()
            try:
                await asyncio.sleep(6)
                assert not any(holding.sure for holding in server.holdings.values())
            finally:
                own_broker.thaw()
            await in_time(lambda: all(holding.sure for holding in server.holdings.values()) and server.holdings)

    run(main())


def test_a_broker_that_restarts(cy, run, own_broker, aiormq, name):
    async def main():
        seen = Seen()
        async with running(server_of(cy, own_broker, name, seen)) as server:
            async with client(aiormq, own_broker) as channel:
                await publish(channel, name, b"hold", b"after")
                await in_time(lambda: seen.messages)
            await asyncio.to_thread(own_broker.stop)
            await in_time(lambda: server.stats()["partitions"] == 0)
            seen.release.set()
            await asyncio.to_thread(own_broker.start)
            for _ in range(2000):
                if b"after" in seen.bodies:
                    break
                await asyncio.sleep(0.02)
            assert seen.bodies == [b"hold", b"hold", b"after"]
            await in_time(lambda: server.stats()["partitions"] == PARTITIONS)

    run(main())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://guest:guest@127.0.0.1:{free}/", "amqp://127.0.0.1:{free}/: .*Connect"),
        ("amqp://guest:wrong@127.0.0.1:{port}/", "amqp://127.0.0.1:{port}/: the user or the password is refused"),
        (
            "amqp://guest:guest@127.0.0.1:{port}/none",
            "amqp://127.0.0.1:{port}/none: the broker refuses the virtual host 'none'",
        ),
    ],
)
def test_what_cannot_be_reached(cy, run, broker, aiormq, url, said):
    async def main():
        values = {"port": broker.port, "free": free_port()}
        server = queues(cy).QueueServer(Seen(), engine=url.format(**values))
        with pytest.raises(queues(cy).EngineError, match=said.format(**values)) as raised:
            await server.arun()
        assert "\n" not in str(raised.value)
        assert "guest" not in str(raised.value).replace("user 'guest'", "")

    run(main())


def test_a_queue_of_another_shape(cy, run, broker, aiormq, name):
    async def main():
        async with client(aiormq, broker) as channel:
            await channel.queue_declare(f"{name}.dead")
        with pytest.raises(queues(cy).EngineError, match=f"the queue '{name}.dead' is of another kind"):
            await server_of(cy, broker, name, Seen()).arun()
        other = f"{name}-other"
        async with running(server_of(cy, broker, other, Seen())):
            pass
        for count in (2, 8):
            server = queues(cy).QueueServer(Seen(), engine=broker.url, name=other, partitions=count)
            with pytest.raises(queues(cy).EngineError, match=re.escape("has another number of partitions than")):
                await server.arun()
        third = f"{name}-third"
        async with client(aiormq, broker) as channel:
            await channel.exchange_declare(third, exchange_type="fanout")
        with pytest.raises(queues(cy).EngineError, match=f"the exchange '{third}' is of another kind"):
            await server_of(cy, broker, third, Seen()).arun()

    run(main())
