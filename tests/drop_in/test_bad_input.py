"""Wrong types and values are refused where they come in, with the value and what is accepted, and nothing changed."""

from __future__ import annotations

import asyncio
import enum
import math
import operator
import re
from collections.abc import MutableMapping

import pytest

from support.loops import passes
from support.serving import eventually, fast, in_time, one_shot, quiet, reader


class Size(enum.IntEnum):
    FIVE = 5


class Odd:
    def __repr__(self):
        return "<an odd thing>"


NAN, INFINITY = float("nan"), float("inf")

#: For each setting: values of a wrong type, values that are wrong, values that are right, and words for what is right.
SETTINGS = {
    "max_applications": (
        ["5", b"5", 5.0, 1.5, True, False, [5], (), {}, 1j, Odd(), object, NAN, INFINITY],
        [0, -1, -(10**30)],
        [1, 2, 1000, 10**30, Size.FIVE, None],
        ["1", "None"],
    ),
    "max_queue_size": (
        ["5", b"5", 5.0, True, False, None, [5], Odd(), NAN, INFINITY],
        [-1, -(10**30)],
        [0, 1, 10**30, Size.FIVE],
        ["0"],
    ),
    "idle_timeout": (
        ["5", b"5", [5], (), 1j, Odd(), object],
        [0, 0.0, -0.0, -1, -0.5, NAN, -INFINITY],
        [1, 0.001, 1e-300, 1e300, 10**30, Size.FIVE, None],
        ["0", "None"],
    ),
    "shutdown_timeout": (
        ["5", b"5", None, [5], 1j, Odd(), object],
        [-1, -0.001, NAN, -INFINITY, INFINITY],
        [0, 0.0, 1, 0.5, 1e300, 10**30, Size.FIVE],
        ["0"],
    ),
}

WRONG = [
    pytest.param(name, value, error, id=f"{name}={value!r}")
    for name, (types, values, _, _) in SETTINGS.items()
    for error, wrong in ((TypeError, types), (ValueError, values))
    for value in wrong
]
RIGHT = [
    pytest.param(name, value, id=f"{name}={value!r}")
    for name, (_, _, values, _) in SETTINGS.items()
    for value in values
]
WRONG_LIMITS = [
    pytest.param(*param.values[1:], id=repr(param.values[1]))
    for param in WRONG
    if param.values[0] == "max_applications"
]
BY = {
    "position": lambda cls, value: cls(reader, value),
    "keyword": lambda cls, value: cls(reader, max_applications=value),
}


def check_message(name, value, error):
    """The message names the attribute, shows the value and says what is accepted."""
    text = str(error)
    assert name in text
    assert repr(value) in text
    rest = text.replace(name, "").replace(repr(value), "", 1)
    for word in SETTINGS[name][3]:
        assert word in rest, text
    assert re.search(r"accept|must|expected", rest), text


# ------------------------------------------------------------------------------------------ settings of a server


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_wrong_setting_on_a_server(cy, name, value, error):
    """A wrong value is refused when it is set on a server, which keeps the value that it had."""
    server = cy.StatelessServer(reader)
    before = getattr(server, name)
    with pytest.raises(error) as caught:
        setattr(server, name, value)
    check_message(name, value, caught.value)
    assert getattr(server, name) == before


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_wrong_setting_in_a_class_body(cy, name, value, error):
    """A wrong value is refused in the body of a subclass, by the class statement."""
    with pytest.raises(error) as caught:
        type("Server", (cy.StatelessServer,), {name: value})
    check_message(name, value, caught.value)


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_wrong_setting_on_a_tuned_subclass(cy, name, value, error):
    """A subclass whose body sets the attribute refuses wrong values on its instances as well."""
    right = SETTINGS[name][2][0]
    Server = type("Server", (cy.StatelessServer,), {name: right})
    Second = type("Second", (Server,), {})
    server = Second(reader)
    with pytest.raises(error) as caught:
        setattr(server, name, value)
    check_message(name, value, caught.value)


