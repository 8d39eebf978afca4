"""The eviction policy "refuse": no live instance makes room, and whoever asks for one more is told."""

from __future__ import annotations

import copy
import pickle

import pytest

from support.loops import passes
from support.serving import fast, one_shot, reader


def server_of(cy, application=reader, limit=2, **overrides):
    return type("Server", (fast(cy.StatelessServer),), {"eviction_policy": "refuse", **overrides})(application, limit)


def test_newcomers_are_refused(cy, run):
    """Those that are there stay, and are found as before."""

    async def main():
        server = server_of(cy)
        first, second = (server.get_or_create_application_instance(name, {}) for name in "ab")
        first.put_nowait("x")
        for _ in range(3):
            with pytest.raises(cy.TableFull, match="there are 2 instances, as many as max_applications allows"):
                server.get_or_create_application_instance("c", {})
            await passes(2)
        assert list(server.application_instances) == ["a", "b"]
        assert server.get_or_create_application_instance("b", {}) is second
        stats = server.stats()
        assert (stats["created"], stats["evicted"], stats["live"]) == (2, 0, 2)
        await server.delete_application_instance("a")
        third = server.get_or_create_application_instance("c", {})
        third.put_nowait("x")
        await passes(3)
        assert third.idle
        for name in "bc":
            await server.delete_application_instance(name)

    run(main())


def test_finished_instances_make_room(cy, run):
    """One whose application has ended does, even before the checker has looked."""

    async def main():
        server = server_of(cy, one_shot)
        for name in "abcdef":
            server.get_or_create_application_instance(name, {}).put_nowait("x")
            await passes(5)
        assert server.stats()["created"] == 6
        assert server.stats()["evicted"] == 0

    run(main())


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_overrides_of_delete_methods_are_not_called(cy, run, kind):
    async def main():
        deleted = []

        def plain(self):
            deleted.append("oldest")
            return super(type(self), self).delete_oldest_application_instance()

        async def coroutine(self):
            return await plain(self)

        override = plain if kind == "def" else coroutine
        server = server_of(cy, delete_oldest_application_instance=override)
        for name in "ab":
            server.get_or_create_application_instance(name, {}).put_nowait("x")
        with pytest.raises(cy.TableFull):
            server.get_or_create_application_instance("c", {})
        assert deleted == []
        for name in "ab":
            await server.delete_application_instance(name)

    run(main())


def test_switched_while_it_is_full(cy, run):
    async def main():
        server = server_of(cy, eviction_policy="lru")
        for name in "abc":
            server.get_or_create_application_instance(name, {}).put_nowait("x")
            await passes(3)
        assert list(server.application_instances) == ["b", "c"]
        server.eviction_policy = "refuse"
        with pytest.raises(cy.TableFull):
            server.get_or_create_application_instance("d", {})
        server.eviction_policy = "slru"
        server.get_or_create_application_instance("d", {}).put_nowait("x")
        await passes(3)
        assert list(server.application_instances) == ["c", "d"] or "d" in server.application_instances
        for name in list(server.application_instances):
            await server.delete_application_instance(name)

    run(main())


def test_a_caller_that_calls_again(cy, run):
    """One whose place has been taken meanwhile is refused like any newcomer."""

    async def main():
        async def application(scope, receive, send):
            pass

        server = server_of(cy, application, 1)
        held = await server.get_or_create_application_instance("a", {})
        await held["application"]({}, None, None)
        server.application = reader
        server.get_or_create_application_instance("b", {}).put_nowait("x")
        await passes(3)
        with pytest.raises(cy.TableFull):
            await held["application"]({}, None, None)
        await server.delete_application_instance("b")

    run(main())


def test_the_error(cy):
    """It can be copied and pickled, and says what the limit is."""
    error = cy.TableFull(7)
    for one in (copy.copy(error), pickle.loads(pickle.dumps(error)) if cy.__name__ == "cyasgi" else error):
        assert (one.limit, str(one)) == (7, str(error))
