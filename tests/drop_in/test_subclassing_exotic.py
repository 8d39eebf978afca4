"""Mix-ins, slots, weak references, pickles, copies and metaclasses: as with a plain Python class."""

from __future__ import annotations

import abc
import asyncio
import copy
import dataclasses
import gc
import pickle
import sys
import threading
import typing
import weakref

import pytest

from support.serving import Sending, echo, eventually, fast, reader, works

# ------------------------------------------------------------------------------------------ mix-ins


def mixed(cls, other, first):
    """A server class with another base beside cyasgi's, before or after it."""
    bases = (other, Sending, cls) if first else (Sending, cls, other)

    def construct(self, application, *arguments):
        other.__init__(self, *arguments)
        cls.__init__(self, application)

    return type("Server", bases, {"__init__": construct, "run": cls.run})


@pytest.mark.slow
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


def test_copy_shares_the_table(impl):
    """A shallow copy has the table of the original, whether or not that was used before."""

    async def application(scope, receive, send):
        raise AssertionError("never run")

    server = impl.StatelessServer(application)
    again = copy.copy(server)
    assert again.application_instances is server.application_instances


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