@pytest.mark.parametrize(("value", "error"), WRONG_LIMITS)
@pytest.mark.parametrize("by", BY)
def test_wrong_max_applications_for_the_constructor(cy, value, error, by):
    """The constructor refuses a wrong limit, before the first message comes."""
    with pytest.raises(error) as caught:
        BY[by](cy.StatelessServer, value)
    check_message("max_applications", value, caught.value)


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_right_settings(cy, run, name, value):
    """Every value that is accepted is accepted everywhere, reads back as it was given, and does not break a server."""

    class Base(fast(cy.StatelessServer)):
        async def handle(self):
            for scope_id in "ab":
                details = self.get_or_create_application_instance(scope_id, {})
                details.put_nowait(1)
                await in_time(lambda scope_id=scope_id: scope_id not in self.application_instances)

    async def main():
        server = Base(one_shot)
        setattr(server, name, value)
        assert getattr(server, name) is value
        await server.arun()
        Server = type("Server", (Base,), {name: value})
        assert getattr(Server, name) is value
        server = Server(one_shot)
        if name == "max_applications":
            server = Server(one_shot, value)
        assert getattr(server, name) is value
        await server.arun()

    run(main())


def test_a_refused_setting_changes_nothing(cy, run):
    """After a refused assignment the server works on with the old value."""

    async def main():
        server = quiet(cy.StatelessServer)(reader, 2)
        for value in (0, -1, "5", 1.5):
            with pytest.raises((TypeError, ValueError)):
                server.max_applications = value
            for name in "abcd":
                server.get_or_create_application_instance(name, {})
            assert list(server.application_instances) == ["c", "d"]

    run(main())


def test_properties_in_a_class_body(cy):
    """A property in a class body is the subclass's own affair: it is not refused, and what it gives is used."""

    class Server(cy.StatelessServer):
        @property
        def idle_timeout(self):
            return 5

        @property
        def max_queue_size(self):
            return 3

    server = Server(reader)
    assert (server.idle_timeout, server.max_queue_size) == (5, 3)


@pytest.mark.parametrize("value", [None, "x", 0, -1, NAN, INFINITY, Odd()], ids=repr)
def test_interval_is_never_refused(cy, value):
    """`application_checker_interval` takes anything, in a class body and on a server; it is clamped when it is used."""
    Server = type("Server", (cy.StatelessServer,), {"application_checker_interval": value})
    server = Server(reader)
    assert server.application_checker_interval is value
    other = cy.StatelessServer(reader)
    other.application_checker_interval = value
    assert other.application_checker_interval is value


def test_reference_takes_anything(reference, run):
    """The reference takes any limit, and fails at the first message, or never."""

    async def main():
        for value, error in ((None, TypeError), ("5", TypeError), (-1, ValueError)):
            server = quiet(reference)(reader, value)
            with pytest.raises(error):
                server.get_or_create_application_instance("a", {})
        server = quiet(reference)(reader, 0)
        server.get_or_create_application_instance("a", {})
        assert len(server.application_instances) == 1

    run(main())


# ------------------------------------------------------------------------------------------ applications


APPLICATIONS = [None, 5, "app", Odd()]


@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_what_is_no_application(cy, run, application):
    """What is not callable is a TypeError that shows it, before anybody is evicted for it."""

    async def main():
        server = quiet(cy.StatelessServer)(reader, 1)
        kept = server.get_or_create_application_instance("a", {})
        await passes(5)
        server.application = application
        with pytest.raises(TypeError) as caught:
            server.get_or_create_application_instance("b", {})
        assert repr(application) in str(caught.value)
        await passes(5)
        assert list(server.application_instances) == ["a"]
        assert not kept["future"].done()
        server.application = reader
        server.get_or_create_application_instance("b", {})

    run(main())


def test_application_is_required(cy):
    """A server without an application, or with too many arguments, is a TypeError."""
    with pytest.raises(TypeError):
        cy.StatelessServer()
    with pytest.raises(TypeError):
        cy.StatelessServer(reader, 5, 6)
    with pytest.raises(TypeError):
        cy.StatelessServer(reader, limit=5)


# ------------------------------------------------------------------------------------------ ids and calls


