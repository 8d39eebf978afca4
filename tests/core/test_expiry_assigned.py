"""An assigned `last_used` beside what else decides about an entry's stay: expiry, refusals, policies, time-outs."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from support.loops import passes
from support.serving import checking, fast, in_time, reader

#: Seconds from now, and whether that is what `last_used` reads afterwards: a refusal is a use, which is later than what
#: was set back.
MOMENTS = [(0.0, True), (3600.0, True), (math.inf, True), (-3600.0, False), (-math.inf, False)]


def keeping(base, offset):
    """A class whose override keeps every instance that is not `done`, by assigning `last_used`."""

    class Server(fast(base)):
        def __init__(self, application, max_applications=1000):
            super().__init__(application, max_applications)
            self.calls = []
            self.assigned = {}
            self.done = False

        def delete_application_instance(self, scope_id):
            self.calls.append(scope_id)
            if self.done or scope_id not in self.kept:
                return super().delete_application_instance(scope_id)
            moment = time.time() + offset
            self.application_instances[scope_id]["last_used"] = self.assigned[scope_id] = moment
            return None

    return Server


def own_entry(**more):
    return {"future": asyncio.get_running_loop().create_future(), "input_queue": None, "scope": {}, **more}


@pytest.mark.slow
@pytest.mark.parametrize(("offset", "stands"), MOMENTS)
@pytest.mark.parametrize("foreign", [False, True], ids=["instance", "plain dict"])
def test_kept_by_its_override(cy, run, quiet, offset, stands, foreign):
    """An override that keeps an idle entry by assigning `last_used` is asked again once per `idle_timeout`, for as long
    as it does so, and nothing goes wrong."""

    async def main():
        server = keeping(cy.StatelessServer, offset)(reader)
        server.kept = {"a"}
        server.eviction_policy = "slru"
        server.idle_timeout = 0.03
        table = server.application_instances
        # The first time-out runs from here, however long the checker takes to start.
        begun = time.monotonic()
        if foreign:
            table["a"] = own_entry(last_used=time.time())
        else:
            server.get_or_create_application_instance("a", {})
        entry = table["a"]
        protected = table.protected
        async with checking(server):
            await in_time(lambda: len(server.calls) == 3)
            assert time.monotonic() - begun > 0.07
            assert table["a"] is entry and not entry["future"].done()
            assert (entry["last_used"] == server.assigned["a"]) == stands
            assert stands or abs(entry["last_used"] - time.time()) < 60
            assert table.protected == protected
            assert server.stats()["expired"] == 0
            server.done = True
            await in_time(lambda: "a" not in table)
        assert server.calls == ["a"] * 4
        assert server.stats()["expired"] == 1

    run(main())


@pytest.mark.parametrize(("offset", "stands"), MOMENTS)
@pytest.mark.parametrize("foreign", [False, True], ids=["instance", "plain dict"])
@pytest.mark.parametrize("policy", ["lru", "slru"])
def test_kept_when_room_is_made(cy, run, offset, stands, foreign, policy):
    """What an override keeps at the limit is passed over at once, whatever it assigns; another one goes."""

    async def main():
        server = keeping(cy.StatelessServer, offset)(reader, 3)
        server.kept = {"a"}
        server.eviction_policy = policy
        table = server.application_instances
        if foreign:
            table["a"] = own_entry(last_used=1.0)
        else:
            server.get_or_create_application_instance("a", {})
        entry = table["a"]
        protected = table.protected
        for scope_id in "bc":
            server.get_or_create_application_instance(scope_id, {})
        await passes(3)
        table["a"]["last_used"] = 1.0
        server.get_or_create_application_instance("d", {})
        assert server.calls == ["a", "b"]
        assert table["a"] is entry and sorted(table) == ["a", "c", "d"]
        assert (entry["last_used"] == server.assigned["a"]) == stands
        assert stands or abs(entry["last_used"] - time.time()) < 60
        assert table.protected == (protected if policy == "slru" else 3)
        server.done = True
        for scope_id in list(table):
            server.delete_application_instance(scope_id)
        await passes(3)

    run(main())


def test_a_plain_dict_that_is_kept_in_use_by_its_owner(cy, run):
    """The reference's users set `last_used` in their dicts: then the time of idleness counts from there."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        server.idle_timeout = 1000
        table = server.application_instances
        table["a"] = entry = own_entry(last_used=1.0)
        entry["last_used"] = time.time()
        async with checking(server):
            await asyncio.sleep(0.03)
            assert table["a"] is entry
            entry["last_used"] = 1.0
            assert list(table) == ["a"]
            await in_time(lambda: "a" not in table)
        assert server.stats()["expired"] == 1

    run(main())


def test_work_that_ended_after_the_assignment(cy, run):
    """Idle means since its last message was dealt with, whatever was assigned before, and when a time-out is set."""

    async def main():
        gate = asyncio.Event()

        async def application(scope, receive, send):
            await receive()
            await gate.wait()
            await receive()

        server = fast(cy.StatelessServer)(application)
        busy = server.get_or_create_application_instance("busy", {})
        busy.put_nowait("work")
        server.get_or_create_application_instance("idle", {})
        await passes(4)
        for entry in server.application_instances.values():
            entry["last_used"] = 1.0
        gate.set()
        await passes(4)
        server.idle_timeout = 1000
        async with checking(server):
            await in_time(lambda: "idle" not in server.application_instances)
            await asyncio.sleep(0.02)
            assert list(server.application_instances) == ["busy"]
        assert server.stats()["expired"] == 1

    run(main())


@pytest.mark.parametrize("idle_timeout", [0.01, 1e308])
def test_points_of_time_beyond_all_clocks(cy, run, quiet, idle_timeout):
    """Infinite and enormous values of `last_used`, and an enormous time-out, are what they say: soon, late or never."""

    async def main():
        server = fast(cy.StatelessServer)(reader)
        table = server.application_instances
        table["huge"] = own_entry(last_used=10**400)
        table["tiny"] = own_entry(last_used=-(10**400))
        for name, moment in (("never", -math.inf), ("now", time.time()), ("later", 1e300), ("always", math.inf)):
            server.get_or_create_application_instance(name, {})
            await passes(3)
            table[name]["last_used"] = moment
        assert list(table) == ["tiny", "never", "now", "later", "huge", "always"]
        server.idle_timeout = idle_timeout
        async with checking(server):
            if idle_timeout < 1:
                await in_time(lambda: not table)
                assert server.stats()["expired"] == 6
            else:
                await in_time(lambda: len(table) == 4)
                await asyncio.sleep(0.02)
                assert list(table) == ["now", "later", "huge", "always"]
                for name in table.copy():
                    server.delete_application_instance(name)

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("watchful")
def test_a_time_out_that_changes_while_its_override_keeps_it(cy, run, quiet):
    """`idle_timeout` set within the override, in either direction, is what holds from then on."""

    async def main():
        server = keeping(cy.StatelessServer, 0.0)(reader)
        server.kept = {"a"}
        server.idle_timeout = 0.02
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await in_time(lambda: server.calls)
            server.idle_timeout = None
            await asyncio.sleep(0.05)
            calls = len(server.calls)
            await asyncio.sleep(0.05)
            assert len(server.calls) == calls
            server.idle_timeout = 0.02
            server.done = True
            await in_time(lambda: "a" not in server.application_instances)
        assert server.stats()["expired"] == 1

    run(main())
