"""`InstanceTable.walk`: all entries in slices, while others come, go and are used."""

from __future__ import annotations

import pytest

from support.serving import quiet, reader


def server_of(cy, policy, count, limit=1000):
    server = quiet(cy.StatelessServer)(reader, limit)
    server.eviction_policy = policy
    for number in range(count):
        server.get_or_create_application_instance(number, {"type": "test"})
    return server


def walked(table, count):
    """The ids of a walk in slices of so many."""
    found, last = [], None
    while entries := table.walk(last, count):
        assert len(entries) <= count
        found += [entry.scope_id for entry in entries]
        last = entries[-1]
    return found


@pytest.mark.parametrize("policy", ["lru", "slru"])
@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_all_of_them(cy, run, policy, count):
    """Each is met once, in the table's own order, whichever segment it is in."""

    async def main():
        server = server_of(cy, policy, 20)
        for number in (3, 11, 12):
            server.get_or_create_application_instance(number, {"type": "test"})
        table = server.application_instances
        assert walked(table, count) == list(table)
        assert table.walk(None, 0) == []
        table.clear()
        assert table.walk(None, count) == []

    run(main())


def test_one_that_has_left(cy, run):
    """After one that is in the table no more, or in another one, the walk begins anew."""

    async def main():
        server, other = server_of(cy, "lru", 5), server_of(cy, "lru", 5)
        table = server.application_instances
        first, second = table.walk(None, 2)
        assert [one.scope_id for one in table.walk(second, 2)] == [2, 3]
        del table[1]
        assert [one.scope_id for one in table.walk(second, 3)] == [0, 2, 3]
        assert [one.scope_id for one in other.application_instances.walk(first, 2)] == [0, 1]

    run(main())


def test_one_that_was_used(cy, run):
    """A use moves it to the young end: nothing follows it there."""

    async def main():
        server = server_of(cy, "lru", 5)
        table = server.application_instances
        last = table.walk(None, 2)[-1]
        server.get_or_create_application_instance(1, {"type": "test"})
        assert table.walk(last, 5) == []
        assert [one.scope_id for one in table.walk(None, 9)] == [0, 2, 3, 4, 1]

    run(main())


def test_those_of_an_assigned_time_are_left_out(cy, run):
    async def main():
        server = server_of(cy, "lru", 4)
        table = server.application_instances
        last = table.walk(None, 2)[-1]
        table[1]["last_used"] = 5.0
        assert walked(table, 2) == [0, 2, 3]
        assert [one.scope_id for one in table.walk(last, 5)] == [0, 2, 3]

    run(main())
