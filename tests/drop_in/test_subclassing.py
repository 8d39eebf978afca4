"""A subclass may set attributes and override methods as in a plain Python class, and finds what the reference has."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from support.serving import Sending, echo, fast, in_time, quiet, reader, works


@pytest.mark.slow
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

    servers = []

    async def main():
        for cls, size in ((Server, 2), (Second, 1)):
            # Kept until the loop has ended their applications.
            servers.append(server := cls(reader))
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
