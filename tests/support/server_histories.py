"""A server and a plain model of what it promises, which go through the same history at random."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support.history_steps import IDLE_TIMEOUT, LIMITS, STEPS
from support.loops import passes
from support.property_model import Boom, Entry, Instance


class Histories(RuleBasedStateMachine):
    """A server and its model go through the same history."""

    cy: ClassVar[Any]
    new_loop: ClassVar[Callable[[], asyncio.AbstractEventLoop]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.new_loop()
        gc.freeze()
        self.complaints: list[dict[str, Any]] = []
        complain = self.complaints.append
        self.handled = sys.exc_info()[1]
        self.loop.set_exception_handler(lambda loop, context: complain(context))
        #: What a hook found wrong: raised from there it would only reach the server.
        self.problems: list[str] = []
        self.numbers = itertools.count(1)
        self.instances: dict[int, Instance] = {}
        self.entries: list[Entry] = []
        #: The table as it has to be, in any order; `ordered` puts the oldest first.
        self.table: dict[str, Entry] = {}
        self.running: dict[str, set[Instance]] = {}
        self.creating: list[Instance | None] = []
        self.deleting: list[str] = []
        self.renewed: Entry | None = None
        self.evicting = 0
        self.reused = 0
        self.checker: asyncio.Task[None] | None = None
        self.begun = False

    @initialize(limit=LIMITS, max_queue_size=st.sampled_from([0, 0, 1, 3]), checker=st.booleans())
    def begin(self, limit: int | None, max_queue_size: int, checker: bool) -> None:
        self.server = recording_server(self)(self.application, limit)
        self.server.max_queue_size = max_queue_size
        # Far apart: what has finished wakes the checker, and `sweep` makes the rest happen when it is wanted.
        self.server.application_checker_interval = 3600
        self.begun = True
        if checker:
            self.start_or_stop_checker()

    # --- The loop

    @contextmanager
    def inside(self) -> Iterator[None]:
        """As in a callback of the loop, of which many can run between two turns."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turn(self, count: int) -> None:
        # Not run_until_complete(): around what it is given it lets the loop turn twice more.
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    # --- The model

    async def application(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        instance = self.instances[scope["number"]]
        together = self.running.setdefault(instance.scope_id, set())
        # Whoever takes one out of the table by hand leaves two of the same id behind.
        if instance.removed != "hand" and any(other.removed != "hand" for other in together):
            self.problems.append(f"two applications of {instance.scope_id} run at once")
        together.add(instance)
        await instance.work(receive, send)

    def ordered(self) -> list[Entry]:
        return sorted(self.table.values(), key=lambda entry: entry.key)

    def used(self, entry: Entry) -> None:
        entry.key = (1, next(self.numbers))

    def victims(self) -> list[Entry]:
        """Whom making room may take: a finished one, else the first idle one, else the least recently used."""
        asking = self.creating[-1] if self.creating else None
        entries = [entry for entry in self.ordered() if entry is not asking] or self.ordered()
        allowed = [entry for entry in entries if entry.ended]
        # Nobody tells the server when the future in a plain dict is done: it may have missed that.
        if not all(entry.foreign for entry in allowed):
            return allowed
        for entry in entries:
            if entry.idle:
                return [*allowed, entry]
            if entry.perhaps_idle:
                allowed.append(entry)
        return [*allowed, entries[0]]

    def passing(self, scope_id: str) -> None:
        """Called by the subclass's delete_application_instance: is this one allowed to go, and for the first time?"""
        entry = self.table.get(scope_id)
        if entry is None or self.server.application_instances.get(scope_id) is not entry.handle:
            if entry is not None or scope_id not in self.deleting:
                self.problems.append(f"{scope_id} was deleted but the table has another entry, or none")
            return
        entry.passed += 1
        if scope_id not in self.deleting:
            limit = self.server.max_applications
            old = self.server.idle_timeout is not None and entry.key[0] == 0
            if self.evicting:
                if limit is None or len(self.table) < limit + (not self.creating):
                    self.problems.append(f"{scope_id} was evicted although there was room")
                if entry not in self.victims():
                    self.problems.append(f"{scope_id} was evicted, not one of {[e.scope_id for e in self.victims()]}")
            elif not entry.ended and not (old and entry.perhaps_idle) and entry is not self.renewed:
                self.problems.append(f"{scope_id} was deleted for no reason")
            else:
                entry.reaped = True
        entry.removed = "server"
        del self.table[scope_id]

    def take_out(self, scope_id: str) -> None:
        entry = self.table.pop(scope_id, None)
        if entry is not None:
            entry.removed = "hand"

    def get_or_create(self, scope_id: str, asking: Instance | None = None) -> Instance | None:
        """None if what stands in the table under this id is a plain dict that can be fed."""
        known = self.table.get(scope_id)
        # A plain dict without a queue is of no use to a feeder: it is replaced like one that has ended.
        reused = known is not None and not known.ended and "input_queue" in known.handle
        number = next(self.numbers)
        self.creating.append(asking)
        self.renewed = None if reused else known
        handle = self.server.get_or_create_application_instance(scope_id, {"type": "test", "number": number})
        self.renewed = None
        self.creating.pop()
        if known is not None and reused:
            if handle is not known.handle["input_queue"]:
                self.problems.append(f"{scope_id} was renewed although its run goes on")
            self.reused += 1
            self.used(known)
            return known if isinstance(known, Instance) else None
        if known is not None and known.removed is None:
            self.problems.append(f"{scope_id} was handed out after its end")
        instance = self.instances[number] = Instance(self, scope_id, handle, number)
        self.entries.append(instance)
        self.table[scope_id] = instance
        limit = self.server.max_applications
        if limit is not None and len(self.server.application_instances) > limit:
            self.problems.append(f"{len(self.server.application_instances)} entries at a limit of {limit}")
        return instance

    def delete(self, scope_id: str) -> Any:
        was_there = scope_id in self.table
        self.deleting.append(scope_id)
        done = self.server.delete_application_instance(scope_id)
        self.deleting.pop()
        if scope_id in self.server.application_instances:
            self.problems.append(f"{scope_id} is still there after it was deleted")
        return was_there, done

    def feed(self, instance: Instance, what: str, other_id: str) -> None:
        number = next(self.numbers)
        full = instance.handle.full()
        try:
            instance.handle.put_nowait({"type": "test.message", "number": number, "do": what, "other_id": other_id})
        except asyncio.QueueFull:
            assert full and not instance.ended
        else:
            assert not full or instance.ended
            instance.accepted.add(number)

    # --- What can happen

    @rule(steps=st.lists(STEPS, min_size=1, max_size=12))
    def happens(self, steps: list[tuple[Any, ...]]) -> None:
        for name, *parameters in steps:
            getattr(self, name)(*parameters)
            self.every_promise_is_kept()

    def create(self, scope_id: str) -> None:
        with self.inside():
            self.get_or_create(scope_id)

    def send(self, scope_id: str, what: str, other_id: str) -> None:
        with self.inside():
            instance = self.get_or_create(scope_id)
            if instance is not None:
                self.feed(instance, what, other_id)

    def kept(self, which: int) -> Instance | None:
        """An instance that somebody still has, newest first; it may have ended or left the table."""
        instances = list(self.instances.values())[::-1]
        return instances[which % len(instances)] if instances else None

    def send_to_kept(self, which: int, what: str, other_id: str) -> None:
        instance = self.kept(which)
        if instance is not None:
            with self.inside():
                self.feed(instance, what, other_id)

    def put_to_kept(self, which: int) -> None:
        """A feeder that waits for room in the queue."""
        instance = self.kept(which)
        if instance is None:
            return
        number = next(self.numbers)

        async def feeder() -> None:
            await instance.handle.put({"type": "test.message", "number": number, "do": "answer"})
            instance.pending.discard(number)
            instance.accepted.add(number)

        instance.awaited.add(number)
        instance.pending.add(number)
        self.loop.create_task(feeder())

    def release(self, which: int) -> None:
        """An application that waits for something else than a message goes on."""
        waiting = [instance.gate for instance in self.instances.values() if instance.gate and not instance.gate.done()]
        if waiting:
            waiting[which % len(waiting)].set_result(None)

    def cancel_task(self, which: int) -> None:
        entries = [entry for entry in self.ordered() if isinstance(entry, Instance) and not entry.ended]
        if entries:
            with self.inside():
                entries[which % len(entries)].cancel_asked = True
                entries[which % len(entries)].handle["future"].cancel()

    def delete_one(self, scope_id: str, wait: bool) -> None:
        with self.inside():
            was_there, done = self.delete(scope_id)
            if wait:

                async def waiter() -> None:
                    if await done is not was_there:
                        self.problems.append(f"deleting {scope_id} did not give {was_there}")

                self.loop.create_task(waiter())

    def delete_and_send(self, scope_id: str, what: str, other_id: str) -> None:
        """A namesake comes while the old application still cleans up."""
        self.delete_one(scope_id, False)
        self.send(scope_id, what, other_id)

    def del_from_table(self, which: int) -> None:
        """Only removes; the application goes on."""
        entries = self.ordered()
        if entries:
            with self.inside():
                del self.server.application_instances[entries[which % len(entries)].scope_id]
            self.take_out(entries[which % len(entries)].scope_id)

    def write_plain_dict(self, scope_id: str, what: str) -> None:
        handle: dict[str, Any] = {}
        if what != "empty":
            handle.update(input_queue=asyncio.Queue(), scope={"type": "test"}, last_used=time.time())
        if what not in ("empty", "no future"):
            future = handle["future"] = self.loop.create_future()
            if what == "finished":
                future.set_result(None)
            elif what == "failed":
                future.set_exception(Boom("in a plain dict"))
                # Marks it as retrieved, so that the loop does not complain of it.
                future.exception()
            elif what == "cancelled":
                future.cancel()
        self.take_out(scope_id)
        with self.inside():
            self.server.application_instances[scope_id] = handle
        entry = self.table[scope_id] = Entry(self, scope_id, handle, next(self.numbers))
        self.entries.append(entry)

    def assign_last_used(self, which: int, seconds: int) -> None:
        entries = [entry for entry in self.ordered() if not entry.foreign]
        # A tie would leave the order open.
        if entries and all(entry.key != (0, seconds) for entry in self.table.values()):
            with self.inside():
                entries[which % len(entries)].handle["last_used"] = seconds
            entries[which % len(entries)].long_unused(seconds)

    def grow_old(self, which: int, seconds: int) -> None:
        self.set("idle_timeout", IDLE_TIMEOUT)
        self.assign_last_used(which, seconds)
        self.sweep()

    def set(self, name: str, value: Any) -> None:
        with self.inside():
            setattr(self.server, name, value)

    def start_or_stop_checker(self) -> None:
        """Without it what has finished waits for somebody else to find it."""
        if self.checker is None:
            self.checker = self.loop.create_task(self.server.application_checker())
        else:
            self.checker.cancel()
            self.checker = None
        self.turn(2)

    def sweep(self) -> None:
        """A round of the checker by its timer, after which nothing is left that the server could tidy up."""
        self.turn(10)
        expires = self.server.idle_timeout is not None
        expired = [entry for entry in self.table.values() if expires and entry.idle_for_long]

        async def round_of_the_timer() -> None:
            self.server.application_checker_interval = 0.001
            second = self.loop.create_task(self.server.application_checker())
            for polls in range(50):
                await asyncio.sleep(0.001)
                left = [entry for entry in self.table.values() if entry.ended]
                left += [entry for entry in expired if entry.removed is None]
                if polls > 2 and not left:
                    break
            self.server.application_checker_interval = 3600
            second.cancel()
            await asyncio.wait([second])

        self.loop.run_until_complete(round_of_the_timer())
        self.turn(10)
        assert [entry.scope_id for entry in expired if entry.removed is None] == [], "idle for too long"
        self.check_settled()

    # --- What has to hold

    @invariant()
    def every_promise_is_kept(self) -> None:
        if self.begun:
            self.nothing_went_wrong()
            self.the_table_is_the_models()
            self.each_message_is_accounted_for()
            self.nothing_happens_twice()

    def nothing_went_wrong(self) -> None:
        assert not self.problems
        assert not self.complaints
        assert self.checker is None or not self.checker.done()

    def the_table_is_the_models(self) -> None:
        table = self.server.application_instances
        entries = self.ordered()
        assert list(table) == [entry.scope_id for entry in entries]
        assert len(table) == len(entries)
        assert all(table[entry.scope_id] is entry.handle and entry.scope_id in table for entry in entries)

    def each_message_is_accounted_for(self) -> None:
        """Accepted is delivered, still queued or undelivered; the hook itself may hear of the last a little later."""
        accepted = pending = there = 0
        for instance in self.instances.values():
            accepted += len(instance.accepted)
            pending += len(instance.pending)
            there += len(instance.delivered) + instance.handle.qsize()
            gone = [*instance.delivered, *instance.undelivered]
            assert len(set(gone)) == len(gone), "a message was given out twice"
            assert set(gone) <= instance.accepted | instance.pending, "a message came from nowhere"
            assert len(gone) + instance.handle.qsize() <= len(instance.accepted | instance.pending)
            for numbers in (instance.delivered, instance.undelivered):
                # A feeder that waited for room may be overtaken, as with asyncio.Queue.
                at_once = [number for number in numbers if number not in instance.awaited]
                assert at_once == sorted(at_once), "messages changed places"
        there += self.server.stats()["undelivered"]
        assert accepted <= there <= accepted + pending, "a message is lost, or there twice"

    def nothing_happens_twice(self) -> None:
        for entry in self.entries:
            assert entry.passed <= (entry.removed == "server")
            assert len(entry.reported) <= entry.failed

    def check_settled(self) -> None:
        """The loop has turned until nothing moves; what was allowed to be late has to be there now."""
        self.nothing_went_wrong()
        for entry in self.entries:
            assert entry.passed == (entry.removed == "server")
            if entry.foreign and entry.reaped:
                assert len(entry.reported) == entry.failed
            if entry.removed is None:
                assert not entry.ended, f"{entry.scope_id} has ended and is still in the table"
            if isinstance(entry, Instance):
                assert len(entry.reported) == entry.failed, f"{entry.scope_id} was not reported"
                if entry.ended or entry.receiving:
                    assert not entry.pending
                    assert entry.handle.qsize() == 0 == entry.queued
        instances = list(self.instances.values())
        stats = self.server.stats()
        assert stats["created"] == len(instances)
        assert stats["reused"] == self.reused
        # A plain dict that went the way of an instance may count as one.
        gone = sum(entry.foreign and entry.passed and entry.ended for entry in self.entries)
        for outcome in ("failed", "finished"):
            own = sum(instance.outcome == outcome for instance in instances)
            assert own <= stats[outcome] <= own + gone
        assert stats["undelivered"] == sum(len(instance.undelivered) for instance in instances)

    def teardown(self) -> None:
        try:
            # What failed already must not be hidden by what follows from it.
            if self.begun and sys.exc_info()[1] is self.handled:
                self.wind_up()
        finally:
            # More than once: some applications linger when they are cancelled. Only those that have taken a step: a
            # coroutine that never started would be warned of.
            known: set[asyncio.Task[Any]] = set()
            for _ in range(20):
                for task in known & asyncio.all_tasks(self.loop):
                    task.cancel()
                known = asyncio.all_tasks(self.loop)
                self.turn(1)
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
        # Everything of this history becomes garbage; to collect it is cheap, as nothing older is looked at.
        complaints = self.complaints
        self.__dict__.clear()
        gc.collect()
        assert not complaints

    def wind_up(self) -> None:
        """Everything is deleted and everybody let go: after that nothing is left."""
        if self.checker is None:
            self.start_or_stop_checker()
        with self.inside():
            for scope_id in list(self.table):
                self.delete(scope_id)
            for instance in self.instances.values():
                if instance.removed == "hand" and not instance.ended:
                    instance.cancel_asked = True
                    instance.handle["future"].cancel()
        for _ in range(10):
            for instance in self.instances.values():
                if instance.gate and not instance.gate.done():
                    instance.gate.set_result(None)
            self.turn(5)
        assert list(self.server.application_instances) == []
        self.check_settled()
        assert not any(instance.running for instance in self.instances.values())
        assert self.server.stats()["closing"] == 0
        self.start_or_stop_checker()
        assert asyncio.all_tasks(self.loop) == set()


def recording_server(machine: Histories) -> type:
    """A subclass that tells the machine what passes through its overrides and hooks."""

    def entry_of(details: Any) -> Any:
        return next(entry for entry in machine.entries if entry.handle is details)

    class Server(machine.cy.StatelessServer):  # type: ignore[misc, name-defined]
        def delete_application_instance(self, scope_id: str) -> Any:
            machine.passing(scope_id)
            return super().delete_application_instance(scope_id)

        def delete_oldest_application_instance(self) -> Any:
            machine.evicting += 1
            try:
                return super().delete_oldest_application_instance()
            finally:
                machine.evicting -= 1

        async def application_send(self, scope: Any, message: Any) -> None:
            await passes()

        async def application_exception(self, exception: BaseException, details: Any) -> None:
            entry_of(details).reported.append(exception)

        def application_undelivered(self, messages: list[Any], details: Any) -> None:
            entry_of(details).undelivered.extend(message["number"] for message in messages)

    return Server
