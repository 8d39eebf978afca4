"""undelivered_to = "successor": what waits behind an application that ends by itself goes to the id's next instance."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.loops import passes
from support.managed_servers import lifecycle
from support.serving import checking, eventually, in_time, quiet


def make(server, scope_id="a", scope="scope"):
    return server.get_or_create_application_instance(scope_id, scope)


def handing_over(cls, **attributes):
    """A server that hands over to successors, and keeps what each hook is told."""

    class Server(quiet(cls)):
        application_checker_interval = 0.001
        undelivered_to = "successor"

        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.interrupted = []

        def application_ended(self, details, reason):
            self.interrupted.extend(details.in_flight)

        @property
        def left(self):
            return [message for messages, _ in self.undelivered for message in messages]

    return type("Server", (Server,), attributes)


class Processing:
    """An application that processes numbers and fails at some, and returns after so many."""

    def __init__(self, fails=(), returns_after=None):
        self.fails = set(fails)
        self.returns_after = returns_after
        self.processed = []
        self.runs = 0

    async def __call__(self, scope, receive, send):
        self.runs += 1
        done = 0
        while done != self.returns_after:
            number = await receive()
            await asyncio.sleep(0)
            if number in self.fails:
                raise LookupError(number)
            self.processed.append(number)
            done += 1


@pytest.mark.parametrize("renewed", [False, True])
@pytest.mark.parametrize("value", ["hook", "successor"])
def test_one_poisonous_message(cy, run, value, renewed):
    """Of 200 messages the one in the midst that the application fails with is told of, and 199 are processed, in order;
    where the hook gets what is left, it gets 149."""

    async def main():
        application = Processing(fails=[50])
        server = handing_over(cy.StatelessServer, undelivered_to=value)(application)
        instance = make(server)
        for number in range(200):
            instance.put_nowait(number)
        if renewed:
            # Nobody reaps; the next lookup of the id finds that it has ended.
            await eventually(lambda: instance.ended)
            fresh = make(server)
            assert fresh is not instance
            fresh.put_nowait(200)
        async with checking(server):
            await in_time(lambda: len(application.processed) + len(server.left) == 199 + renewed)
            await in_time(lambda: server.interrupted)
        assert server.interrupted == [50]
        assert [error.args for error in server.failures] == [(50,)]
        if value == "hook":
            assert server.left == list(range(51, 200))
        else:
            assert server.left == []
            assert application.processed == [number for number in range(200 + renewed) if number != 50]
        stats = server.stats()
        assert (stats["interrupted"], stats["undelivered"]) == (1, 149 if value == "hook" else 0)
        assert stats["created"] == (1 if value == "hook" and not renewed else 2)

    run(main())


def test_all_of_them_poisonous(cy, run):
    """Each run takes a message at least, so that it ends: each message is told of once."""

    async def main():
        application = Processing(fails=range(100))
        server = handing_over(cy.StatelessServer)(application)
        instance = make(server)
        for number in range(100):
            instance.put_nowait(number)
        async with checking(server):
            await in_time(lambda: len(server.interrupted) == 100)
        assert server.interrupted == list(range(100))
        assert (application.runs, server.left) == (100, [])
        assert "a" not in server.application_instances

    run(main())


@pytest.mark.parametrize("calls", ["nobody", "application", "child"])
def test_an_application_that_takes_nothing(cy, run, calls):
    """An application that fails without having taken a message gets no successor, which would fail as well; calling
    `receive()` is not taking one."""

    async def failing(scope, receive, send):
        async def call():
            receive().close()

        if calls == "application":
            await call()
        elif calls == "child":
            await asyncio.create_task(call())
        raise LookupError

    async def main():
        server = handing_over(cy.StatelessServer)(failing)
        instance = make(server)
        for number in range(10):
            instance.put_nowait(number)
        async with checking(server):
            await in_time(lambda: server.undelivered)
            await passes(10)
        assert (server.left, server.stats()["created"]) == (list(range(10)), 1)

    run(main())


def test_returned(cy, run):
    """An application that returns after three messages is succeeded until all are processed."""

    async def main():
        application = Processing(returns_after=3)
        server = handing_over(cy.StatelessServer)(application)
        instance = make(server)
        for number in range(10):
            instance.put_nowait(number)
        async with checking(server):
            await in_time(lambda: len(application.processed) == 10)
        assert application.processed == list(range(10))
        assert (application.runs, server.left, server.interrupted) == (4, [], [])
        assert make(server)["scope"] == "scope"

    run(main())


@pytest.mark.parametrize("how", ["deleted", "evicted", "cancelled", "expired", "stopping"])
def test_never(cy, run, how):
    """What was ended by somebody else, or came to its end while the server stops, leaves its messages to the hook."""

    class Server(handing_over(cy.StatelessServer)):
        shutdown_timeout = 0.05

        async def handle(self):
            self.max_applications = 1
            instance = make(self)
            for number in range(3):
                instance.put_nowait(number)
            match how:
                case "deleted":
                    await eventually(lambda: instance.ended)
                    self.delete_application_instance("a")
                case "evicted":
                    await eventually(lambda: instance.ended)
                    make(self, "b")
                case "cancelled":
                    await eventually(lambda: instance.in_flight == (0,))
                    instance["future"].cancel()
                case "expired":
                    await eventually(lambda: instance.in_flight == (0,))
                    self._cyasgi.expire(self, instance, 4)
            if how != "stopping":
                await in_time(lambda: self.undelivered)

    async def main():
        server = Server(Processing(fails=[0]))
        await server.arun()
        assert server.left == [1, 2]
        assert server.stats()["created"] == (2 if how == "evicted" else 1)

    run(main())


def test_at_the_limit(cy, run):
    """A successor costs nobody its place: where another has that of the failed one, the hook gets what it left."""

    class Server(handing_over(cy.StatelessServer)):
        def delete_application_instance(self, scope_id):
            deletion = super().delete_application_instance(scope_id)
            if scope_id == "a":
                make(self, "b")
            return deletion

    async def main():
        server = Server(Processing(fails=[0]), 1)
        instance = make(server)
        for number in range(3):
            instance.put_nowait(number)
        async with checking(server):
            await in_time(lambda: server.undelivered)
        assert server.left == [1, 2]
        assert list(server.application_instances) == ["b"]

    run(main())


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("makes", [False, True])
def test_overridden_deletion(cy, run, kind, makes):
    """Overrides that delete, and put newer messages into a namesake that they make: those stay behind."""

    class Server(handing_over(cy.StatelessServer)):
        if kind == "def":

            def delete_application_instance(self, scope_id):
                deletion = super().delete_application_instance(scope_id)
                if makes and not newer:
                    newer.append(make(self))
                    newer[0].put_nowait("newer")
                return deletion
        else:

            async def delete_application_instance(self, scope_id):
                if makes and not newer:
                    newer.append(None)
                    asyncio.get_running_loop().call_soon(lambda: make(self).put_nowait("newer"))
                await passes(3)
                await super().delete_application_instance(scope_id)

    newer = []

    async def main():
        application = Processing(fails=[0])
        server = Server(application)
        instance = make(server)
        for number in range(5):
            instance.put_nowait(number)
        async with checking(server):
            await in_time(lambda: len(application.processed) == 4 + makes)
        assert application.processed == [1, 2, 3, 4, *(["newer"] if makes else [])]
        assert (server.left, server.interrupted) == ([], [0])

    run(main())


def test_refused_deletion(cy, run):
    """Where an override refuses to delete the failed one its messages stay with it, until the id is asked for."""

    class Server(handing_over(cy.StatelessServer)):
        def delete_application_instance(self, scope_id):
            refused.append(scope_id)

    refused = []

    async def main():
        application = Processing(fails=[0])
        server = Server(application)
        instance = make(server)
        for number in range(5):
            instance.put_nowait(number)
        async with checking(server):
            await in_time(lambda: refused)
            await passes(3)
            assert (instance.qsize(), server.left) == (4, [])
            make(server)
            await in_time(lambda: len(application.processed) == 4)
        assert application.processed == [1, 2, 3, 4]

    run(main())


def test_bounded(cy, run):
    """What is handed over had been accepted: a bounded queue takes it all at once, and those that put wait for room."""

    async def main():
        application = Processing(fails=[0, 7])
        server = handing_over(cy.StatelessServer, max_queue_size=3)(application)

        async def feed():
            for number in range(20):
                await make(server).put(number)

        async with checking(server):
            feeder = asyncio.create_task(feed())
            await in_time(lambda: len(application.processed) == 18)
            await feeder
        assert application.processed == [number for number in range(20) if number not in (0, 7)]
        assert (server.left, server.interrupted) == ([], [0, 7])

    run(main())


def test_putters_that_wait(cy, run):
    """Those that waited for room when the application failed put into the successor, behind what was left, in order."""
    gate = None

    async def application(scope, receive, send):
        nonlocal gate
        while True:
            number = await receive()
            if number == 0:
                gate = asyncio.get_running_loop().create_future()
                await gate
                raise LookupError
            processed.append(number)

    processed = []

    async def main():
        server = handing_over(cy.StatelessServer, max_queue_size=2)(application)
        instance = make(server)
        async with checking(server):
            instance.put_nowait(0)
            await passes(3)
            instance.put_nowait(1)
            instance.put_nowait(2)
            putters = [asyncio.create_task(instance.put(number)) for number in range(3, 8)]
            await passes(3)
            gate.set_result(None)
            await asyncio.gather(*putters)
            await in_time(lambda: len(processed) == 7)
        assert processed == list(range(1, 8))
        assert server.left == []

    run(main())


def test_join(cy, run):
    """Who waits in `join` of the failed one is let go; the successor counts what it was handed."""

    async def application(scope, receive, send):
        while True:
            if await receive() == 0:
                raise LookupError
            cy.current_instance().task_done()

    async def main():
        server = handing_over(cy.StatelessServer)(application)
        instance = make(server)
        for number in range(5):
            instance.put_nowait(number)
        async with checking(server):
            await instance.join()
            heir = make(server)
            assert heir is not instance
            heir.put_nowait(5)
            await heir.join()
            assert heir.idle
            with pytest.raises(ValueError, match="task_done"):
                heir.task_done()

    run(main())


def test_run_by_its_caller(cy, run):
    """What is left in the queue of an instance that its caller ran goes to the hook: no run of the server's ended."""

    async def main():
        server = handing_over(cy.StatelessServer)(Processing(returns_after=1))
        instance = await make(server)

        async def receive():
            return 0

        await instance["application"]("scope", receive, None)
        instance.put_nowait("left")
        async with checking(server):
            await in_time(lambda: server.undelivered)
        assert server.left == ["left"]

    run(main())


