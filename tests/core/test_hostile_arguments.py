"""Hostile callers, who give the core's own methods whatever there is. The sanitizer runs these tests too: see
`.ci/run`."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import inspect
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from support.hostile import boom, collect, often as often, still_works
from support.instances import SCOPE, make
from support.loops import passes
from support.serving import eventually, quiet, reader


def core() -> Any:
    """What the package has chosen as its core."""
    return importlib.import_module("cyasgi.core")


@pytest.mark.slow
@pytest.mark.parametrize("caller", ["mock", "class", "object", "none", "number"])
def test_get_or_create_of_what_is_no_server(cy: Any, caller: str) -> None:
    this: Any = {
        "mock": mock.Mock(spec=cy.StatelessServer),
        "class": cy.StatelessServer,
        "object": object(),
        "none": None,
        "number": 7,
    }[caller]
    with pytest.raises((TypeError, AttributeError)):
        cy.StatelessServer.get_or_create_application_instance(this, "id", SCOPE)


WRONG: tuple[Any, ...] = (None, 7, "text", object(), {}, (), [], 10**400, float("nan"), lambda *args: None, int)


def methods_of(thing: Any) -> list[str]:
    return [name for name in dir(type(thing)) if not name.startswith("__") and callable(getattr(type(thing), name))]


@pytest.mark.parametrize("kind", ["table", "instance", "foreign", "setting", "life", "pass", "bare", "run", "receive"])
def test_every_method_with_wrong_arguments(cy: Any, kind: str, often: Any) -> None:
    """Whatever is given to a method of the core, private or not, it raises or takes it; it does not crash."""

    async def main() -> None:
        # What such calls do to tasks is nobody's concern.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        twin = core()
        server = quiet(cy.StatelessServer)(reader)
        given: list[Any] = []

        async def giving(scope: Any, receive: Any, send: Any) -> None:
            given.append((receive, send))
            await receive()

        server.application = giving
        instance = make(server, "id")
        instance.put_nowait("message")
        await eventually(lambda: bool(given))
        things: dict[str, Callable[[], Any]] = {
            "table": lambda: server.application_instances,
            "instance": lambda: make(server, "other"),
            "foreign": lambda: twin.ForeignEntry("foreign", {}),
            "setting": lambda: twin.Setting(1, lambda name, value: None),
            "life": lambda: server._cyasgi,
            "pass": lambda: twin.Pass(),
            # Made without its constructor, as pickle and copy do.
            "bare": lambda: twin.ApplicationInstance.__new__(twin.ApplicationInstance),
            "run": lambda: given[0][1],
            "receive": lambda: given[0][0],
        }
        for name in methods_of(things[kind]()):
            for count in range(4):
                for wrong in WRONG:
                    thing = things[kind]()
                    with contextlib.suppress(Exception, asyncio.CancelledError):
                        answer = getattr(thing, name)(*[wrong] * count)
                        if inspect.isawaitable(answer):
                            close(answer)
            await passes(1)

    asyncio.run(often(main()))
    collect()


def close(awaitable: Any) -> None:
    with contextlib.suppress(Exception, asyncio.CancelledError):
        awaitable.close()


@pytest.mark.parametrize("name", ["touch", "add", "remove", "keep", "victim", "_add_finished", "follow"])
@pytest.mark.parametrize("wrong", [None, 7, "text"])
def test_table_of_what_is_no_entry(cy: Any, name: str, wrong: Any) -> None:
    table = cy.StatelessServer(reader).application_instances
    arguments = (wrong, 0.0) if name == "keep" else (wrong,)
    if name == "victim":
        assert table.victim(wrong) is None
        return
    with pytest.raises((TypeError, AttributeError)):
        getattr(table, name)(*arguments)
    assert len(table) == 0


@pytest.mark.parametrize("name", ["touch", "remove", "keep", "_add_finished"])
def test_an_entry_that_is_in_no_table(cy: Any, run: Any, name: str) -> None:
    """It is not linked into the table, and nothing of the table is lost."""

    async def main() -> None:
        server = quiet(cy.StatelessServer)(reader)
        table = server.application_instances
        instance = make(server, "gone")
        table.remove(instance)
        kept = [make(server, scope_id) for scope_id in "abc"]
        arguments = (instance, 0.0) if name == "keep" else (instance,)
        getattr(table, name)(*arguments)
        getattr(table, name)(*arguments)
        del instance
        collect()
        assert list(table.values()) == kept
        assert table.finished_count() == 0

    run(main())


def test_an_entry_is_added_once(cy: Any, run: Any) -> None:
    async def main() -> None:
        server = quiet(cy.StatelessServer)(reader)
        other = quiet(cy.StatelessServer)(reader)
        table = server.application_instances
        first, second = make(server, "a"), make(server, "b")
        for refusing in (table, other.application_instances):
            with pytest.raises(ValueError, match="in a table already"):
                refusing.add(first)
        assert list(table.values()) == [first, second]
        assert len(other.application_instances) == 0

    run(main())


def test_copies_and_pickles(cy: Any, run: Any) -> None:
    """Of what belongs to a running task there are none."""

    async def main() -> None:
        twin = core()
        server = quiet(cy.StatelessServer)(reader)
        instance = make(server, "id")
        for thing in (instance, twin.ForeignEntry("id", {}), twin.Setting(1, boom)):
            for copying in (copy.copy, copy.deepcopy, pickle.dumps):
                with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
                    copying(thing)
        with pytest.raises(TypeError, match="cannot pickle or copy"):
            copy.copy(instance)
        await still_works(server)

    run(main())
