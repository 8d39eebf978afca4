"""Hostile ids, messages and dicts, which do all they can when the core asks them: nothing crashes, and what was not
touched still works. The sanitizer runs these tests too: see `.ci/run`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from support.hostile import boom, collect, often as often, still_works
from support.instances import SCOPE, make
from support.loops import passes
from support.serving import eventually, one_shot, quiet, reader


class Id:
    """An id that may do something whenever it is hashed or compared."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_hash: Callable[[], object] | None = None
        self.on_eq: Callable[[], object] | None = None

    def __hash__(self) -> int:
        act, self.on_hash = self.on_hash, None
        if act is not None:
            act()
        return 7

    def __eq__(self, other: object) -> bool:
        act, self.on_eq = self.on_eq, None
        if act is not None:
            act()
        return isinstance(other, Id) and self.name == other.name

    def __repr__(self) -> str:
        return f"Id({self.name!r})"


# Ids


ACTS = {
    "raises": lambda server: boom(),
    "deletes another": lambda server: server.application_instances.pop("other", None),
    "clears": lambda server: server.application_instances.clear(),
    "creates": lambda server: make(server, "created"),
    "deletes itself": lambda server: [
        server.application_instances.remove(entry)
        for entry in server.application_instances.entries()
        if isinstance(entry.scope_id, Id)
    ],
    "evicts": lambda server: setattr(server, "max_applications", 1) or make(server, "evicting"),
    "walks": lambda server: list(server.application_instances.items()),
    "collects": lambda server: collect(),
}
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "get_or_create": lambda server, key: make(server, key),
    "delete": lambda server, key: server.delete_application_instance(key),
    "in": lambda server, key: key in server.application_instances,
    "get": lambda server, key: server.application_instances.get(key),
    "pop": lambda server, key: server.application_instances.pop(key, None),
    "del": lambda server, key: server.application_instances.__delitem__(key),
    "write": lambda server, key: server.application_instances.__setitem__(key, {"last_used": 5.0}),
    "remove": lambda server, key: [
        server.application_instances.remove(e) for e in server.application_instances.entries()
    ],
    "evict": lambda server, key: server.delete_oldest_application_instance(),
    "items": lambda server, key: list(server.application_instances.items()),
    "last_used": lambda server, key: setattr(make(server, "other"), "last_used", 1.0),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("act", ACTS)
def test_ids_that_act(cy: Any, often: Any, call: str, act: str) -> None:
    """When they are hashed and when they are compared, under both policies."""

    async def main(where: str, policy: str) -> None:
        class Server(quiet(cy.StatelessServer)):  # type: ignore[misc]
            eviction_policy = policy

        server = Server(reader, 5)
        stored, asking = Id("a"), Id("a")
        for _ in range(2):
            make(server, stored)
            make(server, "other")
        make(server, Id("b"))
        await passes(3)
        setattr(stored, where, lambda: ACTS[act](server))
        setattr(asking, where, lambda: ACTS[act](server))
        with contextlib.suppress(LookupError, RuntimeError, ValueError, TypeError):
            answer = CALLS[call](server, asking)
            if inspect.isawaitable(answer) and call != "get_or_create":
                await answer
        stored.on_hash = stored.on_eq = asking.on_hash = asking.on_eq = None
        table = server.application_instances
        assert len(list(table)) == len(table) == table.size()
        assert {id(entry.public) for entry in table.entries()} == {id(value) for value in table.values()}
        await still_works(server)

    for where, policy in itertools.product(("on_hash", "on_eq"), ("lru", "slru")):
        asyncio.run(often(main(where, policy)))
    collect()


def test_keys_of_details_that_act(cy: Any, run: Any, often: Any) -> None:
    """What callers add to an instance is a mapping of their own keys."""

    async def main() -> None:
        server = quiet(cy.StatelessServer)(reader)
        instance = make(server, "id")
        for call in (
            lambda key: instance[key],
            lambda key: instance.pop(key, None),
            lambda key: instance.__setitem__(key, 1),
            lambda key: instance.__delitem__(key),
            lambda key: key in instance,
            lambda key: instance.get(key),
            lambda key: instance.setdefault(key, 2),
        ):
            stored, asking = Id("a"), Id("a")
            instance[stored] = "value"
            asking.on_eq = stored.on_eq = instance.clear
            with contextlib.suppress(KeyError):
                call(asking)
            instance.clear()
        assert list(instance) == ["application", "future", "input_queue", "last_used", "scope"]

    run(often(main()))


# Messages


