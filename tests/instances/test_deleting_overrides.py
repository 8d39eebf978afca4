"""Overrides of the two delete methods, `def` and `async def`: where subclasses clean up, whatever they do there."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.loops import passes
from support.serving import eventually, in_time, one_shot, quiet, reader, recording


def logged(caplog, level):
    return [record for record in caplog.records if record.name == "cyasgi.server" and record.levelno == level]


# ---------------------------------------------------------------------- whoever leaves, leaves through them, once


async def fails(scope, receive, send):
    raise ValueError(await receive())


async def evict(server):
    server.get_or_create_application_instance("a", {})
    await passes(5)
    server.max_applications = 1
    server.get_or_create_application_instance("b", {})
    await eventually(lambda: "a" in server.deleted)
    await passes(20)


async def expire(server):
    server.idle_timeout = 0.005
    server.get_or_create_application_instance("a", {})
    await in_time(lambda: "a" in server.deleted and "a" not in server.application_instances)


async def finish(server):
    server.application = one_shot
    server.get_or_create_application_instance("a", {}).put_nowait(1)
    await in_time(lambda: "a" in server.deleted and "a" not in server.application_instances)


async def fail(server):
    server.application = fails
    server.get_or_create_application_instance("a", {}).put_nowait(1)
    await in_time(lambda: "a" in server.deleted and "a" not in server.application_instances)


async def orphan(server):
    async def caller():
        await server.get_or_create_application_instance("a", {})

    await asyncio.create_task(caller())
    await in_time(lambda: "a" in server.deleted and "a" not in server.application_instances)


async def shut_down(server):
    server.get_or_create_application_instance("a", {})
    await passes(5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("way", [evict, expire, finish, fail, orphan, shut_down])
def test_each_leaves_through_the_override_once(cy, run, kind, way):
    """Evicted, expired, finished, failed, orphaned or shut down: an instance passes through delete exactly once."""

    class Server(recording(cy.StatelessServer, kind)):
        async def handle(self):
            await way(self)

    async def main():
        server = Server(reader)
        await server.arun()
        await passes(20)
        assert server.deleted.count("a") == 1
        assert server.deleted.count("b") == (way is evict)
        assert server.oldest == (way is evict)
        assert len(server.application_instances) == 0

    run(main())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_renewed_one_leaves_through_the_override_once(cy, run, kind):
    """With no checker at work, a finished instance whose id is asked for again passes through delete once."""

    async def main():
        server = recording(cy.StatelessServer, kind)(one_shot)
        first = server.get_or_create_application_instance("a", {})
        first.put_nowait(1)
        await eventually(lambda: first["future"].done())
        second = server.get_or_create_application_instance("a", {})
        assert server.application_instances["a"] is second
        await eventually(lambda: server.deleted == ["a"])
        await passes(20)
        assert server.deleted == ["a"]
        assert server.application_instances["a"] is second
        assert not second["future"].done()

    run(main())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_explicit_delete_goes_through_the_override_once(cy, run, kind):
    """Awaiting an overridden delete by hand works for both kinds, and the checker does not call it again."""

    class Server(recording(cy.StatelessServer, kind)):
        async def handle(self):
            self.get_or_create_application_instance("a", {})
            self.get_or_create_application_instance("b", {})
            await passes(5)
            await self.delete_application_instance("a")
            assert list(self.application_instances) == ["b"]
            await self.delete_oldest_application_instance()
            assert list(self.application_instances) == []
            await passes(20)

    async def main():
        server = Server(reader)
        await server.arun()
        assert server.deleted == ["a", "b"]

    run(main())


# ---------------------------------------------------------------------- plain `def` overrides at the limit


def test_def_override_sees_its_victim_in_the_table(impl, run):
    """While a `def` override runs, the victim still stands in the table, with its four keys."""
    seen = []

    class Server(quiet(impl.StatelessServer)):
        def delete_application_instance(self, scope_id):
            details = self.application_instances[scope_id]
            seen.append((scope_id, details["scope"], details["future"].done(), details["last_used"] > 0))
            super().delete_application_instance(scope_id)

    async def main():
        server = Server(reader, 1)
        for name in "abc":
            server.get_or_create_application_instance(name, name.upper())
            await passes(5)

    run(main())
    assert seen[0] == ("a", "A", False, True)


def test_def_override_that_chooses_is_obeyed(impl, run):
    """A `def` override of delete_oldest that picks another victim decides who goes."""

    class Server(quiet(impl.StatelessServer)):
        def delete_oldest_application_instance(self):
            self.delete_application_instance(next(name for name in self.application_instances if name != "guest"))

    async def main():
        server = Server(reader, 2)
        for name in ["guest", "b", "c", "d", "e"]:
            server.get_or_create_application_instance(name, {})
            await passes(5)
        assert next(iter(server.application_instances)) == "guest"
        assert list(server.application_instances)[-1] == "e"

    run(main())


def test_def_override_that_deletes_many(cy, run):
    """A `def` override of delete_oldest may empty half the table: no further victim is taken for that creation."""

    class Server(quiet(cy.StatelessServer)):
        def delete_oldest_application_instance(self):
            for scope_id in list(self.application_instances)[:5]:
                self.delete_application_instance(scope_id)

    async def main():
        server = Server(reader, 10)
        for number in range(11):
            server.get_or_create_application_instance(number, {})
        assert list(server.application_instances) == [5, 6, 7, 8, 9, 10]

    run(main())


def test_def_override_that_refuses_is_passed_over(cy, run, caplog):
    """A victim whose override refuses is passed over: another goes, with one warning for all refusals to come."""
    asked = []

    class Server(quiet(cy.StatelessServer)):
        def delete_application_instance(self, scope_id):
            asked.append(scope_id)
            if scope_id != "pinned":
                return super().delete_application_instance(scope_id)

    async def main():
        server = Server(reader, 2)
        pinned = server.get_or_create_application_instance("pinned", {})
        await passes(5)
        for name in "abcdefgh":
            server.get_or_create_application_instance(name, {})
            await passes(5)
            assert len(server.application_instances) == 2
        assert server.application_instances["pinned"] is pinned
        assert not pinned["future"].done()

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert [name for name in asked if name != "pinned"] == list("abcdefg")
    assert len(logged(caplog, logging.WARNING)) == 1


def test_refusal_counts_as_a_use(cy, run):
    """An instance whose deletion was refused counts as just used: the next to be asked is another."""
    asked = []

    class Server(quiet(cy.StatelessServer)):
        def delete_application_instance(self, scope_id):
            asked.append(scope_id)
            if asked != ["a"]:
                return super().delete_application_instance(scope_id)

    async def main():
        server = Server(reader, 3)
        for name in "abcde":
            server.get_or_create_application_instance(name, {})
            await passes(5)

    run(main())
    assert asked == ["a", "b", "c"]


def test_all_refuse(cy, run, caplog):
    """When every override refuses, the least recently used one goes all the same: the limit holds, nothing hangs."""

    class Server(quiet(cy.StatelessServer)):
        def delete_application_instance(self, scope_id):
            pass

    async def main():
        server = Server(reader, 3)
        records = []
        for name in "abcdef":
            records.append(server.get_or_create_application_instance(name, {}))
            await passes(5)
            assert len(server.application_instances) <= 3
        assert "f" in server.application_instances
        await passes(5)
        assert sum(record["future"].cancelled() for record in records) == 3

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert len(logged(caplog, logging.WARNING)) == 1


@pytest.mark.slow
def test_all_of_many_refuse(cy, run):
    """Refusals of a large table cost a bounded number of questions for each creation."""
    asked = []

    class Server(quiet(cy.StatelessServer)):
        def delete_application_instance(self, scope_id):
            asked.append(scope_id)

    async def main():
        server = Server(reader, 1000)
        for number in range(1000):
            server.get_or_create_application_instance(number, {})
        await passes(5)
        assert asked == []
        server.get_or_create_application_instance("one more", {})
        assert len(server.application_instances) == 1000
        assert len(asked) <= 200

    run(main())


def test_delete_oldest_that_does_nothing(cy, run, caplog):
    """A delete_oldest that deletes nobody hangs nothing and does not lift the limit; there is one warning."""

    class Server(quiet(cy.StatelessServer)):
        def delete_oldest_application_instance(self):
            pass

    async def main():
        server = Server(reader, 2)
        for name in "abcdef":
            server.get_or_create_application_instance(name, {})
            await passes(5)
            assert len(server.application_instances) <= 2
        assert "f" in server.application_instances

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert len(logged(caplog, logging.WARNING)) == 1


@pytest.mark.parametrize("method", ["delete_application_instance", "delete_oldest_application_instance"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_override_that_raises_spares_the_feeder(cy, run, caplog, kind, when, method):
    """An override that raises, before or after super(): the feeder gets its instance, the error goes to the log."""
    Above = quiet(cy.StatelessServer)

    if kind == "def":

        def override(self, *arguments):
            if when == "before":
                raise LookupError("clean-up failed")
            getattr(super(Server, self), method)(*arguments)
            raise LookupError("clean-up failed")

    else:

        async def override(self, *arguments):
            if when == "before":
                raise LookupError("clean-up failed")
            await getattr(super(Server, self), method)(*arguments)
            raise LookupError("clean-up failed")

    Server = type("Server", (Above,), {method: override})

    async def main():
        server = Server(reader, 2)
        for name in "abcd":
            details = server.get_or_create_application_instance(name, {})
            assert server.application_instances[name] is details
            assert len(server.application_instances) <= 2
            await passes(10)
        assert len(server.application_instances) == 2

    with caplog.at_level(logging.DEBUG):
        run(main())
    errors = [record for record in logged(caplog, logging.ERROR) if record.exc_info]
    assert errors
    assert all("clean-up failed" in caplog.handler.format(record) for record in errors)


def test_def_override_that_brings_its_victim_back(cy, run):
    """An override that makes a fresh instance of the id it has just deleted hangs nothing and leaves the limit."""

    class Server(quiet(cy.StatelessServer)):
        def delete_application_instance(self, scope_id):
            scope = self.application_instances[scope_id]["scope"]
            super().delete_application_instance(scope_id)
            self.get_or_create_application_instance(scope_id, scope)

    async def main():
        server = Server(reader, 2)
        for name in "abcd":
            server.get_or_create_application_instance(name, {})
            await passes(5)
            assert name in server.application_instances
            assert len(server.application_instances) <= 2

    run(main())


def test_refusal_of_a_finished_one_stops_no_checker(cy, run):
    """An override that refuses what has finished keeps the checker neither from the others nor from living on."""
    failures = []

    class Server(quiet(cy.StatelessServer)):
        application_checker_interval = 0.001

        def delete_application_instance(self, scope_id):
            if scope_id != "pinned":
                return super().delete_application_instance(scope_id)

        def application_exception(self, exception, details):
            failures.append(details["scope"])

        async def handle(self):
            for name in ["pinned", "a", "b"]:
                self.get_or_create_application_instance(name, name).put_nowait(1)
            await in_time(lambda: not {"a", "b"} & set(self.application_instances))
            self.get_or_create_application_instance("c", "c").put_nowait(1)
            await in_time(lambda: "c" not in self.application_instances)
            await asyncio.sleep(0.02)

    async def main():
        await Server(fails).arun()

    run(main())
    assert sorted(failures) == ["a", "b", "c", "pinned"]
