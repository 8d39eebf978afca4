"""What the sender of a tracked message is told: taken, and then done, failed, cancelled or undelivered."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from functools import partial

import pytest

from support.instances import by_message, make, silent
from support.loops import passes
from support.serving import eventually


class Sender:
    """Puts tracked messages, and notes what it is told of each."""

    def __init__(self, cy):
        self.cy = cy
        self.told = []

    def tracked(self, message):
        return self.cy.Tracked(message, lambda outcome, error: self.told.append((message, outcome, error)))

    def put(self, instance, *messages):
        for message in messages:
            instance.put_nowait(self.tracked(message))

    @property
    def outcomes(self):
        return [(message, outcome) for message, outcome, _ in self.told]


def test_taken_and_done(cy, run):
    """The next receive() in the same task is it, and at the end the return."""

    async def main():
        sender, instance = Sender(cy), make(silent(cy))
        sender.put(instance, "one", "two", "return")
        assert sender.told == []
        await eventually(lambda: instance.ended)
        assert sender.outcomes == [
            ("one", "taken"),
            ("one", "done"),
            ("two", "taken"),
            ("two", "done"),
            ("return", "taken"),
            ("return", "done"),
        ]
        assert {error for _, _, error in sender.told} == {None}

    run(main())


def test_a_woken_application(cy, run):
    async def main():
        sender, instance = Sender(cy), make(silent(cy))
        await passes(3)
        assert instance.idle
        for message in "abc":
            sender.put(instance, message)
            await passes(3)
            assert sender.outcomes[-2:] == [(message, "taken"), (message, "done")]
        instance.server.delete_application_instance("id")

    run(main())


def test_the_application_gets_the_message_alone(cy, run):
    """Whoever looks at what is in flight does, too, and so do the hooks."""

    async def main():
        seen = []

        class Server(type(silent(cy))):
            def application_undelivered(self, messages, details):
                seen.append((messages, details.in_flight))

        async def application(scope, receive, send):
            seen.append(await receive())
            await asyncio.get_running_loop().create_future()

        server = Server(application)
        sender, instance = Sender(cy), make(server)
        sender.put(instance, "one", "two")
        await passes(3)
        assert instance.in_flight == ("one",)
        server.delete_application_instance("id")
        await eventually(lambda: len(seen) == 2)
        assert seen == ["one", (["two"], ("one",))]

    run(main())


def test_failed(cy, run):
    async def main():
        server = silent(cy)
        sender, instance = Sender(cy), make(server)
        sender.put(instance, "one", "fail", "two")
        await eventually(lambda: instance.ended)
        message, outcome, error = sender.told[-1]
        assert (message, outcome, str(error)) == ("fail", "failed", "on purpose")
        server.delete_application_instance("id")
        assert sender.outcomes[2:] == [("fail", "taken"), ("fail", "failed"), ("two", "undelivered")]

    run(main())


def test_told_when_the_run_is_over(cy, run):
    """So that whoever is told may ask for another instance at once."""

    async def main():
        server = silent(cy)
        first = make(server)
        fresh = []

        def told(outcome, error):
            if outcome == "failed":
                fresh.append(make(server))
                fresh[0].put_nowait("return")

        first.put_nowait(cy.Tracked("fail", told))
        await eventually(lambda: fresh and fresh[0].ended)
        assert fresh[0] is not first
        assert (first.outcome, fresh[0].outcome) == ("failed", "returned")

    run(main())


@pytest.mark.parametrize("how", ["deleted", "evicted"])
def test_cancelled(cy, run, how):
    async def main():
        server = silent(cy, max_applications=1)
        sender, instance = Sender(cy), make(server)
        sender.put(instance, "busy", "left")
        await passes(3)
        if how == "evicted":
            make(server, "other")
        else:
            server.delete_application_instance("id")
        await eventually(lambda: instance.ended)
        assert sorted(sender.outcomes) == [("busy", "cancelled"), ("busy", "taken"), ("left", "undelivered")]
        assert any(isinstance(error, asyncio.CancelledError) for _, _, error in sender.told)
        server.delete_application_instance("other")

    run(main())


def test_put_after_the_end(cy, run):
    async def main():
        server = silent(cy)
        sender, instance = Sender(cy), make(server)
        instance.put_nowait("return")
        await eventually(lambda: instance.ended)
        sender.put(instance, "late")
        server.delete_application_instance("id")
        sender.put(instance, "later")
        assert sender.outcomes == [("late", "undelivered"), ("later", "undelivered")]
        await eventually(lambda: server.stats()["undelivered"] == 2)

    run(main())


def test_the_successor_gets_it(cy, run):
    """What is handed on is not undelivered: its sender hears of it when the successor has it."""

    async def main():
        server = silent(cy)
        server.undelivered_to = "successor"
        sender, instance = Sender(cy), make(server)
        checker = asyncio.create_task(server.application_checker())
        sender.put(instance, "fail", "one")
        await eventually(lambda: ("one", "done") in sender.outcomes)
        assert sender.outcomes == [("fail", "taken"), ("fail", "failed"), ("one", "taken"), ("one", "done")]
        server.delete_application_instance("id")
        checker.cancel()
        await asyncio.wait({checker})

    run(main())


def test_taken_by_somebody_else(cy, run):
    """Whoever takes a message from the queue answers for it."""

    async def main():
        server = silent(cy)
        sender, instance = Sender(cy), make(server)
        sender.put(instance, "one", "two", "three")
        assert instance.get_nowait() == "one"
        assert await instance.get() == "two"
        assert sender.outcomes == [("one", "taken"), ("one", "done"), ("two", "taken"), ("two", "done")]
        assert instance.take_all() == ["three"]
        assert sender.outcomes[-1] == ("three", "undelivered")
        server.delete_application_instance("id")

    run(main())


def test_child_tasks(cy, run):
    """Each has its own message, until it comes back for the next one."""

    async def main():
        async def work(receive):
            while await receive() != "hold":
                pass
            await asyncio.get_running_loop().create_future()

        async def application(scope, receive, send):
            async with asyncio.TaskGroup() as group:
                group.create_task(work(receive))
                group.create_task(work(receive))

        server = silent(cy, application)
        sender, instance = Sender(cy), make(server)
        for message in ("one", "hold", "two", "three"):
            sender.put(instance, message)
            await passes(4)
        assert sorted(sender.outcomes) == [
            ("hold", "taken"),
            ("one", "done"),
            ("one", "taken"),
            ("three", "done"),
            ("three", "taken"),
            ("two", "done"),
            ("two", "taken"),
        ]
        server.delete_application_instance("id")
        await eventually(lambda: instance.ended)
        assert sender.outcomes[-1] == ("hold", "cancelled")

    run(main())


@pytest.mark.parametrize("own_first", [False, True])
def test_a_child_task_that_fails(cy, run, own_first):
    """What it had is done when the application, which has dealt with the failure, comes back for more."""

    async def main():
        async def fail(receive):
            raise ValueError(await receive())

        async def application(scope, receive, send):
            if own_first:
                await receive()
            await asyncio.wait([asyncio.create_task(fail(receive))])
            await receive()
            await asyncio.get_running_loop().create_future()

        server = silent(cy, application)
        sender, instance = Sender(cy), make(server)
        for message in ("own",) * own_first + ("child", "after"):
            sender.put(instance, message)
            await passes(8)
        assert ("child", "done") in sender.outcomes
        assert sender.outcomes[-1] == ("after", "taken")
        server.delete_application_instance("id")
        await eventually(lambda: instance.ended)
        assert sender.outcomes[-1] == ("after", "cancelled")
        assert len(sender.outcomes) == 4 + 2 * own_first

    run(main())
    # The failure of the child task, at which nobody looks.
    run.complaints.clear()


def test_two_calls_in_one_task(cy, run):
    """Whoever awaits two of them has the last message that came: the other one is done."""

    async def main():
        async def application(scope, receive, send):
            first, second = receive(), receive()
            await first
            await second
            await asyncio.get_running_loop().create_future()

        server = silent(cy, application)
        sender, instance = Sender(cy), make(server)
        sender.put(instance, "one", "two")
        await passes(4)
        assert sorted(sender.outcomes) == [("one", "done"), ("one", "taken"), ("two", "taken")]
        server.delete_application_instance("id")
        await eventually(lambda: instance.ended)
        assert sender.outcomes[-1] == ("two", "cancelled")

    run(main())


def test_the_sender_may_put_the_next_one(cy, run):
    """Told from within receive(), it puts a message, which that call returns."""

    async def main():
        seen = []

        async def application(scope, receive, send):
            while True:
                seen.append(await receive())

        server = silent(cy, application)
        instance = make(server)
        left = list(range(1, 50))

        def told(outcome, error):
            if outcome == "done" and left:
                instance.put_nowait(cy.Tracked(left.pop(0), told))

        instance.put_nowait(cy.Tracked(0, told))
        await eventually(lambda: len(seen) == 50)
        assert seen == list(range(50))
        server.delete_application_instance("id")

    run(main())


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()])
def test_what_a_sender_raises_is_logged(cy, run, caplog, error):
    async def main():
        def told(outcome, _):
            raise error

        instance = make(silent(cy))
        instance.put_nowait(cy.Tracked("one", told))
        instance.put_nowait(cy.Tracked("return", told))
        await eventually(lambda: instance.ended)
        assert instance.outcome == "returned"

    run(main())
    assert [record.message for record in caplog.records if "could not be told" in record.message] == [
        "the outcome 'taken' of <cyasgi.Tracked 'one'> could not be told",
        "the outcome 'done' of <cyasgi.Tracked 'one'> could not be told",
        "the outcome 'taken' of <cyasgi.Tracked 'return'> could not be told",
        "the outcome 'done' of <cyasgi.Tracked 'return'> could not be told",
    ]


def test_an_interrupt_goes_through_the_loop(cy, run):
    async def main():
        def told(outcome, _):
            if outcome == "taken":
                raise SystemExit(7)

        instance = make(silent(cy))
        instance.put_nowait(cy.Tracked("one", told))
        await passes(10)
        instance.server.delete_application_instance("id")
        await passes(3)

    with contextlib.closing(run.loop_factory()) as loop:
        task = loop.create_task(main())
        with pytest.raises(SystemExit, match="7"):
            loop.run_until_complete(task)
        loop.run_until_complete(task)


def test_a_closed_loop(cy, run):
    """What was in flight when the loop was closed is cancelled when the server is used again."""
    server = silent(cy)
    sender = Sender(cy)

    async def begin():
        sender.put(make(server), "busy", "left")
        await passes(3)

    async def go_on():
        make(server)
        server.delete_application_instance("id")
        await passes(3)

    loop = run.loop_factory()
    with contextlib.closing(loop):
        loop.run_until_complete(begin())
    run(go_on())
    assert sorted(sender.outcomes) == [("busy", "cancelled"), ("busy", "taken"), ("left", "undelivered")]


def test_waiting_for_room(cy, run):
    """One that waits for room has no outcome before it is in the queue, and none if its put is cancelled."""

    async def main():
        server = silent(cy)
        server.max_queue_size = 1
        sender, instance = Sender(cy), make(server)
        sender.put(instance, "busy")
        await passes(3)
        sender.put(instance, "one")
        waiting = asyncio.create_task(instance.put(sender.tracked("two")))
        given_up = asyncio.create_task(instance.put(sender.tracked("three")))
        await passes(3)
        given_up.cancel()
        await passes(2)
        assert sender.outcomes == [("busy", "taken")]
        server.delete_application_instance("id")
        await waiting
        await eventually(lambda: len(sender.told) == 4)
        assert sorted(sender.outcomes[1:]) == [("busy", "cancelled"), ("one", "undelivered"), ("two", "undelivered")]

    run(main())


def test_by_thread(cy, run):
    async def main():
        sender, instance = Sender(cy), make(silent(cy, by_message))
        future = await asyncio.to_thread(instance.put_threadsafe, sender.tracked("return"))
        await asyncio.wrap_future(future)
        await eventually(lambda: instance.ended)
        assert sender.outcomes == [("return", "taken"), ("return", "done")]

    run(main())


@pytest.mark.parametrize("outcome", ["taken", "done", "failed", "cancelled", "undelivered"])
@pytest.mark.parametrize("deed", ["delete", "take", "put", "get", "new", "collect"])
def test_whatever_a_sender_does_when_it_is_told(cy, run, outcome, deed):
    """The queue is in order before it tells anybody: each outcome still comes once."""

    async def main():
        server = silent(cy)
        told, instances = [], [make(server)]

        def notes(message, kind, error):
            told.append((message, kind))
            if kind != outcome or len(told) > 50:
                return
            instance = instances[-1]
            match deed:
                case "delete":
                    server.delete_application_instance("id")
                case "take":
                    instance.take_all()
                case "put":
                    instance.put_nowait("x")
                    server.get_or_create_application_instance("other", {}).put_nowait("return")
                case "get" if not instance.empty():
                    instance.get_nowait()
                case "new":
                    instances.append(make(server))
                case "collect":
                    gc.collect()

        for message in ("one", "two", "fail", "left"):
            instances[0].put_nowait(cy.Tracked(message, partial(notes, message)))
        await passes(6)
        instances[-1].put_nowait(cy.Tracked("busy", partial(notes, "busy")))
        await passes(6)
        for scope_id in ("id", "other") * 3:
            # What it tells may have made another one.
            server.delete_application_instance(scope_id)
            await passes(3)
        assert all(instance.ended for instance in instances)
        last_words = [message for message, kind in told if kind != "taken"]
        assert sorted(last_words) == sorted(set(last_words))
        assert {"one", "two", "fail", "left"} <= set(last_words)

    run(main())
