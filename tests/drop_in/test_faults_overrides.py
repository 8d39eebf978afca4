"""Faults of the reference with overridden methods that delete: each is shown, and then what cyasgi does instead.

A test whose name ends in `_reference` shows what asgiref's class does, so that the list of differences stays true.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.loops import passes
from support.recording_server import recording
from support.serving import in_time, reader


class EndlessError(Exception):
    """Raised in place of a loop that would never end."""


class Patience(dict):
    """A table that has its length asked a thousand times and no more."""

    asked = 0

    def __len__(self):
        self.asked += 1
        if self.asked > 1000:
            raise EndlessError
        return super().__len__()


def async_oldest(base):
    class Server(recording(base)):
        async def delete_oldest_application_instance(self):
            self.overridden.append("oldest")
            await asyncio.sleep(0)
            await super().delete_oldest_application_instance()

    return Server


def async_delete(base):
    class Server(recording(base)):
        async def delete_application_instance(self, scope_id):
            self.overridden.append(scope_id)
            self.seen.append(self.application_instances[scope_id])
            await asyncio.sleep(0)
            await super().delete_application_instance(scope_id)

    return Server


def async_delete_that_forgets(base):
    class Server(recording(base)):
        async def delete_application_instance(self, scope_id):
            self.overridden.append(scope_id)
            self.seen.append(self.application_instances[scope_id])
            await asyncio.sleep(0)

    return Server


ASYNC_OVERRIDES = [async_oldest, async_delete, async_delete_that_forgets]


def with_override(cls, limit):
    """A server of this class with idle applications and room for so many."""
    server = cls(reader, max_applications=limit)
    server.overridden, server.seen = [], []
    return server


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("make", ASYNC_OVERRIDES)
def test_async_override_at_the_limit_reference(reference, run, make):
    """Reference: with an `async def` override of a method that deletes, making room loops for ever."""

    async def main():
        server = with_override(make(reference), limit=1)
        server.application_instances = Patience()
        for scope_id in "ab":
            server.get_or_create_application_instance(scope_id, {})
        with pytest.raises(EndlessError):
            server.get_or_create_application_instance("c", {})
        assert server.overridden == []

    run(main())


@pytest.mark.parametrize("make", ASYNC_OVERRIDES)
def test_async_override_at_the_limit(cy, run, make):
    """An `async def` override runs to its end as a task: the victim is out at once, and in the end deleted."""

    async def main():
        server = with_override(make(cy.StatelessServer), limit=1)
        victim = server.get_or_create_application_instance("a", {})
        await passes(2)
        fresh = server.get_or_create_application_instance("b", {})
        assert list(server.application_instances) == ["b"]
        assert not victim["future"].done()
        await in_time(lambda: victim["future"].done())
        await passes(5)
        assert victim["future"].cancelled()
        assert len(server.overridden) == 1
        assert all(seen is victim for seen in server.seen)
        assert server.application_instances["b"] is fresh
        assert not fresh["future"].done()

    run(main())


def test_async_override_spares_a_namesake(cy, run):
    """A namesake that was made while an `async def` override deletes its victim is not touched by it."""

    async def main():
        server = with_override(async_delete(cy.StatelessServer), limit=2)
        victim = server.get_or_create_application_instance("a", {})
        server.get_or_create_application_instance("b", {})
        await passes(2)
        server.get_or_create_application_instance("c", {})
        namesake = server.get_or_create_application_instance("a", {})
        assert namesake is not victim
        await in_time(lambda: victim["future"].done())
        await passes(10)
        assert list(server.application_instances) == ["c", "a"]
        assert server.application_instances["a"] is namesake
        assert not namesake["future"].done()

    run(main())


def pinning(base):
    """A class whose override refuses to delete `pinned`."""

    class Server(recording(base)):
        def delete_application_instance(self, scope_id):
            self.overridden.append(scope_id)
            return None if scope_id == "pinned" else super().delete_application_instance(scope_id)

    return Server


def raising(base):
    """A class whose override fails in its own clean-up."""

    class Server(recording(base)):
        def delete_application_instance(self, scope_id):
            super().delete_application_instance(scope_id)
            raise OSError("the clean-up broke")

    return Server


def test_override_that_refuses_reference(reference, run):
    """Reference: an override that keeps its victim makes creation at the limit loop for ever."""

    async def main():
        server = with_override(pinning(reference), limit=1)
        server.application_instances = Patience()
        for scope_id in ("pinned", "a"):
            server.get_or_create_application_instance(scope_id, {})
            server.application_instances[scope_id]["last_used"] = len(scope_id) * -1.0
        with pytest.raises(EndlessError):
            server.get_or_create_application_instance("b", {})
        assert set(server.overridden) == {"pinned"}

    run(main())


def warned(caplog):
    """How many warnings cyasgi logged."""
    return sum((record.name, record.levelno) == ("cyasgi.server", logging.WARNING) for record in caplog.records)


def test_override_that_refuses(cy, run, caplog):
    """An instance that an override refuses to delete is passed over, with one warning; another makes room."""

    async def main():
        server = with_override(pinning(cy.StatelessServer), limit=2)
        pinned = server.get_or_create_application_instance("pinned", {})
        for scope_id in "abcd":
            server.get_or_create_application_instance(scope_id, {})
            await passes(2)
            assert sorted(server.application_instances) == [scope_id, "pinned"]
        assert not pinned["future"].done()
        assert "pinned" in server.overridden

    run(main())
    assert warned(caplog) == 1


def test_override_that_refuses_everything(cy, run, caplog):
    """Where every instance is refused the least recently used one goes all the same: the limit holds."""

    async def main():
        server = with_override(pinning(cy.StatelessServer), limit=1)
        pinned = server.get_or_create_application_instance("pinned", {})
        await passes(2)
        server.get_or_create_application_instance("a", {})
        assert list(server.application_instances) == ["a"]
        await passes(3)
        assert pinned["future"].cancelled()

    run(main())
    assert warned(caplog) == 1


def test_override_that_raises_reference(reference, run):
    """Reference: whoever asks for a new instance gets the error of another one's clean-up, and no instance."""

    async def main():
        server = with_override(raising(reference), limit=1)
        for scope_id in "ab":
            server.get_or_create_application_instance(scope_id, {})
        with pytest.raises(OSError, match="the clean-up broke"):
            server.get_or_create_application_instance("c", {})
        assert list(server.application_instances) == ["b"]

    run(main())


def test_override_that_raises(cy, run, caplog):
    """What an override raises in making room is logged; whoever asks for a new instance gets it."""

    async def main():
        server = with_override(raising(cy.StatelessServer), limit=1)
        server.get_or_create_application_instance("a", {})
        fresh = server.get_or_create_application_instance("b", {})
        assert server.application_instances["b"] is fresh
        assert len(server.application_instances) == 1
        await passes(3)
        assert not fresh["future"].done()

    run(main())
    assert "OSError: the clean-up broke" in caplog.text
    assert "Traceback" in caplog.text
