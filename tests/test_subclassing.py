"""Subclasses may do with the class whatever they can do with a plain Python class."""

from __future__ import annotations

import abc
import asyncio
import copy
import dataclasses
import gc
import inspect
import pickle
import sys
import threading
import typing
import weakref

import pytest
from conftest import passes
from serving import checking, eventually, fast, in_time, one_shot, quiet, reader


async def echo(scope, receive, send):
    """An application at module level, which can be pickled by its name."""
    while True:
        await send(await receive())


class Sending:
    """A mix-in with the methods that a server must have; it keeps what was sent."""

    application_checker_interval = 0.001

    async def application_send(self, scope, message):
        self.__dict__.setdefault("sent", []).append(message)

    async def handle(self):
        self.get_or_create_application_instance("a", {}).put_nowait("hello")
        await in_time(lambda: "sent" in self.__dict__)


async def works(server):
    """Goes once through all that a server does."""
    await server.arun()
    assert server.sent == ["hello"]
    del server.sent
    limit = server.max_applications
    server.max_applications = 2
    for name in "abc":
        server.get_or_create_application_instance(name, {}).put_nowait(name)
        await passes(5)
    assert len(server.application_instances) <= 3
    server.delete_application_instance("c")
    assert "c" not in server.application_instances
    server.max_applications = limit
    async with checking(server):
        server.application = one_shot
        server.get_or_create_application_instance("e", {}).put_nowait("e")
        await in_time(lambda: "e" not in server.application_instances)
    server.application = echo


# ------------------------------------------------------------------------------------------ signatures and attributes


def test_constructor_has_the_signature_of_the_reference(cy, reference):
    """The constructor takes what the reference's takes, by position and by keyword, with its defaults."""

    def described(cls):
        return [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(cls).parameters.values()
        ]

    assert described(cy.StatelessServer) == described(reference)
    server = cy.StatelessServer(max_applications=5, application=reader)
    assert (server.application, server.max_applications) == (reader, 5)
    assert cy.StatelessServer(reader).max_applications == 1000


METHODS = [
    "run",
    "arun",
    "handle",
    "application_send",
    "get_or_create_application_instance",
    "delete_oldest_application_instance",
    "delete_application_instance",
    "application_checker",
    "application_exception",
]


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_signatures_of_the_reference(cy, reference, name):
    """Each public method of the reference is there, with the same parameters, and is async where that one is."""
    ours, theirs = getattr(cy.StatelessServer, name), getattr(reference, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)


def test_class_attributes(cy):
    """The class attributes that tune a server are there, with their defaults."""
    cls = cy.StatelessServer
    assert cls.application_checker_interval == 0.1
    assert cls.idle_timeout is None
    assert cls.shutdown_timeout == 10.0
    assert cls.max_queue_size == 0
    server = cls(reader)
    assert server.application_checker_interval == 0.1
    assert server.idle_timeout is None
    assert server.shutdown_timeout == 10.0
    assert server.max_queue_size == 0


def test_class_attributes_in_a_body(cy, run):
    """A subclass's body, and its subclass's, tune the server; the class above keeps its own."""

    class Server(quiet(cy.StatelessServer)):
        idle_timeout = 5
        shutdown_timeout = 0.5
        max_queue_size = 2

    class Second(Server):
        max_queue_size = 1

    async def main():
        for cls, size in ((Server, 2), (Second, 1)):
            server = cls(reader)
            assert (server.idle_timeout, server.shutdown_timeout, server.max_queue_size) == (5, 0.5, size)
            assert cls.max_queue_size == size
            details = server.get_or_create_application_instance("a", {})
            for number in range(size):
                details.put_nowait(number)
            with pytest.raises(asyncio.QueueFull):
                details.put_nowait("one too many")
            assert details.maxsize == size
        assert cy.StatelessServer.max_queue_size == 0
        assert cy.StatelessServer.idle_timeout is None

    run(main())


def test_class_attributes_set_later(cy):
    """Setting one on the class after its creation tunes all instances that have none of their own."""

    class Server(cy.StatelessServer):
        pass

    server, other = Server(reader), Server(reader)
    other.idle_timeout = 7
    Server.idle_timeout = 5
    assert (server.idle_timeout, other.idle_timeout) == (5, 7)
    del other.idle_timeout
    assert other.idle_timeout == 5
    assert cy.StatelessServer.idle_timeout is None


