"""`async def` overrides of the delete methods when making room: out of the table at once, then run to their end."""

from __future__ import annotations

import asyncio

import pytest

from support.loops import passes
from support.serving import eventually, in_time, one_shot, quiet, reader, recording


@pytest.mark.slow
def test_async_override_at_the_limit(cy, run):
    """An `async def` override at the limit: the victim is out at once, the override runs to its end as a task."""
    gate = asyncio.Event()
    order = []

    class Server(quiet(cy.StatelessServer)):
        async def delete_application_instance(self, scope_id):
            order.append(("begun", scope_id))
            await gate.wait()
            await super().delete_application_instance(scope_id)
            order.append(("ended", scope_id))

    async def main():
        server = Server(reader, 1)
        victim = server.get_or_create_application_instance("a", {})
        await passes(5)
        server.get_or_create_application_instance("b", {})
        assert list(server.application_instances) == ["b"]
        await eventually(lambda: order == [("begun", "a")])
        gate.set()
        await eventually(lambda: order[-1] == ("ended", "a"))
        assert victim["future"].cancelled()

    run(main())


def test_async_override_still_sees_its_victim(cy, run):
    """The override finds its victim in the table, after a suspension too, while nobody else does."""
    seen = []
    gate = asyncio.Event()

    class Server(quiet(cy.StatelessServer)):
        async def delete_application_instance(self, scope_id):
            seen.append(self.application_instances[scope_id])
            await gate.wait()
            seen.append(self.application_instances[scope_id])
            seen.append(self.application_instances.get(scope_id))
            seen.append(scope_id in self.application_instances)
            await super().delete_application_instance(scope_id)

    async def main():
        server = Server(reader, 1)
        victim = server.get_or_create_application_instance("a", {})
        await passes(5)
        server.get_or_create_application_instance("b", {})
        await passes(5)
        assert "a" not in server.application_instances
        assert list(server.application_instances) == ["b"]
        gate.set()
        await eventually(lambda: len(seen) == 4)
        assert seen == [victim, victim, victim, True]

    run(main())


def test_namesake_is_untouched(cy, run):
    """An id that comes back while the override of its old instance runs is untouched by that override."""
    gate = asyncio.Event()
    received = []
    ended = []

    class Server(quiet(cy.StatelessServer)):
        async def delete_application_instance(self, scope_id):
            await gate.wait()
            await super().delete_application_instance(scope_id)
            ended.append(scope_id)

    async def application(scope, receive, send):
        while True:
            received.append((scope, await receive()))

    async def main():
        server = Server(application, 2)
        old = server.get_or_create_application_instance("a", "old")
        await passes(5)
        server.get_or_create_application_instance("b", {})
        server.get_or_create_application_instance("c", {})
        assert "a" not in server.application_instances
        server.max_applications = 10
        namesake = server.get_or_create_application_instance("a", "new")
        assert namesake is not old
        await passes(5)
        gate.set()
        await eventually(lambda: ended == ["a"])
        assert old["future"].cancelled()
        assert server.application_instances["a"] is namesake
        namesake.put_nowait("hello")
        await eventually(lambda: received == [("new", "hello")])

    run(main())


def test_override_sees_its_victim_and_not_the_namesake(cy, run):
    """With a namesake in the table, the override of the old instance still sees the old one under that id."""
    gate = asyncio.Event()
    seen = []

    class Server(quiet(cy.StatelessServer)):
        async def delete_application_instance(self, scope_id):
            await gate.wait()
            seen.append(self.application_instances[scope_id]["scope"])
            await super().delete_application_instance(scope_id)

    async def main():
        server = Server(reader, 1)
        server.get_or_create_application_instance("a", "old")
        await passes(5)
        server.get_or_create_application_instance("b", "b")
        server.max_applications = 5
        namesake = server.get_or_create_application_instance("a", "new")
        gate.set()
        await eventually(lambda: seen == ["old"])
        await passes(10)
        assert server.application_instances["a"] is namesake
        assert not namesake["future"].done()

    run(main())


def test_async_override_that_forgets_super(cy, run):
    """The deletion is completed when the override has ended without calling super()."""
    ended = []

    class Server(quiet(cy.StatelessServer)):
        async def delete_application_instance(self, scope_id):
            await passes(3)
            ended.append(scope_id)

    async def main():
        server = Server(reader, 1)
        victim = server.get_or_create_application_instance("a", {})
        await passes(5)
        server.get_or_create_application_instance("b", {})
        await eventually(lambda: victim["future"].cancelled())
        assert ended == ["a"]
        await eventually(lambda: server.stats()["closing"] == 0)
        assert list(server.application_instances) == ["b"]

    run(main())


def test_async_delete_oldest_that_forgets_super(cy, run):
    """An `async def` delete_oldest that deletes nobody: the limit holds and the victim's deletion is completed."""
    called = []

    class Server(quiet(cy.StatelessServer)):
        async def delete_oldest_application_instance(self):
            called.append(len(self.application_instances))

    async def main():
        server = Server(reader, 1)
        victim = server.get_or_create_application_instance("a", {})
        await passes(5)
        server.get_or_create_application_instance("b", {})
        assert list(server.application_instances) == ["b"]
        await eventually(lambda: victim["future"].cancelled())
        assert len(called) == 1

    run(main())


