"""The segments of ``eviction_policy = "slru"`` when the policy or the limit changes, and what others assign and
write."""

from __future__ import annotations

import time

from support.instances import make, own_entry
from support.slru import order, slru, use

# Changes


def test_changed_to_slru(cy, run):
    """Who is there when the policy changes is protected, the most recently used first."""

    async def main():
        server = slru(cy, 5, eviction_policy="lru")
        await use(server, "abcde")
        server.eviction_policy = "slru"
        assert order(server) == ("a", "bcde")
        await use(server, "fg")
        assert order(server) == ("g", "bcde")

    run(main())


def test_changed_to_lru(cy, run):
    """The order is that of use again."""

    async def main():
        server = slru(cy, 5)
        await use(server, "abcab")
        await use(server, "d")
        assert order(server) == ("cd", "ab")
        server.eviction_policy = "lru"
        assert order(server) == ("", "cabd")
        await use(server, "a")
        await use(server, "efg")
        assert order(server) == ("", "daefg")
        server.eviction_policy = "slru"
        await use(server, "h")
        assert order(server) == ("h", "aefg")
        del server.eviction_policy
        assert server.eviction_policy == "slru"

    run(main())


def test_changed_for_all_servers_of_a_class(cy, run):
    """Assigned to a class, the policy is followed when the next instance needs room."""

    async def main():
        server = slru(cy, 3, eviction_policy="lru")
        await use(server, "abc")
        type(server).eviction_policy = "slru"
        await use(server, "d")
        assert order(server) == ("d", "bc")

    run(main())


def test_the_limit_is_changed(cy, run):
    """The bound of the protected segment follows it, at once."""

    async def main():
        server = slru(cy, 10)
        await use(server, "abcdefghabcdefgh")
        assert order(server) == ("", "abcdefgh")
        server.max_applications = 5
        assert order(server) == ("abcd", "efgh")
        await use(server, "i")
        assert order(server) == ("i", "efgh")
        server.max_applications = None
        await use(server, "jiklj")
        assert order(server) == ("kl", "efghij")

    run(main())


# What others assign and write


def test_assigning_last_used(cy, run):
    """It orders an instance within its segment; set back, it puts it on probation. A use overrules both."""

    async def main():
        server = slru(cy, 10)
        await use(server, "abcdabc")
        table = server.application_instances
        assert order(server) == ("d", "abc")
        table["a"]["last_used"] = time.time() + 1000
        assert order(server) == ("d", "bca")
        table["b"]["last_used"] = 5
        assert order(server) == ("bd", "ca")
        table["b"]["last_used"] = 7
        table["d"]["last_used"] = 6
        assert order(server) == ("db", "ca")
        await use(server, "b")
        await use(server, "a")
        assert order(server) == ("d", "cba")
        server.eviction_policy = "lru"
        assert order(server) == ("", "dcba")

    run(main())


def test_plain_dicts(cy, run):
    """What others write is on probation, is promoted by a lookup, ordered by its last_used, demoted and evicted."""

    async def main():
        server = slru(cy, 5)
        await use(server, "ab")
        entries = {scope_id: own_entry() for scope_id in "xyz"}
        server.application_instances.update(entries)
        assert order(server) == ("abxyz", "")
        assert make(server, "x") is entries["x"]["input_queue"]
        make(server, "y")
        assert order(server) == ("abz", "xy")
        entries["x"]["last_used"] = time.time() + 1000
        assert order(server) == ("abz", "yx")
        entries["y"]["last_used"] = 1
        assert order(server) == ("yabz", "x")
        await use(server, "abz")
        assert order(server) == ("y", "abzx")
        # Nobody waits in its queue, so that y is busy; ended it goes first.
        entries["y"]["future"].cancel()
        await use(server, "cc")
        assert order(server) == ("a", "bzcx")
        entries["x"]["last_used"] = 2
        assert order(server) == ("xa", "bzc")
        await use(server, "d")
        assert order(server) == ("xd", "bzc")

    run(main())