class Feeding:
    """A message that puts another one as it goes."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


def test_messages_that_feed_as_they_go(cy: Any, run: Any, often: Any) -> None:
    """None of those that were put is lost, and the order is that of the queue."""

    async def main() -> None:
        received: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            while True:
                message = await receive()
                if message == "end":
                    return
                received.append(message if isinstance(message, int) else None)

        server = quiet(cy.StatelessServer)(application)
        instance = make(server, "id")
        fed = []

        def feed(number: int) -> None:
            fed.append(number)
            instance.put_nowait(number)

        for number in range(40):
            instance.put_nowait(Feeding(lambda number=number: feed(number)))  # type: ignore[misc]
            if number % 3 == 0:
                await passes(1)
        await eventually(lambda: [item for item in received if item is not None] == fed and len(fed) == 40)
        instance.put_nowait("end")
        await eventually(lambda: instance.ended)

    run(often(main()))


@pytest.mark.parametrize("act", ["delete", "clear", "put", "take", "create"])
def test_messages_that_act_as_they_are_thrown_away(cy: Any, run: Any, often: Any, act: str) -> None:
    async def main() -> None:
        class Server(quiet(cy.StatelessServer)):  # type: ignore[misc]
            limit = 3

            def application_undelivered(self, *args: Any) -> None:
                pass

        server = Server(reader, Server.limit)

        def do() -> None:
            if act == "delete":
                server.application_instances.pop("b", None)
            elif act == "clear":
                server.application_instances.clear()
            elif act == "put":
                instance.put_nowait("again")
            elif act == "take":
                with contextlib.suppress(asyncio.QueueEmpty):
                    instance.get_nowait()
            else:
                make(server, "created")

        for scope_id in "abcd":
            instance = make(server, scope_id)
            for _ in range(20):
                instance.put_nowait(Feeding(do))
        await passes(5)
        for scope_id in "abcd":
            await server.delete_application_instance(scope_id)
        await passes(5)
        await still_works(server)

    run(often(main()))
    collect()


def test_a_collector_that_feeds_a_growing_queue(cy: Any, run: Any) -> None:
    """A collection may come where the queue makes room, and what it frees may put and take."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            if not busy:
                busy.append(True)
                with contextlib.suppress(asyncio.QueueEmpty):
                    taken.append(instance.get_nowait())
                instance.put_nowait(next(numbers))
                busy.pop()

    busy: list[bool] = []
    taken: list[int] = []
    numbers = iter(range(100_000))
    instance: Any = None

    async def main() -> None:
        nonlocal instance
        server = quiet(cy.StatelessServer)(one_shot)
        instance = make(server, "id")
        gc.set_threshold(1)
        for _ in range(300):
            Cycle()
            instance.put_nowait(next(numbers))
        collect()
        gc.set_threshold(700)
        busy.append(True)
        while instance.qsize():
            taken.append(instance.get_nowait())
        collect()

    before = gc.get_threshold()
    try:
        run(main())
    finally:
        gc.set_threshold(*before)
    assert sorted(taken) == list(range(len(taken)))
    assert len(taken) > 300


# Plain dicts


class Queue(asyncio.Queue[Any]):
    """One whose `empty()`, which making room asks for, does something first."""

    act: Callable[[], object] | None = None

    def empty(self) -> bool:
        if self.act is not None:
            self.act()
        return False


@pytest.mark.parametrize("policy", ["lru", "slru"])
@pytest.mark.parametrize("act", ["removes the next", "removes itself", "clears", "uses the next", "evicts", "assigns"])
@pytest.mark.parametrize("assigned", [True, False])
def test_plain_dicts_that_act_when_they_are_asked(
    cy: Any, run: Any, often: Any, policy: str, act: str, assigned: bool
) -> None:
    async def main() -> None:
        class Server(quiet(cy.StatelessServer)):  # type: ignore[misc]
            eviction_policy = policy
            limit = 6

        server = Server(reader, Server.limit)
        table = server.application_instances
        depth = []

        def do() -> None:
            if len(depth) > 3:
                return
            depth.append(True)
            others = [scope_id for scope_id in ("b", "c", "d") if table.entry(scope_id) is not None]
            try:
                if act == "removes the next" and others:
                    table.remove(table.entry(others[0]))
                elif act == "removes itself" and table.entry("a") is not None:
                    table.remove(table.entry("a"))
                elif act == "clears":
                    table.clear()
                elif act == "uses the next" and others:
                    table.touch(table.entry(others[0]))
                elif act == "evicts":
                    server.delete_oldest_application_instance().close()
                elif act == "assigns":
                    for scope_id in others:
                        table.entry(scope_id).public["last_used"] = 1.0
            finally:
                depth.pop()

        queue = Queue()
        plain = {"input_queue": queue, "scope": SCOPE}
        if assigned:
            plain["last_used"] = 1.0
        table["a"] = plain
        for scope_id in "bcd":
            make(server, scope_id)
        table["e"] = {"input_queue": Queue(), "last_used": 2.0}
        await passes(3)
        queue.act = do
        for scope_id in "fghijk":
            make(server, scope_id)
        queue.act = None
        assert len(list(table)) == len(table) <= 6
        await still_works(server)

    run(often(main()))
    collect()