def test_attributes_before_super_init(impl, run):
    """Attributes that a constructor sets before super().__init__() survive it."""

    class Server(Sending, impl.StatelessServer):
        def __init__(self, application):
            self.mine = "mine"
            self.application_checker_interval = 0.002
            self.idle_timeout = 50
            self.shutdown_timeout = 3
            self.max_queue_size = 10
            super().__init__(application, max_applications=7)

    async def main():
        server = Server(echo)
        assert server.mine == "mine"
        assert server.application_checker_interval == 0.002
        assert (server.idle_timeout, server.shutdown_timeout, server.max_queue_size) == (50, 3, 10)
        assert server.max_applications == 7
        await works(server)

    run(main())


def test_arbitrary_attributes(impl):
    """Any attribute can be set, read and deleted, and is in `__dict__`, as with a plain class."""
    server = impl.StatelessServer(reader)
    server.colour = "blue"
    assert vars(server)["colour"] == "blue"
    assert server.application is reader
    del server.colour
    with pytest.raises(AttributeError):
        _ = server.colour


def test_application_may_be_a_property(impl, run):
    """A subclass may make `application`, or `max_applications`, a property of its own."""

    class Server(Sending, impl.StatelessServer):
        limit = 100

        @property
        def application(self):
            return echo

        @application.setter
        def application(self, value):
            self.given = value

        @property
        def max_applications(self):
            return self.limit

        @max_applications.setter
        def max_applications(self, value):
            self.limit = value

    async def main():
        server = Server("not used", max_applications=50)
        assert (server.given, server.limit) == ("not used", 50)
        await server.arun()
        assert server.sent == ["hello"]

    run(main())


def test_application_may_be_a_method(impl, run):
    """The documented load balancer hands a method of its own to super().__init__()."""

    class Server(Sending, impl.StatelessServer):
        def __init__(self):
            super().__init__(self.dispatch)

        async def dispatch(self, scope, receive, send):
            await echo(scope, receive, send)

    async def main():
        server = Server()
        await server.arun()
        assert server.sent == ["hello"]

    run(main())


def test_any_method_may_be_overridden(impl, run):
    """Every method of the class can be overridden with a call of the one above, and the overrides are what is used."""
    called = set()

    class Server(fast(impl.StatelessServer)):
        async def arun(self):
            called.add("arun")
            await super().arun()

        async def handle(self):
            called.add("handle")
            self.get_or_create_application_instance("a", {}).put_nowait(1)
            await in_time(lambda: "application_exception" in called)
            for name in "bcd":
                self.get_or_create_application_instance(name, {})

        async def application_send(self, scope, message):
            called.add("application_send")

        def get_or_create_application_instance(self, scope_id, scope):
            called.add("get_or_create_application_instance")
            return super().get_or_create_application_instance(scope_id, scope)

        def delete_oldest_application_instance(self):
            called.add("delete_oldest_application_instance")
            return super().delete_oldest_application_instance()

        def delete_application_instance(self, scope_id):
            called.add("delete_application_instance")
            return super().delete_application_instance(scope_id)

        async def application_checker(self):
            called.add("application_checker")
            await super().application_checker()

        async def application_exception(self, exception, details):
            called.add("application_exception")

    async def application(scope, receive, send):
        await send(await receive())
        raise LookupError

    async def main():
        await Server(application, 1).arun()

    run(main())
    assert called == set(METHODS) - {"run"}


# ------------------------------------------------------------------------------------------ mix-ins


def mixed(cls, other, first):
    """A server class with another base beside cyasgi's, before or after it."""
    bases = (other, Sending, cls) if first else (Sending, cls, other)

    def construct(self, application, *arguments):
        other.__init__(self, *arguments)
        cls.__init__(self, application)

    return type("Server", bases, {"__init__": construct, "run": cls.run})


@pytest.mark.parametrize("first", [True, False])
def test_mixed_with_thread(impl, first):
    """A server that is a Thread runs in it: start(), join(), and what Thread keeps about itself."""
    server = mixed(impl.StatelessServer, threading.Thread, first)(echo)
    server.name = "serving"
    server.daemon = True
    server.start()
    server.join(20)
    assert not server.is_alive()
    assert server.sent == ["hello"]
    assert "serving" in repr(server)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("content", [{}, {"key": "value"}], ids=["empty", "full"])
def test_mixed_with_dict(impl, run, first, content):
    """A server that is a dict, unhashable and falsy when it is empty, works, and keeps its own items."""
    server = mixed(impl.StatelessServer, dict, first)(echo, content)

    async def main():
        await works(server)

    run(main())
    assert dict(server) == content
    assert bool(server) == bool(content)
    with pytest.raises(TypeError):
        hash(server)


