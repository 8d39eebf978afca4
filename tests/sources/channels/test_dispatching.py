"""Which instance gets which message of a channel, and when: on the in-memory layer, as on any other."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.layers import InMemoryChannelLayer, channel_layers
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from channels.worker import Worker
from django.conf import settings

from support.channel_layers import Recorder, send_numbers, sources, working
from support.loops import passes
from support.serving import eventually, in_time


@pytest.fixture
def layer():
    return InMemoryChannelLayer(capacity=1000)


def test_scopes_and_ids_as_of_channels_worker(cy, run):
    """One instance for each channel, with Channels' scope and the channel's name as its id."""

    async def of(cls):
        # Listeners of a Worker that has ended go on.
        layer = InMemoryChannelLayer()
        server = cls(Recorder(), ["mails", "pictures"], layer)
        app = server.application.application if hasattr(server.application, "application") else server.application
        running = asyncio.create_task(server.arun())
        await send_numbers(layer, "mails", range(3))
        await send_numbers(layer, "pictures", range(2))
        await in_time(lambda: len(app.done) == 5)
        ids = sorted(server.application_instances)
        running.cancel()
        await asyncio.wait([running])
        return ids, app.scopes, app.of("mails"), app.of("pictures")

    async def main():
        theirs = await of(Worker)
        ours = await of(sources(cy).ChannelLayerServer)
        assert ours == theirs
        assert all(type(scope) is dict for scope in ours[1])

    run(main())


@pytest.mark.parametrize("concurrency", [1, 3])
def test_bound_of_a_channel(cy, run, layer, concurrency):
    """So many messages of a channel are begun, and the others wait in the layer; one by one they are in order."""

    async def main():
        app = Recorder(waits=True)
        async with working(cy, app, ["a"], layer, channel_concurrency=concurrency) as worker:
            await send_numbers(layer, "a", range(20))
            await eventually(lambda: len(app.began) == concurrency)
            await passes(50)
            assert len(app.began) == concurrency
            assert worker.server.stats()["waiting"] == 0
            assert layer.channels["a"].qsize() == 20 - concurrency
            app.let(20)
            await in_time(lambda: len(app.done) == 20)
            assert app.most_of_channel == concurrency
            assert len(worker.server.application_instances) == concurrency
        assert sorted(app.of("a")) == list(range(20))
        if concurrency == 1:
            assert app.of("a") == list(range(20))

    run(main())


def test_ids_of_several_instances(cy, run, layer):
    """The first one has the channel's name for its id, further ones have a number as well."""

    async def main():
        app = Recorder(waits=True)
        async with working(cy, app, ["a"], layer, channel_concurrency=3) as worker:
            await send_numbers(layer, "a", range(3))
            await eventually(lambda: len(app.began) == 3)
            assert sorted(worker.server.application_instances, key=str) == [("a", 1), ("a", 2), "a"]
            app.let(3)
            await in_time(lambda: len(app.done) == 3)

    run(main())


def test_bound_of_all_channels(cy, run, layer):
    """So many messages of all channels are begun, and the channels take turns."""

    async def main():
        app = Recorder(waits=True)
        channels = [f"c{number}" for number in range(6)]
        async with working(cy, app, channels, layer, concurrency=2):
            for channel in channels:
                await send_numbers(layer, channel, range(10))
            await eventually(lambda: len(app.began) == 2)
            await passes(50)
            assert len(app.began) == 2
            app.let(12)
            await in_time(lambda: len(app.done) >= 12)
            # None of them was left out meanwhile.
            assert {channel for channel, _ in app.began} == set(channels)
            app.let(48)
            await in_time(lambda: len(app.done) == 60)
        assert app.most == 2
        for channel in channels:
            assert app.of(channel) == list(range(10))

    run(main())