def test_async_delete_oldest_that_chooses_for_itself(cy, run):
    """An `async def` delete_oldest that looks for the oldest by itself finds the victim: one instance goes, not two."""

    class Server(quiet(cy.StatelessServer)):
        async def delete_oldest_application_instance(self):
            records = self.application_instances
            await self.delete_application_instance(min(records, key=lambda name: records[name]["last_used"]))

    async def main():
        server = Server(reader, 3)
        records = {}
        for place, name in enumerate("abcd"):
            records[name] = server.get_or_create_application_instance(name, {})
            records[name]["last_used"] = 1000.0 + place
            await passes(5)
        assert list(server.application_instances) == ["b", "c", "d"]
        await eventually(lambda: records["a"]["future"].cancelled())
        await passes(20)
        assert list(server.application_instances) == ["b", "c", "d"]
        assert not any(records[name]["future"].done() for name in "bcd")

    run(main())


def test_async_overrides_of_both(cy, run):
    """With `async def` overrides of both methods every eviction passes through both, once, and the limit holds."""

    async def main():
        server = recording(cy.StatelessServer, "async def")(reader, 3)
        records = []
        for number in range(20):
            records.append(server.get_or_create_application_instance(number, {}))
            assert len(server.application_instances) <= 3
        await eventually(lambda: len(server.deleted) == 17)
        await passes(20)
        assert (server.oldest, sorted(server.deleted)) == (17, list(range(17)))
        assert list(server.application_instances) == [17, 18, 19]
        assert all(record["future"].cancelled() for record in records[:17])
        assert server.stats()["evicted"] == 17

    run(main())


def test_victim_works_on_until_the_override_deletes_it(cy, run):
    """An override that says good-bye first finds its victim's application still alive to hear it."""
    received = []

    class Server(quiet(cy.StatelessServer)):
        async def delete_application_instance(self, scope_id):
            self.application_instances[scope_id]["input_queue"].put_nowait("good-bye")
            await passes(5)
            await super().delete_application_instance(scope_id)

    async def application(scope, receive, send):
        while True:
            received.append((scope, await receive()))

    async def main():
        server = Server(application, 1)
        server.get_or_create_application_instance("a", "A")
        await passes(5)
        server.get_or_create_application_instance("b", "B")
        await eventually(lambda: received == [("A", "good-bye")])
        await eventually(lambda: server.stats()["closing"] == 0)
        assert server.undelivered == []

    run(main())


@pytest.mark.slow
def test_async_override_that_never_ends(cy, run):
    """An override that hangs holds up neither the limit, nor other deletions, nor the end of the server."""

    class Server(quiet(cy.StatelessServer)):
        shutdown_timeout = 0.05

        async def delete_application_instance(self, scope_id):
            if scope_id == "a":
                await asyncio.get_running_loop().create_future()
            await super().delete_application_instance(scope_id)

        async def handle(self):
            for name in "abcd":
                records[name] = self.get_or_create_application_instance(name, {})
                await passes(5)
                assert len(self.application_instances) == 1
            await eventually(lambda: records["b"]["future"].done() and records["c"]["future"].done())

    records = {}

    async def main():
        server = Server(reader, 1)
        others = asyncio.all_tasks()
        await asyncio.wait_for(server.arun(), 20)
        assert asyncio.all_tasks() == others
        assert records["a"]["future"].done()
        assert len(server.application_instances) == 0

    run(main())


def test_slow_async_override_delays_no_expiry_of_others(cy, run):
    """An override that takes its time over one instance keeps the checker from no other."""
    gate = asyncio.Event()

    class Server(quiet(cy.StatelessServer)):
        application_checker_interval = 0.001

        async def delete_application_instance(self, scope_id):
            if scope_id == "slow":
                await gate.wait()
            await super().delete_application_instance(scope_id)

        async def handle(self):
            self.get_or_create_application_instance("slow", {}).put_nowait(1)
            await passes(5)
            self.get_or_create_application_instance("quick", {}).put_nowait(1)
            await in_time(lambda: "quick" not in self.application_instances)
            gate.set()
            await in_time(lambda: "slow" not in self.application_instances)

    async def main():
        await Server(one_shot).arun()

    run(main())


def test_async_overrides_show_the_fault_of_the_reference(reference, run):
    """In the reference an `async def` override deletes nobody when it is called as a plain function."""
    calls = []

    class Server(quiet(reference)):
        async def delete_application_instance(self, scope_id):
            super().delete_application_instance(scope_id)

        def delete_oldest_application_instance(self):
            # The reference would call this for ever, and never let the loop turn.
            calls.append(len(self.application_instances))
            if len(calls) > 3:
                raise RecursionError("still at the limit")
            coroutine = self.delete_application_instance(next(iter(self.application_instances)))
            coroutine.close()

    async def main():
        server = Server(reader, 1)
        for name in "ab":
            server.get_or_create_application_instance(name, {})
        with pytest.raises(RecursionError):
            server.get_or_create_application_instance("c", {})

    run(main())
    assert calls == [2, 2, 2, 2]