# The table, changed while it is walked


@pytest.mark.parametrize("walk", ["keys", "values", "items", "reversed", "iter", "equal", "copy"])
@pytest.mark.parametrize("policy", ["lru", "slru"])
def test_a_table_that_is_changed_while_it_is_walked(cy: Any, run: Any, often: Any, walk: str, policy: str) -> None:
    async def main() -> None:
        class Server(quiet(cy.StatelessServer)):  # type: ignore[misc]
            eviction_policy = policy
            limit = 20

        server = Server(reader, Server.limit)
        table = server.application_instances
        for number in range(20):
            make(server, number)
        table["plain"] = {"last_used": 3.0}
        walking: Any = {
            "keys": lambda: iter(table.keys()),
            "values": lambda: iter(table.values()),
            "items": lambda: iter(table.items()),
            "reversed": lambda: reversed(table),
            "iter": lambda: iter(table),
            "equal": lambda: iter([table == dict(table)]),
            "copy": lambda: iter(table.copy()),
        }[walk]()
        changes: list[Callable[[], object]] = [
            lambda: make(server, "new"),
            lambda: table.clear(),
            lambda: collect(),
            lambda: make(server, "newer"),
        ]
        with contextlib.suppress(RuntimeError, KeyError):
            for step, _ in enumerate(walking):
                if step % 3 == 0 and changes:
                    changes.pop(0)()
        await still_works(server)

    run(often(main()))
    collect()


# Awaitables


@pytest.mark.slow
def test_awaitables_that_are_driven_by_hand(cy: Any, run: Any, often: Any) -> None:
    """`receive`, `send`, `get`, `put` and `join` from within the run, after its end, twice, and thrown into."""

    async def main() -> None:
        kept: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            kept.append((receive, send))
            for thing in (send, receive):
                for name in ("send", "close", "throw", "__next__", "result", "cancel"):
                    method = getattr(thing, name, None)
                    if method is not None and name != "close":
                        with contextlib.suppress(BaseException):
                            method(*((ValueError("thrown"),) if name == "throw" else (None,)))
            await receive()

        server = quiet(cy.StatelessServer)(application)
        for number in range(3):
            instance = make(server, number)
            instance.put_nowait("first")
            waiting = [instance.get(), instance.put(1), instance.join(), instance.get()]
            for thing in waiting:
                with contextlib.suppress(BaseException):
                    thing.send(None)
            await passes(3)
            for thing in waiting:
                for _ in range(2):
                    with contextlib.suppress(BaseException):
                        thing.send(None)
                with contextlib.suppress(BaseException):
                    thing.throw(ValueError("thrown"))
                with contextlib.suppress(BaseException):
                    thing.close()
            server.application_instances.pop(number, None)
            instance["future"].cancel()
            await passes(3)
            for receive, send in kept:
                for thing in (receive, send):
                    with contextlib.suppress(BaseException):
                        answer = thing() if thing is receive else thing({"type": "late"})
                        await answer
            del instance, waiting
            collect()
        kept.clear()
        await still_works(server)

    run(often(main()))
    collect()


@pytest.mark.slow
def test_a_connection_that_ends_its_run_when_it_is_asked(cy: Any, run: Any) -> None:
    """`next_message()` of a scope's connection has deleted the instance: `receive()` gives what comes after the end."""

    async def main() -> None:
        class Connection:
            def next_message(self) -> Any:
                server.application_instances.pop("id", None)
                instance._finish(asyncio.CancelledError(), None)

            def last_message(self) -> Any:
                return {"type": "gone"}

        class Scope(dict[str, Any]):
            connection = Connection()

        got = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            got.append(await receive())

        server = quiet(cy.StatelessServer)(application)
        instance = make(server, "id", Scope(type="test"))
        instance.connect(False)
        await passes(5)
        instance["future"].cancel()
        await passes(5)
        await still_works(server)

    run(main())
    collect()