@pytest.mark.parametrize("scope_id", [[], {}, set(), bytearray(b"a"), ([],)], ids=repr)
def test_unhashable_ids(cy, run, scope_id):
    """An unhashable id is a TypeError for every method that takes one, with nothing touched."""

    async def main():
        server = quiet(cy.StatelessServer)(reader, 1)
        kept = server.get_or_create_application_instance("a", {})
        await passes(5)
        with pytest.raises(TypeError):
            server.get_or_create_application_instance(scope_id, {})
        with pytest.raises(TypeError):
            server.delete_application_instance(scope_id)
        with pytest.raises(TypeError):
            server.application_instances[scope_id]
        with pytest.raises(TypeError):
            _ = scope_id in server.application_instances
        await passes(5)
        assert server.application_instances["a"] is kept
        assert not kept["future"].done()
        assert server.stats()["created"] == 1

    run(main())


def test_ids_whose_hash_or_equality_raises(cy, run):
    """An id whose `__hash__` or `__eq__` raises gives that error to whoever used it, and harms nobody."""

    class Unhashable:
        def __hash__(self):
            raise LookupError("no hash today")

    class Incomparable:
        def __hash__(self):
            return hash("a")

        def __eq__(self, other):
            raise ZeroDivisionError("not to be compared")

    async def main():
        server = quiet(cy.StatelessServer)(reader, 5)
        kept = server.get_or_create_application_instance("a", {})
        with pytest.raises(LookupError):
            server.get_or_create_application_instance(Unhashable(), {})
        with pytest.raises(ZeroDivisionError):
            server.get_or_create_application_instance(Incomparable(), {})
        with pytest.raises(ZeroDivisionError):
            server.delete_application_instance(Incomparable())
        await passes(5)
        assert list(server.application_instances) == ["a"]
        assert server.get_or_create_application_instance("a", {}) is kept
        await server.delete_application_instance("a")

    run(main())


@pytest.mark.parametrize("scope_id", [None, 0, "", (), frozenset(), 1.5, NAN, Odd(), b"\0", ("127.0.0.1", 5)], ids=repr)
def test_any_hashable_id_will_do(cy, run, scope_id):
    """Any hashable id is taken, falsy ones and None too, and found again."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        details = server.get_or_create_application_instance(scope_id, {})
        assert server.get_or_create_application_instance(scope_id, {}) is details
        assert details.scope_id is scope_id
        assert await server.delete_application_instance(scope_id) is True

    run(main())


@pytest.mark.parametrize("scope", [None, 0, "", (), [], {}, Odd()], ids=repr)
def test_any_scope_will_do(cy, run, scope):
    """The scope is the application's affair: anything is handed through as it is."""
    seen = []

    async def application(scope, receive, send):
        seen.append(scope)

    async def main():
        server = quiet(cy.StatelessServer)(application)
        details = server.get_or_create_application_instance("a", scope)
        assert details["scope"] is scope
        await eventually(lambda: seen)
        assert seen[0] is scope

    run(main())


