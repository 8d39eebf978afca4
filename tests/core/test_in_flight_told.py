"""How messages in flight are told: in the log lines of the hooks' defaults, and as an attribute of what hooks are
given."""

from __future__ import annotations

import asyncio
import logging

import pytest

from support.ends import make
from support.in_flight import obeying, telling
from support.loops import passes
from support.serving import deaf, eventually

IN_FLIGHT = ", and 1 in flight, begun and not finished"


def logged(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("messages", "lines"),
    [
        (
            ["work"],
            ["1 message in flight, begun and not finished, when the application of scope_id 'a' ended: deleted"],
        ),
        (
            ["work", 1, 2],
            ["2 undelivered messages were left in the queue of scope_id 'a'" + IN_FLIGHT],
        ),
        (["next", "next"], []),
        (["fail"], ["Exception inside application (scope_id 'a'): failed"]),
        (["return"], []),
    ],
)
def test_default_hooks(cy, run, caplog, messages, lines):
    """What was in flight is told once, in the line of the hook that tells of that end; a failure's says what failed."""

    class Server(cy.StatelessServer):
        async def application_send(self, scope, message):
            pass

    async def main():
        server = Server(obeying)
        instance = make(server)
        for message in messages:
            instance.put_nowait(message)
        await passes(6)
        server.delete_application_instance("a")
        await passes(6)

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert logged(caplog) == lines


def test_undelivered_is_not_called_for_nothing(cy, run, caplog):
    """An override of `application_undelivered` that looks at nothing but messages is never called without any: one that
    makes a successor would bring every instance back that is evicted at work."""
    lists = []

    class Server(cy.StatelessServer):
        async def application_send(self, scope, message):
            pass

        def application_undelivered(self, messages, details):
            lists.append(messages)
            successor = self.get_or_create_application_instance(details.scope_id, details["scope"])
            for message in messages:
                successor.put_nowait(message)

    async def main():
        server = Server(obeying, 2)
        for number in range(20):
            make(server, number).put_nowait("work")
            await passes(5)
        assert lists == []
        assert (server.stats()["created"], server.stats()["interrupted"]) == (20, 18)

    with caplog.at_level(logging.WARNING):
        run(main())
    # The two that are left are not told of: nobody has ended them.
    assert len(logged(caplog)) == 18


def test_plain_dicts(cy, run):
    """Entries that are plain dicts know nothing of messages in flight; the hooks' defaults do not mind."""

    async def main():
        server = cy.StatelessServer(deaf)
        queue = asyncio.Queue()
        queue.put_nowait("left")
        server.application_instances["a"] = {"input_queue": queue, "scope": {}}
        server.delete_application_instance("a")
        await passes(5)
        assert (server.stats()["undelivered"], server.stats()["interrupted"]) == (1, 0)

    run(main())


def test_own_key(cy, run):
    """A key "in_flight" that a caller has added to an instance is the caller's."""

    async def main():
        server = telling(cy.StatelessServer)(obeying)
        instance = make(server)
        instance["in_flight"] = "own"
        instance.put_nowait("work")
        await passes(4)
        server.delete_application_instance("a")
        await eventually(lambda: server.told)
        assert instance["in_flight"] == "own" and instance.in_flight == ("work",)

    run(main())
