"""``eviction_policy = "slru"``: newcomers on probation, established instances protected, and floods that cost none
of these."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.instances import SCOPE, make
from support.loops import loop_factory, passes
from support.serving import reader
from support.slru import order, slru, use

# The setting


@pytest.mark.slow
def test_the_default_is_lru(cy):
    """Unless told otherwise a server evicts the least recently used."""
    assert cy.StatelessServer.eviction_policy == "lru"
    assert cy.StatelessServer(reader).eviction_policy == "lru"


WRONG = [("fifo", ValueError), ("", ValueError), ("LRU", ValueError), (None, TypeError), (1, TypeError)]


@pytest.mark.parametrize(("value", "error"), WRONG, ids=repr)
def test_any_other_policy_is_refused(cy, value, error):
    """When it is set, on a server or in a class body; the message names the value and what is accepted."""
    server = cy.StatelessServer(reader)
    with pytest.raises(error, match=r"eviction_policy=.*'lru' or 'slru'"):
        server.eviction_policy = value
    assert server.eviction_policy == "lru"
    with pytest.raises(error, match="eviction_policy="):
        type("Server", (cy.StatelessServer,), {"eviction_policy": value})


def test_a_policy_that_nobody_could_check(cy, run):
    """One assigned to a class later is refused when it is needed, and nothing was made or evicted."""

    async def main():
        server = slru(cy, 2)
        await use(server, "ab")
        type(server).eviction_policy = "random"
        with pytest.raises(ValueError, match=r"'random'.*'lru' and 'slru'"):
            make(server, "c")
        assert order(server) == ("ab", "")
        type(server).eviction_policy = "lru"
        await use(server, "c")
        assert order(server) == ("", "bc")

    run(main())


# The segments


def test_a_newcomer_is_on_probation_until_it_is_used_again(cy, run):
    """Made, an instance is the youngest on probation; found alive by a lookup, the youngest of the protected."""

    async def main():
        server = slru(cy)
        await use(server, "abcd")
        assert order(server) == ("abcd", "")
        await use(server, "b")
        assert order(server) == ("acd", "b")
        await use(server, "ad")
        assert order(server) == ("c", "bad")
        await use(server, "b")
        assert order(server) == ("c", "adb")
        assert server.application_instances.protected == 3

    run(main())


def test_under_lru_all_are_alike(cy, run):
    """Nobody is on probation, and the order is that of use."""

    async def main():
        server = slru(cy, eviction_policy="lru")
        await use(server, "abcd")
        await use(server, "b")
        assert order(server) == ("", "acdb")

    run(main())


def test_looking_into_the_table_promotes_nobody(cy, run):
    """Reading is no use, and neither is an end of work."""

    async def main():
        server = slru(cy)
        await use(server, "ab")
        table = server.application_instances
        assert table["a"] is table.get("a") and "a" in table and list(table.values())
        table["a"].put_nowait("message")
        await passes(3)
        assert order(server) == ("ab", "")

    run(main())


def test_four_fifths_may_be_protected(cy, run):
    """Who is promoted beyond that sends the least recently used protected one back, as the youngest on probation."""

    async def main():
        server = slru(cy, 5)
        await use(server, "abcde")
        await use(server, "abcd")
        assert order(server) == ("e", "abcd")
        await use(server, "e")
        assert order(server) == ("a", "bcde")
        await use(server, "f")
        assert order(server) == ("f", "bcde")

    run(main())


@pytest.mark.parametrize(("limit", "protected"), [(1, 0), (2, 1), (3, 2), (4, 3), (9, 7), (10, 8), (None, 40)])
def test_the_bound_at_every_limit(cy, run, limit, protected):
    """A place for newcomers is always left; without a limit everybody who came again is protected."""

    async def main():
        server = slru(cy, limit)
        for _ in range(3):
            for number in range(limit or 40):
                make(server, number)
        assert server.application_instances.protected == protected
        assert len(server.application_instances) == (limit or 40)

    run(main())


def test_a_limit_of_one(cy, run):
    """The one that there is makes room, used again or not."""

    async def main():
        server = slru(cy, 1)
        await use(server, "aab")
        assert order(server) == ("b", "")

    run(main())


# Making room


@pytest.mark.parametrize("busy", [False, True])
def test_newcomers_make_room_for_each_other(cy, run, busy):
    """As long as somebody is on probation, who is protected keeps its place, idle or not."""

    async def main():
        server = slru(cy, 6)
        await use(server, "abcdefabc")
        assert order(server) == ("def", "abc")
        if busy:
            for scope_id in "def":
                server.application_instances[scope_id].put_nowait("busy")
        await passes(3)
        await use(server, "g")
        assert order(server) == ("efg", "abc")
        # None of these begins before the last is made.
        for scope_id in "hijklmno":
            make(server, scope_id)
        assert order(server) == ("mno", "abc")

    run(main())


def test_idle_before_busy_on_probation(cy, run):
    """Within the segment the rules are those of lru: the least recently used idle one first."""

    async def main():
        server = slru(cy, 5)
        await use(server, "abcde")
        for scope_id in "ab":
            server.application_instances[scope_id].put_nowait("busy")
        await use(server, "ef")
        assert order(server) == ("abdf", "e")

    run(main())


def test_a_bounded_number_of_busy_ones_is_looked_past(cy, run):
    """Where more than that are busy, the least recently used of them goes: the cost does not grow with the table."""

    async def main():
        server = slru(cy, 100)
        for number in range(100):
            make(server, number)
        await passes(3)
        for number in range(60):
            server.application_instances[number].put_nowait("busy")
        await passes(3)
        make(server, "new")
        assert set(range(100)) - set(server.application_instances) == {0}

    run(main())


def test_a_finished_one_goes_first(cy, run):
    """From either segment."""

    async def main():
        server = slru(cy, 5)
        await use(server, "abcdeab")
        server.application_instances["a"].put_nowait("return")
        await passes(3)
        await use(server, "f")
        assert order(server) == ("cdef", "b")

    run(main())


def test_the_one_that_asks_stays(cy, run):
    """An instance that is alone on probation and asks for another: then a protected one goes."""

    async def main():
        async def application(scope, receive, send):
            if await receive() == "ask":
                make(server, "other")
            await asyncio.get_running_loop().create_future()

        server = slru(cy, 3, application)
        await use(server, "ababc")
        assert order(server) == ("c", "ab")
        server.application_instances["c"].put_nowait("ask")
        await passes(3)
        assert order(server) == ("cother", "b")

    run(main())


def test_delete_oldest_takes_from_probation(cy, run):
    """Called by hand, and when the policy was changed a moment ago."""

    async def main():
        server = slru(cy, 5)
        await use(server, "abcab")
        await server.delete_oldest_application_instance()
        assert order(server) == ("", "ab")
        await server.delete_oldest_application_instance()
        assert order(server) == ("", "b")

    run(main())


def test_a_refusal_promotes_nobody(cy, run):
    """An override that will not delete a newcomer keeps it, and is asked for the next."""

    async def main():
        server = slru(cy, 5)

        def refuse(scope_id):
            return None if scope_id == "c" else type(server).delete_application_instance(server, scope_id)

        server.delete_application_instance = refuse
        await use(server, "abcdeab")
        assert order(server) == ("cde", "ab")
        await use(server, "f")
        assert order(server) == ("ecf", "ab")

    run(main())


def test_popitem_takes_the_first_in_order(cy, run):
    """The table's own order is that in which making room looks."""

    async def main():
        server = slru(cy, 5)
        await use(server, "abca")
        table = server.application_instances
        assert list(reversed(table)) == ["a", "c", "b"]
        assert [table.popitem()[0] for _ in range(3)] == ["b", "c", "a"]
        assert table.protected == len(table) == 0
        with pytest.raises(KeyError):
            table.popitem()

    run(main())