def test_limits_of_a_managed_server(cy, run, caplog):
    """A successor is an instance like any other: if a limit refuses it the hook gets the messages, and it is logged."""

    async def main():
        cls = handing_over(lifecycle(cy).ManagedServer, max_messages_per_second=0.001, message_burst=3)
        application = Processing(fails=[0, 1, 2])
        server = cls(application)
        instance = make(server, "a", {"client": ("127.0.0.1", 1)})
        for number in range(5):
            instance.put_nowait(number)
        async with checking(server):
            await in_time(lambda: server.undelivered)
        assert (server.left, server.interrupted) == ([3, 4], [0, 1, 2])
        assert server.stats()["created"] == 3

    with caplog.at_level(logging.ERROR):
        run(main())
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("scope_id 'a' gets no successor: '127.0.0.1' sends more than")


@pytest.mark.parametrize("value", ["Hook", "", "both"])
def test_wrong_values(cy, value):
    """Refused when set, on a server or in a class body; the message names the value and what is accepted."""
    server = cy.StatelessServer(Processing())
    assert server.undelivered_to == "hook"
    for error, wrong in ((ValueError, value), (TypeError, None), (TypeError, True)):
        with pytest.raises(error, match=f"undelivered_to={wrong!r}: accepted is 'hook' or 'successor'"):
            server.undelivered_to = wrong
        with pytest.raises(error, match="undelivered_to="):
            type("Server", (cy.StatelessServer,), {"undelivered_to": wrong})


@pytest.mark.slow
def test_reference(reference, run):
    """Reference: of 200 messages with one that the application fails with, 149 vanish without a word."""

    async def main():
        application = Processing(fails=[50])

        class Server(reference):
            async def application_exception(self, exception, details):
                pass

        server = Server(application)
        queue = make(server)
        checker = asyncio.create_task(server.application_checker())
        for number in range(200):
            queue.put_nowait(number)
        await in_time(lambda: not server.application_instances)
        assert application.processed == list(range(50))
        checker.cancel()
        await asyncio.wait([checker])

    run(main())
