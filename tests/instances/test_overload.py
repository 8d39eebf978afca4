"""More to tell and to see off than the loop has time for: what waits is bounded, and the numbers are right.

Time is the tests' own: each look at the clock costs a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import collections
import importlib
import itertools
import logging
import re

import pytest

from support.loops import passes
from support.managed_servers import managed
from support.serving import checking, eventually, one_shot, reader

pytestmark = pytest.mark.slow

SUMMARY = re.compile(r"(\d+) more undelivered messages? (?:was|were) left in the queues? of (\d+) instances?,")
FAILURES = re.compile(r"(\d+) more applications? failed, too many at once for an entry each \((.*?)\)\.")
IN_FLIGHT = re.compile(r"(\d+) more messages? in flight, begun and not finished, when (\d+) applications? ended")


@pytest.fixture
def tick(cy, monkeypatch):
    """A pass of the loop has time for twenty looks at the clock."""
    clock = itertools.count()
    pacing, summary = (
        importlib.import_module(f"{cy.__name__}.{name}") for name in ("instances.pacing", "instances.summary")
    )
    for module in (pacing, summary):
        monkeypatch.setattr(module, "monotonic", lambda: next(clock) * pacing.PASS / 20)


def silent(cls, **attributes):
    """A server that sends nowhere and whose hooks are the class's own."""

    async def application_send(self, scope, message):
        pass

    return type("Server", (cls,), {"application_send": application_send, **attributes})


def waiting(server):
    return server._cyasgi.reports.pending


async def all_told(server):
    await eventually(lambda: waiting(server) == 0)


def numbers(caplog, pattern):
    """The numbers in the lines of this pattern, added up."""
    found = [match for record in caplog.records if (match := pattern.search(record.getMessage()))]
    return tuple(sum(int(match[group]) for match in found) for group in (1, 2)), len(found)


async def fails(scope, receive, send):
    await receive()
    raise (ValueError if scope["number"] % 3 else KeyError)(scope["number"])


async def flood(server, number, rounds, a_pass, ids):
    """So many new instances a pass, with a message each; gives how much waited at most."""
    most = 0
    for _ in range(rounds):
        for _ in range(a_pass):
            one = next(ids)
            server.get_or_create_application_instance(one, {"number": one}).put_nowait(number)
        await passes(1)
        most = max(most, waiting(server))
    return most


# ---- the hooks that nobody has overridden --------------------------------------------------------------------------


def test_undelivered_messages(cy, run, tick, caplog):
    """Evicted with a message each: lines for some, and the others' number in a few; no more than a crowd waits."""

    async def main():
        server = silent(cy.StatelessServer)(reader, 10)
        async with checking(server):
            assert await flood(server, 1, 40, 500, itertools.count()) <= 1001
            await all_told(server)
        assert server.stats()["undelivered"] == undelivered(server)

    def undelivered(server):
        lines = sum(record.getMessage().startswith("1 undelivered message was") for record in caplog.records)
        (messages, instances), summaries = numbers(caplog, SUMMARY)
        assert messages == instances > 15_000
        assert 1 <= summaries <= 3
        assert len(caplog.records) == lines + summaries < 3_000
        return lines + messages

    with caplog.at_level(logging.INFO):
        run(main())


def test_failures(cy, run, tick, caplog):
    """A traceback for some, one for the first of each summary, and numbers by type for all others."""

    async def main():
        server = silent(cy.StatelessServer)(fails, None)
        async with checking(server):
            assert await flood(server, 1, 40, 200, itertools.count()) <= 1001
            await all_told(server)
        assert server.stats()["failed"] == 8_000

    with caplog.at_level(logging.INFO):
        run(main())
    counted = collections.Counter()
    for record in caplog.records:
        assert record.exc_info[0] in (KeyError, ValueError)
        if match := FAILURES.search(record.getMessage()):
            kinds = collections.Counter({kind: int(count) for count, kind in map(str.split, match[2].split(", "))})
            assert kinds.total() == int(match[1])
            counted += kinds
        else:
            assert record.getMessage().startswith("Exception inside application (scope_id ")
            counted[record.exc_info[0].__name__] += 1
    assert counted == {"KeyError": 2667, "ValueError": 5333}
    assert len(caplog.records) < 4_000