def test_more_channels_than_instances(cy, run, layer):
    """At `max_applications` idle instances make room, and nothing that is at work is evicted."""

    async def main():
        app = Recorder()
        channels = [f"c{number}" for number in range(8)]
        async with working(cy, app, channels, layer, max_applications=3) as worker:
            for number in range(5):
                for channel in channels:
                    await layer.send(channel, {"type": "work", "number": number})
            await in_time(lambda: len(app.done) == 40)
            stats = worker.server.stats()
            assert stats["evicted"] and not stats["interrupted"] and not stats["undelivered"]
        for channel in channels:
            assert app.of(channel) == list(range(5))

    run(main())


def test_failing_consumer_takes_nothing_with_it(cy, run, layer):
    """What waits behind a message that its consumer fails of is processed, by the next instance."""

    async def main():
        failures = []

        async def application_exception(self, exception, details):
            failures.append((exception.args[0], details.in_flight[0]["number"]))

        app = Recorder(fails=lambda number: number % 7 == 3)
        async with working(cy, app, ["a", "b"], layer, application_exception=application_exception):
            for channel in "ab":
                await send_numbers(layer, channel, range(50))
            await in_time(lambda: len(app.began) == 100)
            await in_time(lambda: len(failures) == 14)
        assert sorted(failures) == sorted([(number, number) for number in range(50) if number % 7 == 3] * 2)
        for channel in "ab":
            assert app.of(channel) == [number for number in range(50) if number % 7 != 3]

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raises", "returns"])
def test_start_that_fails(cy, run, layer, caplog, how):
    """An application that does not get to its first message loses none, and is started at growing intervals."""

    async def main():
        starts = []
        app = Recorder()

        async def application(scope, receive, send):
            starts.append(asyncio.get_running_loop().time())
            if len(starts) <= 3:
                if how == "raises":
                    raise OSError("no database")
                return
            await app(scope, receive, send)

        async with working(cy, application, ["a"], layer):
            await send_numbers(layer, "a", range(5))
            await in_time(lambda: len(app.done) == 5)
        assert app.of("a") == list(range(5))
        assert len(starts) == 4
        assert starts[1] - starts[0] >= 0.05 and starts[3] - starts[2] > 0.15
        told = [record for record in caplog.records if "no instance for channel 'a'" in record.getMessage()]
        assert len(told) == 3
        assert ("no database" in told[0].getMessage()) == (how == "raises")

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())


@pytest.mark.slow
def test_message_timeout(cy, run, layer, caplog):
    """A message that takes too long is told of, its instance is cancelled, and those behind it are processed."""

    async def main():
        app = Recorder(hangs=lambda number: number == 2)
        async with working(cy, app, ["a", "b"], layer, message_timeout=0.1) as worker:
            await send_numbers(layer, "a", range(5))
            await send_numbers(layer, "b", [2])
            await in_time(lambda: len(app.done) == 4)
            await in_time(lambda: worker.server.stats()["timed_out"] == 2)
            await in_time(lambda: worker.server.stats()["interrupted"] == 2)
        assert app.of("a") == [0, 1, 3, 4]

    with caplog.at_level(logging.WARNING, "cyasgi"):
        run(main())
    assert sum("took more than 0.1 s" in record.getMessage() for record in caplog.records) == 2


def test_quick_messages_do_not_time_out(cy, run, layer):
    """A time-out is for each message, not for all that an instance does."""

    async def main():
        app = Recorder()
        async with working(cy, app, ["a"], layer, message_timeout=0.05) as worker:
            for number in range(10):
                await send_numbers(layer, "a", [number])
                await in_time(lambda sent=number + 1: len(app.done) == sent)
                await asyncio.sleep(0.01)
            assert worker.server.stats()["timed_out"] == 0
            assert worker.server.stats()["created"] == 1

    run(main())


def test_message_that_was_not_received(cy, run, layer):
    """An instance that ends between being given a message and receiving it leaves it to the next one."""

    async def main():
        done = []
        asked = asyncio.Event()

        async def application(scope, receive, send):
            if not done:
                done.append("first")
                # Given a message when it asks, but it never looks at the answer.
                waiting = receive()
                waiting.close()
                asked.set()
                return
            while True:
                done.append((await receive())["number"])

        async with working(cy, application, ["a"], layer) as worker:
            await send_numbers(layer, "a", range(3))
            await in_time(lambda: len(done) == 4)
            assert done == ["first", 0, 1, 2]
            assert worker.server.stats()["restored"] == 1
            assert worker.server.stats()["undelivered"] == 0

    run(main())