@pytest.mark.parametrize("first", [True, False])
def test_mixed_with_exception(impl, run, first):
    """A server that is an Exception works, and can be raised."""
    Server = mixed(impl.StatelessServer, Exception, first)
    server = Server(echo, "too many")

    async def main():
        await works(server)

    run(main())
    with pytest.raises(Server) as caught:
        raise server
    assert caught.value is server


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", [asyncio.Protocol, threading.local, list, int, str], ids=lambda cls: cls.__name__)
def test_mixed_with_others(impl, run, first, other):
    """Other bases with a layout of their own can be mixed in, as with a plain Python class."""

    async def main():
        if other in (int, str):
            bases = (other, Sending, impl.StatelessServer) if first else (Sending, impl.StatelessServer, other)
            Server = type("Server", bases, {"__new__": lambda cls, application: other.__new__(cls)})
            server = Server.__new__(Server, echo)
            impl.StatelessServer.__init__(server, echo)
        else:
            server = mixed(impl.StatelessServer, other, first)(echo)
        await works(server)

    run(main())


def test_server_that_is_falsy_and_equal_to_everything(impl, run):
    """A subclass's own `__bool__`, `__eq__`, `__len__` and `__hash__` mislead nobody."""

    class Server(Sending, impl.StatelessServer):
        __hash__ = None

        def __bool__(self):
            return False

        def __len__(self):
            return 0

        def __eq__(self, other):
            return True

    async def main():
        await works(Server(echo))

    run(main())


# ------------------------------------------------------------------------------------------ slots, references, copies


def test_slots(impl, run):
    """A subclass may have `__slots__`, also with names that the class itself uses."""

    class Server(Sending, impl.StatelessServer):
        __slots__ = ("application", "extra")

        def __init__(self, application):
            self.extra = "extra"
            super().__init__(application)

    async def main():
        server = Server(echo)
        assert server.extra == "extra"
        assert server.application is echo
        assert "extra" not in vars(server)
        await works(server)

    run(main())


def test_weak_reference_dies_at_once(impl):
    """With the collector off, an unused server dies at `del`: it is part of no cycle."""
    gc.disable()
    try:
        server = impl.StatelessServer(reader)
        reference = weakref.ref(server)
        del server
        assert reference() is None
    finally:
        gc.enable()


def test_weak_reference_of_a_used_server_dies(cy, run):
    """A server that has run and ended can be collected: nothing keeps it."""

    class Server(Sending, cy.StatelessServer):
        pass

    async def main():
        server = Server(echo)
        await server.arun()
        return weakref.ref(server)

    reference = run(main())
    gc.collect()
    assert reference() is None


def test_weak_containers(impl):
    """Servers can be members of weak sets and keys of weak dictionaries."""
    server = impl.StatelessServer(reader)
    assert server in weakref.WeakSet([server])
    assert weakref.WeakKeyDictionary({server: 1})[server] == 1


@pytest.fixture
def named(impl, monkeypatch):
    """A subclass that can be found under its name in this module, as pickle needs it."""

    class Named(Sending, impl.StatelessServer):
        def __init__(self, application, max_applications=1000, colour=None):
            super().__init__(application, max_applications)
            self.colour = colour

    Named.__qualname__ = "Named"
    monkeypatch.setattr(sys.modules[__name__], "Named", Named, raising=False)
    return Named


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(named, run, protocol):
    """A server without instances can be pickled with every protocol; what comes back works."""
    server = named(echo, 50, "blue")
    server.application_checker_interval = 0.002
    back = pickle.loads(pickle.dumps(server, protocol))
    assert type(back) is named
    assert (back.application, back.max_applications, back.colour) == (echo, 50, "blue")
    assert back.application_checker_interval == 0.002
    assert len(back.application_instances) == 0

    async def main():
        await works(back)

    run(main())
    assert len(server.application_instances) == 0


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_copy(named, run, how):
    """A server can be copied, shallowly and deeply; the copy has its attributes and works."""
    server = named(echo, 50, ["blue"])
    again = how(server)
    assert type(again) is named
    assert (again.application, again.max_applications, again.colour) == (echo, 50, ["blue"])
    assert (again.colour is server.colour) == (how is copy.copy)

    async def main():
        await works(again)

    run(main())