def test_messages_in_flight(cy, run, tick, caplog):
    """The same for what applications had begun when they were cancelled."""

    async def busy(scope, receive, send):
        await receive()
        await asyncio.get_running_loop().create_future()

    async def main():
        server = silent(cy.StatelessServer)(busy, 100)
        ids = itertools.count()
        async with checking(server):
            for _ in range(50):
                await flood(server, 1, 1, 100, ids)
                await passes(3)
            await all_told(server)
        assert server.stats()["interrupted"] == 4_900

    with caplog.at_level(logging.INFO):
        run(main())
    lines = sum(record.getMessage().startswith("1 message in flight") for record in caplog.records)
    (messages, applications), summaries = numbers(caplog, IN_FLIGHT)
    assert lines + messages == 4_900
    assert messages == applications > 0
    assert len(caplog.records) == lines + summaries


def test_few_reports_of_many_messages(cy, run, tick, caplog):
    """Ten thousand messages are a crowd, however few instances they are of; who comes with late ones counts once."""

    async def main():
        server = silent(cy.StatelessServer)(reader, None)
        instances = [server.get_or_create_application_instance(number, {}) for number in range(10)]
        for instance in instances:
            for _ in range(4_000):
                instance.put_nowait(1)
            server.delete_application_instance(instance.scope_id)
        await eventually(lambda: server.stats()["closing"] == 0)
        for instance in instances:
            for _ in range(5_000):
                instance.put_nowait(2)
        await all_told(server)
        assert server.stats()["undelivered"] == 90_000

    with caplog.at_level(logging.INFO):
        run(main())
    told = [re.match(r"(\d+) undelivered message", record.getMessage()) for record in caplog.records]
    (messages, instances), _ = numbers(caplog, SUMMARY)
    assert sum(int(match[1]) for match in told if match) + messages == 90_000
    assert messages >= 60_000
    assert instances <= 20


def test_late_messages_of_one_instance(cy, run, tick, caplog):
    """A feeder that goes on with an instance that has ended: its messages are counted, not kept, and it once."""

    async def main():
        server = silent(cy.StatelessServer)(reader, None)
        instance = server.get_or_create_application_instance("a", {})
        server.delete_application_instance("a")
        await eventually(lambda: instance["future"].done())
        for _ in range(50_000):
            instance.put_nowait(1)
        assert len(server._cyasgi.reports._pending[0][2]) == 10_000
        await all_told(server)
        assert server.stats()["undelivered"] == 50_000

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "10000 undelivered messages were left in the queue of scope_id 'a'",
        "40000 more undelivered messages were left in the queue of 1 instance",
    ]


# ---- hooks that are overridden -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["application_exception", "application_undelivered"])
@pytest.mark.parametrize("where", ["class", "instance", "base"])
def test_each_call_is_made(cy, run, tick, monkeypatch, name, where):
    """An overridden hook is called once for each instance; what waits grows until as much is told as comes."""
    told = collections.Counter()

    def hook(subject, details):
        told[details.scope_id] += 1

    def method(self, subject, details):
        hook(subject, details)

    async def main():
        cls = silent(cy.StatelessServer, **{name: method} if where == "class" else {})
        server = cls(fails, None) if name == "application_exception" else cls(reader, 10)
        if where == "instance":
            setattr(server, name, hook)
        async with checking(server):
            # A pass has time for 20 while 1,000 wait, and so for the 100 that come while 5,000 do.
            most = await flood(server, 1, 150, 100, itertools.count())
            assert 4_000 < most <= 5_500
            await all_told(server)
        assert sum(told.values()) == len(told) == server.stats()["failed"] + server.stats()["undelivered"]

    if where == "base":
        monkeypatch.setattr(cy.StatelessServer, name, method)
    run(main())
    assert set(told.values()) == {1}