def test_wrong_numbers_of_arguments(cy, run):
    """Calls with missing or further arguments are the usual TypeErrors."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        for call in (
            lambda: server.get_or_create_application_instance(),
            lambda: server.get_or_create_application_instance("a"),
            lambda: server.get_or_create_application_instance("a", {}, 1),
            lambda: server.delete_application_instance(),
            lambda: server.delete_application_instance("a", "b"),
            lambda: server.delete_oldest_application_instance("a"),
            lambda: server.stats("live"),
            lambda: server.spawn(),
        ):
            with pytest.raises(TypeError):
                call()
        assert len(server.application_instances) == 0

    run(main())


def test_keyword_arguments(impl, run):
    """The parameters can be given by the names that they have in the reference."""

    async def main():
        server = quiet(impl.StatelessServer)(application=reader, max_applications=5)
        server.get_or_create_application_instance(scope_id="a", scope={})
        assert list(server.application_instances) == ["a"]
        server.delete_application_instance(scope_id="a")
        assert list(server.application_instances) == []

    run(main())


# ------------------------------------------------------------------------------------------ instances


FIXED = ["application", "future", "input_queue", "last_used", "scope"]


@pytest.fixture
def instance(cy):
    """An instance, made where no loop runs."""
    return quiet(cy.StatelessServer)(reader).get_or_create_application_instance("a", {"type": "test"})


@pytest.mark.parametrize("key", FIXED)
@pytest.mark.parametrize("take_out", [operator.delitem, MutableMapping.pop], ids=["del", "pop"])
def test_fixed_keys_stay(instance, key, take_out):
    """The keys that every instance has cannot be taken out of it: a TypeError names the key."""
    with pytest.raises(TypeError, match=key):
        take_out(instance, key)
    assert key in instance


@pytest.mark.parametrize("key", ["application", "future", "input_queue"])
def test_keys_that_cannot_be_assigned(instance, key):
    """`application`, `future` and `input_queue` cannot be assigned: a TypeError names the key."""
    with pytest.raises(TypeError, match=key):
        instance[key] = None
    with pytest.raises(TypeError, match=key):
        instance.update({key: None})
    assert instance[key] is not None


@pytest.mark.parametrize("name", ["application", "future", "input_queue", "scope_id"])
def test_attributes_that_cannot_be_assigned(instance, name):
    """What cannot be assigned as a key cannot be assigned as an attribute either."""
    with pytest.raises((AttributeError, TypeError), match=name):
        setattr(instance, name, None)


@pytest.mark.parametrize("value", ["5", None, [5], 1j, b"", Odd()], ids=repr)
@pytest.mark.parametrize("assign", [operator.setitem, setattr], ids=["item", "attribute"])
def test_last_used_of_a_wrong_type(instance, value, assign):
    """`last_used` must be a real number: a TypeError shows what it was, and the old one stays."""
    before = instance["last_used"]
    with pytest.raises(TypeError) as caught:
        assign(instance, "last_used", value)
    assert "last_used" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert instance["last_used"] == pytest.approx(before, abs=60)


@pytest.mark.parametrize("assign", [operator.setitem, setattr], ids=["item", "attribute"])
def test_last_used_that_is_not_a_number(instance, assign):
    """`last_used` cannot be NaN, by which nothing can be ordered: a ValueError."""
    with pytest.raises(ValueError, match="last_used"):
        assign(instance, "last_used", NAN)
    assert not math.isnan(instance["last_used"])


@pytest.mark.parametrize("value", [0, 5, -1.5, INFINITY, -INFINITY, 1e300, Size.FIVE], ids=repr)
def test_last_used_that_is_right(instance, value):
    """Any real number, the infinite ones too, can be assigned and reads back."""
    instance["last_used"] = value
    assert instance["last_used"] == value
    assert instance.last_used == value


def test_unknown_key(instance):
    """A key that is not there is a KeyError with the key; one of the caller's own can come and go."""
    with pytest.raises(KeyError) as caught:
        instance["colour"]
    assert caught.value.args == ("colour",)
    with pytest.raises(KeyError):
        del instance["colour"]
    instance["colour"] = "blue"
    assert instance["colour"] == "blue"
    del instance["colour"]
    assert "colour" not in instance


@pytest.mark.parametrize("key", [[], {}, set()], ids=repr)
def test_unhashable_key(instance, key):
    """An unhashable key is no key of the mapping, and cannot become one."""
    with pytest.raises((KeyError, TypeError)):
        instance[key]
    with pytest.raises(TypeError):
        instance[key] = 1


def test_queue_errors(cy, run):
    """The queue's errors are asyncio's: QueueEmpty, QueueFull, and ValueError for one task_done() too many."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        server.max_queue_size = 1
        details = server.get_or_create_application_instance("a", {})
        with pytest.raises(asyncio.QueueEmpty):
            details.get_nowait()
        details.put_nowait(1)
        with pytest.raises(asyncio.QueueFull):
            details.put_nowait(2)
        details.get_nowait()
        details.task_done()
        with pytest.raises(ValueError, match="task_done"):
            details.task_done()

    run(main())


def test_changed_queue_size_is_for_new_instances(cy, run):
    """A new `max_queue_size` is for instances made from then on; those that are there keep theirs."""

    async def main():
        server = quiet(cy.StatelessServer)(reader)
        old = server.get_or_create_application_instance("a", {})
        server.max_queue_size = 2
        new = server.get_or_create_application_instance("b", {})
        assert (old.maxsize, new.maxsize) == (0, 2)

    run(main())
