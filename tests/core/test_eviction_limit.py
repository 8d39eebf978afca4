"""The limit: how many instances there may be, what it may be set to, and creations that fail at it."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.instances import by_message, make, silent
from support.loops import passes

# How many


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_at_most_max_applications(cy, run, limit):
    """There are never more entries than max_applications, seen from the applications and the hooks too."""

    async def main():
        sizes = []

        class Server(cy.StatelessServer):
            def delete_application_instance(self, scope_id):
                sizes.append(len(self.application_instances))
                return super().delete_application_instance(scope_id)

            def application_undelivered(self, messages, details):
                pass

        async def application(scope, receive, send):
            sizes.append(len(server.application_instances))
            await by_message(scope, receive, send)

        server = Server(application, max_applications=limit)
        for number in range(4 * limit):
            make(server, number).put_nowait("message")
            sizes.append(len(server.application_instances))
            await passes(number % 3)
        await passes(3)
        assert max(sizes) == limit == len(server.application_instances)

    run(main())


def test_the_reference_keeps_one_too_many(reference, run):
    """What the rule above is for: told to keep three, the reference keeps four."""

    async def main():
        server = reference(by_message, max_applications=3)
        for number in range(10):
            make(server, number)
        assert len(server.application_instances) == 4

    run(main())


@pytest.mark.slow
def test_no_limit(cy, run):
    """With None there is no limit."""

    async def main():
        server = silent(cy, max_applications=None)
        assert server.max_applications is None
        for number in range(3000):
            make(server, number)
        assert len(server.application_instances) == 3000

    run(main())


def test_the_default_limit(impl):
    """Unless told otherwise a server keeps a thousand."""
    assert impl.StatelessServer(by_message).max_applications == 1000
    assert impl.StatelessServer(by_message, 5).max_applications == 5
    assert impl.StatelessServer(application=by_message, max_applications=6).max_applications == 6


WRONG_LIMITS = [
    (0, ValueError),
    (-1, ValueError),
    (True, TypeError),
    (False, TypeError),
    ("5", TypeError),
    (2.0, TypeError),
    (float("inf"), TypeError),
    ([], TypeError),
]


@pytest.mark.parametrize(("value", "error"), WRONG_LIMITS, ids=lambda value: repr(value))
def test_a_limit_that_is_none_is_refused(cy, value, error):
    """Anything but None and an int from 1 on is refused when it is set; the message says what, and what is not."""
    with pytest.raises(error) as caught:
        cy.StatelessServer(by_message, max_applications=value)
    assert repr(value) in str(caught.value) and "None" in str(caught.value)
    server = cy.StatelessServer(by_message, max_applications=7)
    with pytest.raises(error) as caught:
        server.max_applications = value
    assert repr(value) in str(caught.value) and "max_applications" in str(caught.value)
    assert server.max_applications == 7


def test_the_limit_may_be_changed(cy, run):
    """Raised, the limit evicts nobody; lowered, it holds from the next creation on; lifted, there is none."""

    async def main():
        server = silent(cy, max_applications=5)
        for number in range(5):
            make(server, number)
        await passes(3)
        server.max_applications = 8
        for number in range(5, 8):
            make(server, number)
        await passes(3)
        assert list(server.application_instances) == list(range(8))
        server.max_applications = 3
        make(server, 8)
        await passes(3)
        assert list(server.application_instances) == [6, 7, 8]
        server.max_applications = None
        for number in range(9, 20):
            make(server, number)
        assert list(server.application_instances) == list(range(6, 20))

    run(main())


def test_what_others_write_counts(cy, run):
    """Entries that were written over the limit go, oldest first, when the next instance is made."""

    async def main():
        server = silent(cy, max_applications=3)
        for number in range(6):
            future = asyncio.get_running_loop().create_future()
            entry = {"input_queue": None, "future": future, "scope": {}, "last_used": time.time()}
            server.application_instances[number] = entry
        make(server, "new")
        assert list(server.application_instances) == [4, 5, "new"]

    run(main())


# Creations that fail


def test_an_unhashable_id_touches_nothing(impl, run):
    """An id that cannot be hashed is a TypeError and costs nobody a place."""

    async def main():
        server = impl.StatelessServer(by_message, max_applications=3)
        for number in range(5):
            make(server, number)
        before = list(server.application_instances.items())
        for wrong in ([], {}, {1}, ([],)):
            with pytest.raises(TypeError):
                make(server, wrong)
        assert list(server.application_instances.items()) == before

    run(main())


@pytest.mark.parametrize("why", ["not callable", "task factory", "hash"])
def test_a_creation_that_fails_costs_nobody_a_place(cy, run, why):
    """The new instance is built before anything is evicted: when that fails, all that lived live on."""

    async def main():
        class Server(cy.StatelessServer):
            def delete_application_instance(self, scope_id):
                raise AssertionError("nobody is to go")

        def failing_factory(loop, coroutine, **kwargs):
            coroutine.close()
            raise OSError("on purpose")

        class OddHash:
            def __hash__(self):
                raise OSError("on purpose")

        server = Server(by_message, max_applications=3)
        for number in range(3):
            make(server, number)
        await passes(3)
        before = list(server.application_instances.items())
        match why:
            case "not callable":
                server.application = None
            case "task factory":
                asyncio.get_running_loop().set_task_factory(failing_factory)
        with pytest.raises((TypeError, OSError)):
            make(server, OddHash() if why == "hash" else "new").put_nowait("message")
        asyncio.get_running_loop().set_task_factory(None)
        assert list(server.application_instances.items()) == before
        await passes(3)
        assert not any(instance["future"].done() for instance in server.application_instances.values())

    run(main())


def test_the_reference_evicts_for_nothing(reference, run):
    """What the rule above is for: in the reference somebody goes for a creation that then fails."""

    async def main():
        server = reference(by_message, max_applications=2)
        for number in range(3):
            make(server, number)

        async def two_parameters(scope, receive):
            raise AssertionError("never called")

        server.application = two_parameters
        with pytest.raises(TypeError):
            make(server, "new")
        assert list(server.application_instances) == [1, 2]

    run(main())
