"""Who goes when there is no room, who never does, and what it costs."""

from __future__ import annotations

import asyncio
import sys

import pytest

from support.instances import by_message, make, silent
from support.loops import passes

# Who goes


@pytest.mark.parametrize("end", ["return", "fail", "cancel"])
def test_a_finished_one_goes_first(cy, run, end):
    """Making room takes a finished instance, however recently it was used, before any that lives."""

    async def main():
        server = silent(cy, max_applications=10)
        live = [make(server, number) for number in range(9)]
        finished = make(server, "finished")
        await passes(3)
        if end == "cancel":
            finished["future"].cancel()
        else:
            finished.put_nowait(end)
        await passes(3)
        make(server, "new")
        assert list(server.application_instances) == [*range(9), "new"]
        assert not any(instance["future"].done() for instance in live)
        await passes(3)
        make(server, "newer")
        assert list(server.application_instances) == [*range(1, 9), "new", "newer"]

    run(main())


def test_finished_ones_go_one_by_one(cy, run):
    """As long as there are finished instances nobody else goes."""

    async def main():
        server = silent(cy, max_applications=10)
        for number in range(10):
            make(server, number)
        await passes(3)
        for number in (3, 9, 5):
            make(server, number).put_nowait("return")
        await passes(3)
        for number in range(3):
            make(server, ("new", number))
        await passes(3)
        assert set(range(10)) - set(server.application_instances) == {3, 5, 9}
        make(server, "one more")
        assert set(range(10)) - set(server.application_instances) == {0, 3, 5, 9}

    run(main())


def test_the_reference_evicts_the_living(reference, run):
    """What the rule above is for: with finished instances in the table the reference evicts one that works."""

    async def main():
        server = reference(by_message, max_applications=1)
        make(server, "works").put_nowait("busy")
        make(server, "finished").put_nowait("return")
        await passes(3)
        make(server, "new")
        assert list(server.application_instances) == ["finished", "new"]

    run(main())


@pytest.mark.parametrize("why", ["elsewhere", "queued", "just fed", "not begun"])
def test_an_idle_one_goes_before_a_busy_one(cy, run, why):
    """Then the least recently used idle instance goes; those whose queue or application is busy are looked past."""

    async def main():
        server = silent(cy, max_applications=6)
        if why == "not begun":
            for scope_id in ("idle 1", "idle 2", "idle 3"):
                make(server, scope_id)
            await passes(3)
            for number in range(3):
                make(server, number).put_nowait("message")
            for scope_id in ("idle 1", "idle 2", "idle 3"):
                make(server, scope_id)
        else:
            for number in range(3):
                make(server, number)
            for scope_id in ("idle 1", "idle 2", "idle 3"):
                make(server, scope_id)
            await passes(3)
            table = server.application_instances
            for number in range(3):
                if why != "just fed":
                    table[number].put_nowait("busy")
                    await passes(2)
                if why != "elsewhere":
                    table[number].put_nowait("message")
        make(server, "new")
        assert list(server.application_instances) == [0, 1, 2, "idle 2", "idle 3", "new"]

    run(main())


def test_idle_again_after_its_work(cy, run):
    """An instance that has worked off its queue and waits in receive is idle again, and goes in its turn."""

    async def main():
        server = silent(cy, max_applications=3)
        for number in range(3):
            make(server, number)
        await passes(3)
        for _ in range(50):
            server.application_instances[0].put_nowait("message")
        await passes(3)
        make(server, "new")
        assert list(server.application_instances) == [1, 2, "new"]

    run(main())


def test_among_the_busy_the_least_recently_used_goes(cy, run):
    """Only when nobody is idle the least recently used one goes."""

    async def main():
        server = silent(cy, max_applications=4)
        for number in range(4):
            make(server, number).put_nowait("busy")
        await passes(3)
        make(server, 0)
        make(server, "new").put_nowait("busy")
        await passes(3)
        assert list(server.application_instances) == [2, 3, 0, "new"]
        make(server, "newer")
        assert list(server.application_instances) == [3, 0, "new", "newer"]

    run(main())


async def worked_off(cls: type) -> int:
    """A thousand messages for one instance, then three new ids at the limit: how many of the messages it worked off."""
    worked = []

    async def application(scope, receive, send):
        while True:
            worked.append(await receive())
            await asyncio.sleep(0)

    server = cls(application, max_applications=2)
    queue = make(server, "busy")
    for number in range(1000):
        queue.put_nowait(number)
    await passes(3)
    for scope_id in "abc":
        make(server, scope_id)
        await passes(3)
    await passes(1100)
    return len(worked)