def test_receive_in_intervals(cy, run, layer):
    """An application that gives up `receive()` and calls it again misses nothing."""

    async def main():
        done, turns = [], []

        async def application(scope, receive, send):
            while True:
                turns.append(1)
                try:
                    done.append((await asyncio.wait_for(receive(), 0.001))["number"])
                except TimeoutError:
                    continue

        async with working(cy, application, ["a"], layer):
            for number in range(10):
                await send_numbers(layer, "a", [number])
                turns.clear()
                await in_time(lambda: len(turns) >= 2)
            await in_time(lambda: len(done) == 10)
        assert done == list(range(10))

    run(main())


@pytest.mark.parametrize("message", [{"number": 1}, {"type": "", "number": 1}])
def test_message_without_a_type(cy, run, layer, caplog, message):
    """It is refused in one line; Channels' Worker ends of it."""

    async def main():
        app = Recorder()
        async with working(cy, app, ["a"], layer) as worker:
            await layer.send("a", message)
            await send_numbers(layer, "a", [7])
            await in_time(lambda: len(app.done) == 1)
            assert worker.server.stats()["refused"] == 1

    with caplog.at_level(logging.ERROR, "cyasgi"):
        run(main())
    (record,) = caplog.records
    assert record.getMessage() == f"a message on channel 'a' was refused: it has no type: {message!r}"


@pytest.mark.slow
# asgiref says so of any `send` that is no `async def`, as it does with its own server.
@pytest.mark.filterwarnings("ignore:async_to_sync was passed a non-async-marked callable:UserWarning")
def test_channels_consumers(cy, run, layer):
    """Consumers of Channels and its routers run on it; a synchronous one in a thread."""
    done = []

    class Asynchronous(AsyncConsumer):
        async def work(self, message):
            await asyncio.sleep(0)
            done.append(("async", message["number"]))

    class Synchronous(SyncConsumer):
        def work(self, message):
            done.append(("sync", message["number"]))

    router = ChannelNameRouter({"async": Asynchronous.as_asgi(), "sync": Synchronous.as_asgi()})
    application = ProtocolTypeRouter({"channel": router})
    if not settings.configured:
        settings.configure()

    async def main():
        before = channel_layers.set("default", layer)
        try:
            async with working(cy, application, ["async", "sync"], layer):
                for channel in ("async", "sync"):
                    await send_numbers(layer, channel, range(5))
                await in_time(lambda: len(done) == 10)
        finally:
            channel_layers.set("default", before)

    run(main())
    assert [number for channel, number in done if channel == "async"] == list(range(5))
    assert [number for channel, number in done if channel == "sync"] == list(range(5))


def test_stop_finishes_what_was_begun(cy, run, layer):
    """A stop takes nothing more from the layer, and waits for the message in hand."""

    async def main():
        app = Recorder(waits=True)
        async with working(cy, app, ["a"], layer) as worker:
            await send_numbers(layer, "a", range(10))
            await eventually(lambda: len(app.began) == 1)
            worker.server.stop()
            await passes(20)
            assert not worker.task.done()
            app.let(10)
            await worker.task
            assert app.done == [("a", 0)]
            assert layer.channels["a"].qsize() == 9

    run(main())


def test_runs_again(cy, run, layer):
    """A server that has ended can be run again."""

    async def main():
        app = Recorder()
        server = sources(cy).ChannelLayerServer(app, ["a"], layer)
        for number in range(3):
            running = asyncio.create_task(server.arun())
            await server.wait_started()
            await send_numbers(layer, "a", [number])
            await in_time(lambda sent=number + 1: len(app.done) == sent)
            with pytest.raises(RuntimeError, match="running already"):
                await server.arun()
            server.stop()
            await running
        assert server.stats()["messages"] == 3

    run(main())