def test_asynchronous_hooks_that_wait_for_nothing(cy, run, monkeypatch):
    """A hundred are called a pass while a thousand wait, and as many more as there wait more."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.instances.pacing"), "PASS", 1000.0)
    told = collections.Counter()

    async def hook(self, messages, details):
        told[details.scope_id] += 1

    async def main():
        server = silent(cy.StatelessServer, application_undelivered=hook)(reader, 10)
        async with checking(server):
            most = await flood(server, 1, 80, 300, itertools.count())
            assert most <= 3_900
            await all_told(server)
        assert sum(told.values()) == len(told) == server.stats()["undelivered"] > 20_000

    run(main())


def test_asynchronous_hooks_that_wait(cy, run):
    """A hundred are at work at the same time, and more where more than a thousand wait for them."""
    gate = asyncio.Event()
    at_work = 0

    async def hook(self, exception, details):
        nonlocal at_work
        at_work += 1
        await gate.wait()
        at_work -= 1

    async def main():
        server = silent(cy.StatelessServer, application_exception=hook)(fails, None)
        ids = itertools.count()
        async with checking(server):
            await flood(server, 1, 1, 900, ids)
            await eventually(lambda: at_work == 100)
            await passes(20)
            assert (at_work, waiting(server)) == (100, 900)
            await flood(server, 1, 1, 2_100, ids)
            await eventually(lambda: at_work > 250)
            await passes(50)
            assert 260 <= at_work <= 290
            assert waiting(server) == 3_000
            gate.set()
            await all_told(server)
            assert at_work == 0

    run(main())


# ---- seeing off ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overridden", [False, True])
def test_entries_that_have_ended(cy, run, tick, overridden):
    """Without a limit, as many are seen off as end, however long each takes: the table does not grow."""
    deleted = collections.Counter()

    def delete(self, scope_id):
        deleted[scope_id] += 1
        return super(type(self), self).delete_application_instance(scope_id)

    async def main():
        overrides = {"delete_application_instance": delete} if overridden else {}
        server = silent(cy.StatelessServer, **overrides)(one_shot, None)
        ids = itertools.count()
        most = 0
        async with checking(server):
            for _ in range(80):
                await flood(server, 1, 1, 500, ids)
                most = max(most, len(server.application_instances))
            # Of those that wait a quarter a pass; or, where an override takes its time, 320 for each thousand.
            assert most <= (2_700 if overridden else 3_000)
            await eventually(lambda: not server.application_instances)
        assert server.stats()["finished"] == 40_000
        assert not overridden or (len(deleted), set(deleted.values())) == (40_000, {1})

    run(main())


@pytest.mark.parametrize("what", ["idle", "age", "orphaned"])
def test_a_storm_of_entries_whose_time_has_come(cy, run, tick, what):
    """Five thousand that are to go at the same moment: the loop turns meanwhile."""
    turns = 0
    seen = []

    def delete(self, scope_id):
        seen.append(turns)
        return super(type(self), self).delete_application_instance(scope_id)

    async def main():
        nonlocal turns
        settings = {"idle": {"idle_timeout": 0.01}, "age": {"max_age": 10}, "orphaned": {}}[what]
        cls = managed(cy) if what == "age" else cy.StatelessServer
        server = silent(cls, delete_application_instance=delete, application_checker_interval=0.01, **settings)(
            reader, None
        )

        async def hold():
            for number in range(5_000):
                await server.get_or_create_application_instance(number, {"client": None})

        if what == "orphaned":
            await asyncio.create_task(hold())
        else:
            for number in range(5_000):
                server.get_or_create_application_instance(number, {"client": None})
        await passes(3)
        if what == "age":
            server.now += 20
        async with checking(server), asyncio.timeout(30):
            while len(seen) < 5_000:
                turns += 1
                await passes(1)
        assert max(collections.Counter(seen).values()) <= 1_500

    run(main())