def test_the_one_with_work_before_it_keeps_its_place(cy, run):
    """An instance with a thousand messages before it works them off, where an idle one can go in its stead."""
    assert run(worked_off(cy.StatelessServer)) == 1000


def test_the_reference_loses_its_messages(reference, run):
    """What the rule above is for: the reference evicts it, as the least recently used, and its messages with it."""
    assert run(worked_off(reference)) < 20


# Who never goes


@pytest.mark.parametrize("busy", [False, True], ids=["others idle", "others busy"])
@pytest.mark.parametrize("where", ["application", "child task", "application_send", "caller's run"])
def test_the_one_that_asks_never_goes(cy, run, where, busy):
    """An application that makes siblings at the limit is not evicted for them, while there is another."""

    async def main():
        asked = asyncio.Event()

        def ask():
            for number in range(5):
                make(server, ("sibling", number))
            asked.set()

        async def ask_as_task():
            ask()

        async def application(scope, receive, send):
            if scope["type"] != "asker":
                return await by_message(scope, receive, send)
            await receive()
            match where:
                case "child task":
                    await asyncio.create_task(ask_as_task())
                case "application_send":
                    await send("message")
                case _:
                    ask()
            return await asyncio.get_running_loop().create_future()

        class Server(cy.StatelessServer):
            async def application_send(self, scope, message):
                ask()

            def application_undelivered(self, messages, details):
                pass

        async def at_once():
            return "go"

        server = Server(application, max_applications=3)
        asker = make(server, "asker", {"type": "asker"})
        if where == "caller's run":
            await asker
        await passes(3)
        for number in range(2):
            make(server, number).put_nowait("busy" if busy else "message")
        await passes(3)
        server.application_instances["asker"]["last_used"] = 0
        if where == "caller's run":
            task = asyncio.create_task(asker["application"]({"type": "asker"}, at_once, None))
        else:
            asker.put_nowait("go")
            task = asker["future"]
        await asyncio.wait_for(asked.wait(), 5)
        await passes(3)
        assert not task.done() and server.application_instances["asker"] is asker
        assert len(server.application_instances) == 3
        task.cancel()
        await passes(3)

    run(main())


@pytest.mark.parametrize("policy", ["lru", "slru"])
@pytest.mark.parametrize("place", ["before all", "within", "behind the busy", "behind all"])
@pytest.mark.parametrize("busy", [31, 32, 33])
def test_the_one_that_asks_is_not_looked_past(cy, run, busy, place, policy):
    """Making room looks past 32 busy ones to find an idle one; the one that asks counts as none of them."""

    async def main():
        server = silent(cy, max_applications=busy + 2)
        server.eviction_policy = policy
        names = [*range(busy), "idle"]
        names.insert({"before all": 0, "within": 5, "behind the busy": busy, "behind all": busy + 1}[place], "asker")
        for name in names:
            instance = make(server, name)
            if isinstance(name, int):
                instance.put_nowait("busy")
        await passes(4)
        victim = server.application_instances.victim(server.application_instances["asker"])
        assert victim.scope_id == ("idle" if busy <= 32 else 0)
        for name in names:
            server.delete_application_instance(name)
        await passes(4)

    run(main())


def test_the_only_one_goes_for_its_own_sibling(cy, run):
    """Where there is no other, the one that asks goes itself: the limit holds."""

    async def main():
        ended = []

        async def application(scope, receive, send):
            if scope["type"] == "asker":
                await receive()
                make(server, "sibling")
            try:
                await receive()
            except asyncio.CancelledError:
                ended.append(scope["type"])
                raise

        server = silent(cy, application, max_applications=1)
        asker = make(server, "asker", {"type": "asker"})
        asker.put_nowait("go")
        await passes(4)
        assert list(server.application_instances) == ["sibling"]
        assert ended == ["asker"] and asker["future"].cancelled()

    run(main())


# What it costs


def test_the_usual_eviction_stays_in_the_core(cy, run):
    """Where nothing is overridden, an idle instance is made, evicted and seen off without the manager."""
    calls = []

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.endswith("manager.py"):
            calls.append(frame.f_code.co_name)

    async def main():
        server = silent(cy, max_applications=2)
        # The first that closes sets a timer for all.
        for scope_id in range(3):
            make(server, scope_id)
            await passes(4)
        sys.setprofile(note)
        try:
            make(server, 3)
            await passes(4)
        finally:
            sys.setprofile(None)
        assert calls == []
        stats = server.stats()
        assert (stats["evicted"], stats["cancelled"], stats["closing"], stats["live"]) == (2, 2, 0, 2)
        # Not so where somebody is to hear of it.
        server.delete_application_instance = lambda scope_id: calls.append(scope_id)
        make(server, 4)
        assert 2 in calls

    run(main())
