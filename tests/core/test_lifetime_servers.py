"""A server that is dropped is gone: at once if its instances have ended, else with the next collection."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from support.lifetime import alive, each_end, make, no_collector as no_collector, server_of
from support.loops import passes


@each_end
def test_a_dropped_server_dies(cy, run, no_collector, end):
    """A server whose instances have ended dies with the last reference to it, and its application with it."""

    async def main():
        server = server_of(cy, [])
        references = [weakref.ref(server), weakref.ref(server.application)]
        await end(server)
        for scope_id in list(server.application_instances):
            await server.delete_application_instance(scope_id)
        await passes(6)
        del server
        assert alive(references) == []

    run(main())


def test_a_server_that_was_never_used_dies(cy, run, no_collector):
    """Made and dropped, with its table looked at or not, a server is gone."""

    async def main():
        for look in (False, True):
            server = server_of(cy, [])
            if look:
                assert len(server.application_instances) == 0 and server.stats()["live"] == 0
            references = [weakref.ref(server), weakref.ref(server.application)]
            del server
            assert alive(references) == []

    run(main())


def test_a_server_with_instances_that_wait_is_collected(impl, run):
    """A server that is dropped with its instances waiting goes with the next collection, as the reference's does."""

    async def main():
        async def application(scope, receive, send):
            await receive()

        server = impl.StatelessServer(application)
        references = [weakref.ref(server), weakref.ref(application)]
        for number in range(3):
            make(server, number)
        await passes(4)
        del server, application
        gc.collect()
        await passes(3)
        # That tasks are destroyed while they wait is what dropping them means; what was told of them keeps them.
        assert all("destroyed" in complaint["message"] for complaint in run.complaints)
        run.complaints.clear()
        gc.collect()
        assert alive(references) == []

    run(main())


def test_settings_are_kept_for_no_server(cy, no_collector):
    """Classes that tune a server, and the servers made of them, are not remembered by the package."""

    def make_and_drop():
        class Tuned(cy.StatelessServer):
            max_queue_size = 5
            idle_timeout = 1.5
            shutdown_timeout = 2

        return weakref.ref(Tuned), weakref.ref(Tuned(None))

    tuned, server = make_and_drop()
    assert server() is None
    # A class is a cycle in itself.
    gc.collect()
    assert tuned() is None


def test_a_server_dropped_with_live_instances_is_collected(cy, run):
    """A loop closed over live instances, and their server dropped: the collector takes it all, quietly, and whoever
    still holds an instance finds it whole."""

    async def application(scope, receive, send):
        while True:
            await receive()

    async def populate(server: Any) -> None:
        for number in range(20):
            server.get_or_create_application_instance(number, {})
        await passes(3)
        for details in server.application_instances.values():
            # What asyncio says of a task that it sees pending at its end is not the subject.
            details["future"]._log_destroy_pending = False

    def dropped(kept: range) -> tuple[weakref.ref[Any], list[Any]]:
        server = cy.StatelessServer(application)
        loop = run.loop_factory()
        loop.run_until_complete(populate(server))
        loop.close()
        return weakref.ref(server), [server.application_instances[number] for number in kept]

    for kept in (range(0), range(1), range(19, 20), range(5, 15)):
        server, instances = dropped(kept)
        gc.collect()
        assert [instance.scope_id for instance in instances] == list(kept)
        for instance in instances:
            assert instance["last_used"] > 0
            instance.put_nowait("to nobody")
        del instances[:]
        if kept:
            del instance
        gc.collect()
        assert server() is None