def test_copy_sends_by_itself(named, run):
    """What a copy creates is sent by the copy, whoever was asked before it."""

    async def main():
        server = named(echo)
        again = copy.copy(server)
        for which, name in ((again, "of the copy"), (server, "of the original")):
            which.get_or_create_application_instance(name, {}).put_nowait(name)
        await eventually(lambda: "sent" in vars(server) and "sent" in vars(again))
        assert again.sent == ["of the copy"]
        assert server.sent == ["of the original"]

    run(main())


# ------------------------------------------------------------------------------------------ metaclasses and the like


def test_abstract_base_class(impl, run):
    """A subclass may have ABCMeta for a metaclass, with abstract methods."""

    class Abstract(Sending, impl.StatelessServer, metaclass=abc.ABCMeta):
        @abc.abstractmethod
        def colour(self):
            pass

    class Server(Abstract):
        def colour(self):
            return "blue"

    with pytest.raises(TypeError):
        Abstract(echo)

    async def main():
        await works(Server(echo))

    run(main())


def test_metaclass_of_ones_own(impl, run):
    """A metaclass of one's own may make singletons and watch attributes of the class."""

    class Meta(type):
        def __new__(mcs, name, bases, namespace, **options):
            cls = super().__new__(mcs, name, bases, namespace)
            cls.options = options
            return cls

        def __init__(cls, name, bases, namespace, **options):
            super().__init__(name, bases, namespace)
            cls.only = None

        def __call__(cls, *arguments):
            if cls.only is None:
                cls.only = super().__call__(*arguments)
            return cls.only

    class Server(Sending, impl.StatelessServer, metaclass=Meta, colour="blue"):
        pass

    async def main():
        server = Server(echo)
        assert Server(echo) is server
        assert Server.options == {"colour": "blue"}
        await works(server)

    run(main())


@pytest.mark.parametrize("first", [True, False])
def test_init_subclass_with_keywords(impl, first):
    """Another base's `__init_subclass__` gets its keywords, wherever it stands among the bases."""

    class Registered:
        registry = {}  # noqa: RUF012 - shared on purpose

        def __init_subclass__(cls, *, tag=None, **rest):
            super().__init_subclass__(**rest)
            cls.registry[tag] = cls

    bases = (Registered, impl.StatelessServer) if first else (impl.StatelessServer, Registered)
    Server = type("Server", bases, {}, tag="blue")
    assert Registered.registry == {"blue": Server}


def test_unknown_class_keyword_is_refused(impl):
    """A class keyword that nobody takes is the usual TypeError."""
    with pytest.raises(TypeError):
        type("Server", (impl.StatelessServer,), {}, colour="blue")


def test_generic(impl, run):
    """A subclass may be generic."""
    T = typing.TypeVar("T")

    class Server(Sending, impl.StatelessServer, typing.Generic[T]):
        pass

    async def main():
        await works(Server[int](echo))

    run(main())


def test_dataclass(impl, run):
    """A subclass may be a dataclass that calls super().__init__() in `__post_init__`."""

    @dataclasses.dataclass(eq=False)
    class Server(Sending, impl.StatelessServer):
        application: object
        colour: str = "blue"

        def __post_init__(self):
            super().__init__(self.application, 10)

    async def main():
        server = Server(echo)
        assert (server.colour, server.max_applications) == ("blue", 10)
        await works(server)

    run(main())


def test_class_may_be_reassigned(impl, run):
    """`__class__` of a server may be set to another subclass, as with plain Python classes."""

    class First(Sending, impl.StatelessServer):
        pass

    class Second(First):
        colour = "blue"

    async def main():
        server = First(echo)
        server.__class__ = Second
        assert server.colour == "blue"
        await works(server)

    run(main())


def test_methods_on_the_instance(impl, run):
    """A method that is replaced on one server alone is what that server uses."""
    sent = []

    async def application_send(scope, message):
        sent.append(message)

    async def main():
        server = fast(impl.StatelessServer)(echo)
        server.application_send = application_send
        server.get_or_create_application_instance("a", {}).put_nowait("hello")
        await eventually(lambda: sent == ["hello"])

    run(main())


def test_getattr_of_a_subclass(impl, run):
    """A subclass's `__getattr__` and `__setattr__` are called for what they are called for in a plain class."""
    asked = []

    class Server(Sending, impl.StatelessServer):
        def __getattr__(self, name):
            asked.append(name)
            raise AttributeError(name)

        def __setattr__(self, name, value):
            super().__setattr__(name, value)

    async def main():
        server = Server(echo)
        await works(server)
        assert getattr(server, "colour", None) is None
        assert asked[-1] == "colour"

    run(main())
