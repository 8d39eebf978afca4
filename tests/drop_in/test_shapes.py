"""Servers of two of the four shapes that the documented API shows, for several clients at a time: load balancing and
managed life cycle. They use it as it is documented: awaited calls, `instance["application"]`."""

from __future__ import annotations

import asyncio
import itertools

from support.loops import passes
from support.serving import in_time
from support.shapes import running

# ---- load balancing ------------------------------------------------------------------------------------------------


def balancing_server(cy, applications):
    """The server's application chooses one of several in turn; the server runs it, fed through the instance."""

    class LoadBalancer(cy.StatelessServer):
        application_checker_interval = 0.001

        def __init__(self, applications, max_applications=1000):
            super().__init__(self.dispatch, max_applications)
            self.turns = itertools.cycle(applications)
            self.sent = []
            self.told = []

        async def dispatch(self, scope, receive, send):
            await next(self.turns)(scope, receive, send)

        async def handle(self):
            await self.application_checker()

        async def application_send(self, scope, message):
            self.sent.append((scope["number"], message))

        async def application_exception(self, exception, application_details):
            self.told.append((application_details["scope"]["number"], str(exception)))

    return LoadBalancer(applications)


def naming(name):
    async def application(scope, receive, send):
        await send((name, await receive()))

    return application


def test_load_balancing(cy, run):
    """Load balancing: a bound method of the server as its application, which hands scopes to others in turn; one that
    fails is reported with its scope, and takes none of the others' turns."""

    async def failing(scope, receive, send):
        raise RuntimeError("on purpose")

    async def main():
        server = balancing_server(cy, [naming("a"), naming("b"), failing])
        async with running(server):
            for number in range(30):
                instance = server.get_or_create_application_instance(number, {"number": number})
                instance["input_queue"].put_nowait(number)
            await in_time(lambda: not server.application_instances)
            await in_time(lambda: len(server.told) == 10)
        assert [number for number, _ in server.told] == list(range(2, 30, 3))
        assert {text for _, text in server.told} == {"on purpose"}
        assert server.sent == [(number, ("ab"[number % 3], number)) for number in range(30) if number % 3 < 2]
        stats = server.stats()
        assert (stats["finished"], stats["failed"]) == (20, 10)
        # What a failed application had not received is told too.
        assert stats["undelivered"] == 10

    run(main())


def test_load_balancing_called(cy, run):
    """Load balancing: the dispatcher may also be run by the caller, `receive` and `send` being its own."""

    async def main():
        server = balancing_server(cy, [naming("a"), naming("b")])
        answers = []

        async def send(message):
            answers.append(message)

        async with running(server):
            for number in range(4):
                scope = {"number": number}
                instance = await server.get_or_create_application_instance(number, scope)

                async def receive(number=number):
                    return number

                await instance["application"](scope, receive, send)
                assert await server.delete_application_instance(number)
        assert answers == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]
        assert server.sent == []

    run(main())


# ---- managed life cycle --------------------------------------------------------------------------------------------


def managed_server(cy, application, limit=500, lifetime=30.0):
    """Async overrides that keep statistics of each instance, and a checker of its own that expires by them."""

    class ManagedServer(cy.StatelessServer):
        application_checker_interval = 0.001

        def __init__(self, application):
            super().__init__(application, limit)
            self.now = 0.0
            self.statistics = {}
            self.ended = []

        async def get_or_create_application_instance(self, scope_id, scope):
            instance = await super().get_or_create_application_instance(scope_id, scope)
            self.statistics.setdefault(scope_id, {"created": self.now, "active": self.now, "sent": 0})
            return instance

        async def delete_application_instance(self, scope_id):
            await super().delete_application_instance(scope_id)
            if scope_id in self.statistics:
                self.ended.append((scope_id, self.statistics.pop(scope_id)["sent"]))

        async def application_send(self, scope, message):
            statistics = self.statistics[scope["id"]]
            statistics["active"] = self.now
            statistics["sent"] += 1

        async def application_checker(self):
            while True:
                await asyncio.sleep(self.application_checker_interval)
                for scope_id, statistics in list(self.statistics.items()):
                    if self.now - statistics["active"] > lifetime:
                        await self.delete_application_instance(scope_id)

        async def handle(self):
            await self.application_checker()

    return ManagedServer(application)


async def repeat(scope, receive, send):
    while True:
        await send(await receive())


def test_managed_expiry(cy, run):
    """Managed: a checker of one's own expires by statistics of one's own; each instance is cleaned up once."""

    async def main():
        server = managed_server(cy, repeat)
        async with running(server):
            for number in range(10):
                instance = await server.get_or_create_application_instance(number, {"id": number})
                for _ in range(number):
                    instance["input_queue"].put_nowait("message")
            await in_time(lambda: server.statistics[9]["sent"] == 9)
            server.now = 20.0
            for number in range(5):
                (await server.get_or_create_application_instance(number, {})).put_nowait("again")
            await in_time(lambda: all(server.statistics[number]["active"] == 20.0 for number in range(5)))
            server.now = 40.0
            await in_time(lambda: len(server.ended) == 5)
            assert sorted(server.ended) == [(number, number) for number in range(5, 10)]
            assert list(server.application_instances) == [0, 1, 2, 3, 4]
        assert sorted(server.ended) == [(number, number + (number < 5)) for number in range(10)]
        assert server.statistics == {}

    run(main())


def test_managed_at_the_limit(cy, run):
    """Managed: at the limit the async override cleans up the least recently used, once, and the newcomer is served."""

    async def main():
        server = managed_server(cy, repeat, limit=3)
        async with running(server):
            for number in range(10):
                instance = await server.get_or_create_application_instance(number, {"id": number})
                instance.put_nowait("message")
                await in_time(lambda number=number: server.statistics[number]["sent"] == 1)
                assert len(server.application_instances) <= 3
            await in_time(lambda: len(server.ended) == 7)
            assert server.ended == [(number, 1) for number in range(7)]
            assert list(server.application_instances) == list(server.statistics) == [7, 8, 9]
        assert len(server.ended) == 10

    run(main())


def test_managed_called(cy, run):
    """Managed: an instance that its caller runs is cleaned up in the same way, and once."""

    async def once(scope, receive, send):
        await send("started")

    async def main():
        server = managed_server(cy, once)
        sent = []

        async def send(message):
            sent.append(message)

        async with running(server):
            instance = await server.get_or_create_application_instance("a", {"id": "a"})
            await instance["application"]({"id": "a"}, None, send)
            await server.delete_application_instance("a")
            await passes(3)
            assert server.ended == [("a", 0)]
            await server.delete_application_instance("a")
        assert (sent, server.ended) == (["started"], [("a", 0)])

    run(main())