def test_nobody_to_send_to(cy, run, layer):
    """What an application sends fails with the name of its channel."""

    async def main():
        failures = []

        async def application(scope, receive, send):
            await receive()
            await send({"type": "answer"})

        async def application_exception(self, exception, details):
            failures.append(str(exception))

        async with working(cy, application, ["a"], layer, application_exception=application_exception):
            await send_numbers(layer, "a", [1])
            await in_time(lambda: failures)
        assert failures[0].startswith("the application of channel 'a' has nobody to send to")

    run(main())


def test_limits_of_a_managed_server(cy, run, layer):
    """With ManagedServer in front, a channel beyond a limit waits, and loses nothing."""

    async def main():
        app = Recorder()
        managed = importlib.import_module(f"{cy.__name__}.lifecycle").ManagedServer

        class Server(managed, sources(cy).ChannelLayerServer):
            max_instances_per_key = 1

            def limit_key(self, scope):
                return "all"

        async with working(cy, app, ["a", "b"], layer, base=Server) as worker:
            await send_numbers(layer, "a", range(3))
            await in_time(lambda: len(app.done) == 3)
            await send_numbers(layer, "b", range(3))
            await in_time(lambda: worker.server.stats()["waiting"] == 1)
            worker.server.delete_application_instance("a")
            await in_time(lambda: app.of("b") == [0, 1, 2])

    run(main())


def test_beside_another_server(cy, run, layer):
    """It runs with others under one Supervisor; when one ends, all do."""

    async def main():
        app = Recorder()
        others = InMemoryChannelLayer()
        servers = [
            sources(cy).ChannelLayerServer(app, ["a"], layer),
            sources(cy).ChannelLayerServer(app, ["b"], others),
        ]
        supervisor = importlib.import_module(f"{cy.__name__}.supervisor").Supervisor(servers)
        running = asyncio.create_task(supervisor.arun())
        await supervisor.wait_started()
        await send_numbers(layer, "a", [1])
        await send_numbers(others, "b", [2])
        await in_time(lambda: sorted(app.done) == [("a", 1), ("b", 2)])
        servers[0].stop()
        await running

    run(main())


def test_hooks_that_raise(cy, run, layer, caplog):
    """What an override raises is logged, and stops nothing."""

    def message_refused(self, channel, reason):
        raise LookupError(channel)

    async def main():
        app = Recorder()
        async with working(cy, app, ["a"], layer, message_refused=message_refused):
            await layer.send("a", {"number": 1})
            await send_numbers(layer, "a", [7])
            await in_time(lambda: len(app.done) == 1)

    with caplog.at_level(logging.ERROR, "cyasgi"):
        run(main())
    (record,) = caplog.records
    assert record.getMessage() == "message_refused raised"


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (([], "layer"), ValueError, "accepted is the name of at least one channel"),
        ((["a", "a"], "layer"), ValueError, "accepted is each name once"),
        ((["a"], None), ValueError, "accepted is a channel layer"),
        (([1], "layer"), TypeError, "1 is not the name of a channel"),
        ((["a b"], "layer"), TypeError, "'a b' is not accepted: Channel name must be"),
    ],
)
def test_what_is_refused(cy, layer, arguments, error, told):
    """Names and layers that are none are refused when the server is made."""
    channels, which = arguments
    with pytest.raises(error, match=told):
        sources(cy).ChannelLayerServer(Recorder(), channels, which and layer)


def test_a_pause_is_over_when_its_timer_says_so(cy, run, monkeypatch):
    """A timer may be early by the clock that the pause was measured by, as uvloop's are after a long pass."""
    dispatcher = importlib.import_module(f"{cy.__name__}.sources.channels.dispatcher")
    monkeypatch.setattr(dispatcher, "clock", lambda: time.monotonic() / 2)
    starts, numbers = [], []

    async def application(scope, receive, send):
        starts.append(1)
        if len(starts) == 1:
            raise OSError("no database")
        while True:
            numbers.append((await receive())["number"])

    async def main():
        layer = InMemoryChannelLayer()
        async with working(cy, application, ["a"], layer):
            await send_numbers(layer, "a", [0])
            await in_time(lambda: numbers == [0])

    run(main())