def test_who_begins_anew_is_a_newcomer(cy, run):
    """An instance that ended and came again has nothing to lose."""

    async def main():
        server = slru(cy, 5)
        await use(server, "abab")
        server.application_instances["a"].put_nowait("return")
        await passes(3)
        await use(server, "a")
        assert order(server) == ("a", "b")

    run(main())


def test_a_caller_that_calls_again_is_no_newcomer(cy, run):
    """A keep-alive connection looks nothing up: its second call is its second use."""

    async def main():
        async def application(scope, receive, send):
            await receive()

        server = slru(cy, 5, application)
        instance = await make(server, "a")
        for protected in (0, 1, 1):
            call = instance["application"](SCOPE, passes, None)
            await passes()
            await call
            assert server.application_instances.protected == protected

    run(main())


# Floods


async def flooded(server: Any, established: int, flood: int, batch: int) -> int:
    """So many clients that came twice, then so many ids that come once: how many of the former are left."""
    clients = [make(server, ("client", number)) for number in range(established)]
    await passes(3)
    for number in range(established):
        make(server, ("client", number))
    for start in range(0, flood, batch):
        for number in range(start, start + batch):
            make(server, number)
        await asyncio.sleep(0)
    left = sum(server.application_instances.get(client.scope_id) is client for client in clients)
    assert left == sum(not client["future"].done() for client in clients)
    assert len(server.application_instances) == server.max_applications
    server.application_instances.clear()
    return left


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 400])
def test_a_flood_costs_no_established_client_its_place(cy, run, batch):
    """One-shot ids, a few at a time or more than there is room for between two turns of the loop."""
    assert run(flooded(slru(cy, 125), 100, 4000, batch)) == 100


@pytest.mark.slow
def test_without_segments_it_costs_all_of_them(cy, run):
    """What the policy is for."""
    assert run(flooded(slru(cy, 125, eviction_policy="lru"), 100, 4000, 20)) == 0


@pytest.mark.long
@pytest.mark.slow
def test_a_million_one_shot_ids():
    """After a million of them not one of a thousand established instances is gone: once, on the usual back end."""
    import cyasgi

    with asyncio.Runner(loop_factory=loop_factory("asyncio")) as runner:
        assert runner.run(flooded(slru(cyasgi, 1250, reader), 1000, 1_000_000, 500)) == 1000
