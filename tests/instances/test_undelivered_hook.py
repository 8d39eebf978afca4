"""The hook application_undelivered itself: what it may do, when it is called, and that it gets each message once."""

from __future__ import annotations

import logging

import pytest

from support.loops import passes
from support.serving import checking, deaf, dies_of_the_first, eventually, in_time, left, one_shot, quiet


def test_hook_that_raises_is_logged_and_stops_nothing(cy, run, caplog):
    """An error in the hook is logged; neither the deletion, nor the checker, nor the server is stopped by it."""

    class Server(quiet(cy.StatelessServer)):
        def application_undelivered(self, messages, details):
            raise LookupError("the hook is broken")

        async def handle(self):
            for _ in range(2):
                details = self.get_or_create_application_instance("a", {})
                details.put_nowait("killer")
                details.put_nowait("rest")
                await in_time(lambda: "a" not in self.application_instances)
            self.get_or_create_application_instance("b", {}).put_nowait("last")
            await self.delete_application_instance("b")

    async def main():
        await Server(dies_of_the_first).arun()

    with caplog.at_level(logging.WARNING):
        run(main())
    complaints = [record for record in caplog.records if "the hook is broken" in caplog.handler.format(record)]
    assert len(complaints) == 3
    assert {record.name for record in complaints} == {"cyasgi.server"}


def test_hook_may_be_async(cy, run):
    """The hook may be an `async def`, as every other hook may: it is run to its end."""
    kept = []

    class Server(quiet(cy.StatelessServer)):
        async def application_undelivered(self, messages, details):
            await passes(3)
            kept.extend(messages)

    async def main():
        server = Server(deaf)
        server.get_or_create_application_instance("a", {}).put_nowait("kept")
        await passes(5)
        await server.delete_application_instance("a")
        await eventually(lambda: kept == ["kept"])

    run(main())


def test_hook_may_feed_the_next_instance(cy, run):
    """The hook can put what was left into a fresh instance of the same id, in order."""
    received = []

    class Server(quiet(cy.StatelessServer)):
        def application_undelivered(self, messages, details):
            fresh = self.get_or_create_application_instance(details.scope_id, details["scope"])
            for message in messages:
                fresh.put_nowait(message)

    async def application(scope, receive, send):
        received.append(await receive())

    async def main():
        server = Server(application)
        details = server.get_or_create_application_instance("a", {})
        for number in range(5):
            details.put_nowait(number)
        async with checking(server):
            await in_time(lambda: len(received) == 5)
        assert received == list(range(5))

    run(main())


def test_default_hook_logs_the_number(cy, run, caplog):
    """Unless overridden, the hook logs one WARNING on `cyasgi.server` that says how many messages were left."""

    class Server(cy.StatelessServer):
        async def application_send(self, scope, message):
            pass

    async def main():
        server = Server(deaf)
        details = server.get_or_create_application_instance("a", {})
        for number in range(37):
            details.put_nowait({"type": "test", "secret": number})
        await passes(5)
        await server.delete_application_instance("a")
        await passes(5)

    with caplog.at_level(logging.DEBUG):
        run(main())
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.name == "cyasgi.server"
    assert record.levelno == logging.WARNING
    assert "37" in record.getMessage()


def test_hook_is_not_called_for_nothing(cy, run):
    """An instance that ends with an empty queue does not trouble the hook, whichever way it ends."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot, 2)
        async with checking(server):
            server.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "a" not in server.application_instances)
            server.get_or_create_application_instance("b", {})
            await passes(5)
            await server.delete_application_instance("b")
            for name in "cdef":
                server.get_or_create_application_instance(name, {})
                await passes(5)
        assert server.undelivered == []

    run(main())


def test_each_message_once(cy, run):
    """No message is handed on twice, whatever happens to a record after its instance has ended."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        details = server.get_or_create_application_instance("a", {})
        for number in range(3):
            details.put_nowait(number)
        await eventually(lambda: details["future"].done())
        server.delete_application_instance("a")
        server.delete_application_instance("a")
        server.get_or_create_application_instance("a", {})
        async with checking(server):
            await passes(20)
        await server.delete_application_instance("a")
        await passes(5)
        assert left(server) == [1, 2]

    run(main())


def test_left_messages_stay_readable_until_the_record_goes(cy, run):
    """What a finished run left can still be read from its queue; only the rest goes to the hook in the end."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        details = server.get_or_create_application_instance("a", {})
        for number in range(4):
            details.put_nowait(number)
        await eventually(lambda: details["future"].done())
        assert details.qsize() == 3
        assert details.get_nowait() == 1
        assert server.undelivered == []
        await server.delete_application_instance("a")
        await eventually(lambda: left(server) == [2, 3])

    run(main())


@pytest.mark.parametrize("when", ["before", "after"])
def test_record_taken_out_by_hand(cy, run, when):
    """A record that is only taken out of the table, before its run ends or after, gives what it leaves all the same."""

    async def main():
        server = quiet(cy.StatelessServer)(one_shot)
        details = server.get_or_create_application_instance("a", {})
        if when == "before":
            assert server.application_instances.pop("a") is details
        details.put_nowait("read")
        details.put_nowait("left")
        await eventually(lambda: details["future"].done())
        if when == "after":
            del server.application_instances["a"]
        await eventually(lambda: left(server) == ["left"])

    run(main())
